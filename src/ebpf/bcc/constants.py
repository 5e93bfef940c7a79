"""Numbers that scripts take from the BPF class."""

from ebpf.uapi import ProgType, XdpAction, XdpFlag


class Constants:
    """Program types, XDP verdicts and flags by BCC's names."""

    SOCKET_FILTER = int(ProgType.SOCKET_FILTER)
    KPROBE = int(ProgType.KPROBE)
    SCHED_CLS = int(ProgType.SCHED_CLS)
    SCHED_ACT = int(ProgType.SCHED_ACT)
    TRACEPOINT = int(ProgType.TRACEPOINT)
    XDP = int(ProgType.XDP)
    PERF_EVENT = int(ProgType.PERF_EVENT)
    RAW_TRACEPOINT = int(ProgType.RAW_TRACEPOINT)
    XDP_ABORTED = int(XdpAction.XDP_ABORTED)
    XDP_DROP = int(XdpAction.XDP_DROP)
    XDP_PASS = int(XdpAction.XDP_PASS)
    XDP_TX = int(XdpAction.XDP_TX)
    XDP_REDIRECT = int(XdpAction.XDP_REDIRECT)
    XDP_FLAGS_UPDATE_IF_NOEXIST = int(XdpFlag.UPDATE_IF_NOEXIST)
    XDP_FLAGS_SKB_MODE = int(XdpFlag.SKB_MODE)
    XDP_FLAGS_DRV_MODE = int(XdpFlag.DRV_MODE)
    XDP_FLAGS_HW_MODE = int(XdpFlag.HW_MODE)
    XDP_FLAGS_REPLACE = int(XdpFlag.REPLACE)
