"""Section names of an object and what they say of the programs in them. Source: libbpf's documented SEC() names.

`extra` says what may follow: "" nothing, "/" something after a slash (or nothing), as libbpf's `+`.
"""

from typing import Final, NamedTuple

from ebpf.uapi.bpf import AttachType, ProgType


class Section(NamedTuple):
    """A row: the name, the program type, the expected attach type, whether `/target` may follow, and load flags."""

    name: str
    type: ProgType
    attach: AttachType | None = None
    extra: bool = False
    sleepable: bool = False
    frags: bool = False


_T, _A = ProgType, AttachType
SECTIONS: Final = (
    Section("socket", _T.SOCKET_FILTER),
    Section("sk_reuseport/migrate", _T.SK_REUSEPORT, _A.SK_REUSEPORT_SELECT_OR_MIGRATE),
    Section("sk_reuseport", _T.SK_REUSEPORT, _A.SK_REUSEPORT_SELECT),
    Section("kprobe", _T.KPROBE, extra=True),
    Section("uprobe", _T.KPROBE, extra=True),
    Section("uprobe.s", _T.KPROBE, extra=True, sleepable=True),
    Section("kretprobe", _T.KPROBE, extra=True),
    Section("uretprobe", _T.KPROBE, extra=True),
    Section("uretprobe.s", _T.KPROBE, extra=True, sleepable=True),
    Section("kprobe.multi", _T.KPROBE, _A.TRACE_KPROBE_MULTI, extra=True),
    Section("kretprobe.multi", _T.KPROBE, _A.TRACE_KPROBE_MULTI, extra=True),
    Section("kprobe.session", _T.KPROBE, _A.TRACE_KPROBE_SESSION, extra=True),
    Section("uprobe.multi", _T.KPROBE, _A.TRACE_UPROBE_MULTI, extra=True),
    Section("uretprobe.multi", _T.KPROBE, _A.TRACE_UPROBE_MULTI, extra=True),
    Section("uprobe.session", _T.KPROBE, _A.TRACE_UPROBE_SESSION, extra=True),
    Section("uprobe.multi.s", _T.KPROBE, _A.TRACE_UPROBE_MULTI, extra=True, sleepable=True),
    Section("uretprobe.multi.s", _T.KPROBE, _A.TRACE_UPROBE_MULTI, extra=True, sleepable=True),
    Section("uprobe.session.s", _T.KPROBE, _A.TRACE_UPROBE_SESSION, extra=True, sleepable=True),
    Section("ksyscall", _T.KPROBE, extra=True),
    Section("kretsyscall", _T.KPROBE, extra=True),
    Section("usdt", _T.KPROBE, extra=True),
    Section("usdt.s", _T.KPROBE, extra=True, sleepable=True),
    Section("tc/ingress", _T.SCHED_CLS, _A.TCX_INGRESS),
    Section("tc/egress", _T.SCHED_CLS, _A.TCX_EGRESS),
    Section("tcx/ingress", _T.SCHED_CLS, _A.TCX_INGRESS),
    Section("tcx/egress", _T.SCHED_CLS, _A.TCX_EGRESS),
    Section("tc", _T.SCHED_CLS),
    Section("classifier", _T.SCHED_CLS),
    Section("action", _T.SCHED_ACT),
    Section("netkit/primary", _T.SCHED_CLS, _A.NETKIT_PRIMARY),
    Section("netkit/peer", _T.SCHED_CLS, _A.NETKIT_PEER),
    Section("tracepoint", _T.TRACEPOINT, extra=True),
    Section("tp", _T.TRACEPOINT, extra=True),
    Section("tracepoint.s", _T.TRACEPOINT, extra=True, sleepable=True),
    Section("tp.s", _T.TRACEPOINT, extra=True, sleepable=True),
    Section("raw_tracepoint", _T.RAW_TRACEPOINT, extra=True),
    Section("raw_tp", _T.RAW_TRACEPOINT, extra=True),
    Section("raw_tracepoint.s", _T.RAW_TRACEPOINT, extra=True, sleepable=True),
    Section("raw_tp.s", _T.RAW_TRACEPOINT, extra=True, sleepable=True),
    Section("raw_tracepoint.w", _T.RAW_TRACEPOINT_WRITABLE, extra=True),
    Section("raw_tp.w", _T.RAW_TRACEPOINT_WRITABLE, extra=True),
    Section("tp_btf", _T.TRACING, _A.TRACE_RAW_TP, extra=True),
    Section("tp_btf.s", _T.TRACING, _A.TRACE_RAW_TP, extra=True, sleepable=True),
    Section("fentry", _T.TRACING, _A.TRACE_FENTRY, extra=True),
    Section("fmod_ret", _T.TRACING, _A.MODIFY_RETURN, extra=True),
    Section("fexit", _T.TRACING, _A.TRACE_FEXIT, extra=True),
    Section("fentry.s", _T.TRACING, _A.TRACE_FENTRY, extra=True, sleepable=True),
    Section("fmod_ret.s", _T.TRACING, _A.MODIFY_RETURN, extra=True, sleepable=True),
    Section("fexit.s", _T.TRACING, _A.TRACE_FEXIT, extra=True, sleepable=True),
    Section("fsession", _T.TRACING, _A.TRACE_FSESSION, extra=True),
    Section("fsession.s", _T.TRACING, _A.TRACE_FSESSION, extra=True, sleepable=True),
    Section("fsession.multi", _T.TRACING, _A.TRACE_FSESSION_MULTI, extra=True),
    Section("fsession.multi.s", _T.TRACING, _A.TRACE_FSESSION_MULTI, extra=True, sleepable=True),
    Section("fentry.multi", _T.TRACING, _A.TRACE_FENTRY_MULTI, extra=True),
    Section("fexit.multi", _T.TRACING, _A.TRACE_FEXIT_MULTI, extra=True),
    Section("fentry.multi.s", _T.TRACING, _A.TRACE_FENTRY_MULTI, extra=True, sleepable=True),
    Section("fexit.multi.s", _T.TRACING, _A.TRACE_FEXIT_MULTI, extra=True, sleepable=True),
    Section("freplace", _T.EXT, extra=True),
    Section("lsm", _T.LSM, _A.LSM_MAC, extra=True),
    Section("lsm.s", _T.LSM, _A.LSM_MAC, extra=True, sleepable=True),
    Section("lsm_cgroup", _T.LSM, _A.LSM_CGROUP, extra=True),
    Section("iter", _T.TRACING, _A.TRACE_ITER, extra=True),
    Section("iter.s", _T.TRACING, _A.TRACE_ITER, extra=True, sleepable=True),
    Section("syscall", _T.SYSCALL, sleepable=True),
    Section("xdp.frags/devmap", _T.XDP, _A.XDP_DEVMAP, frags=True),
    Section("xdp/devmap", _T.XDP, _A.XDP_DEVMAP),
    Section("xdp.frags/cpumap", _T.XDP, _A.XDP_CPUMAP, frags=True),
    Section("xdp/cpumap", _T.XDP, _A.XDP_CPUMAP),
    Section("xdp.frags", _T.XDP, _A.XDP, frags=True),
    Section("xdp", _T.XDP, _A.XDP),
    Section("perf_event", _T.PERF_EVENT),
    Section("lwt_in", _T.LWT_IN),
    Section("lwt_out", _T.LWT_OUT),
    Section("lwt_xmit", _T.LWT_XMIT),
    Section("lwt_seg6local", _T.LWT_SEG6LOCAL),
    Section("sockops", _T.SOCK_OPS, _A.CGROUP_SOCK_OPS),
    Section("sk_skb/stream_parser", _T.SK_SKB, _A.SK_SKB_STREAM_PARSER),
    Section("sk_skb/stream_verdict", _T.SK_SKB, _A.SK_SKB_STREAM_VERDICT),
    Section("sk_skb/verdict", _T.SK_SKB, _A.SK_SKB_VERDICT),
    Section("sk_skb", _T.SK_SKB),
    Section("sk_msg", _T.SK_MSG, _A.SK_MSG_VERDICT),
    Section("lirc_mode2", _T.LIRC_MODE2, _A.LIRC_MODE2),
    Section("flow_dissector", _T.FLOW_DISSECTOR, _A.FLOW_DISSECTOR),
    Section("cgroup_skb/ingress", _T.CGROUP_SKB, _A.CGROUP_INET_INGRESS),
    Section("cgroup_skb/egress", _T.CGROUP_SKB, _A.CGROUP_INET_EGRESS),
    Section("cgroup/skb", _T.CGROUP_SKB),
    Section("cgroup/sock_create", _T.CGROUP_SOCK, _A.CGROUP_INET_SOCK_CREATE),
    Section("cgroup/sock_release", _T.CGROUP_SOCK, _A.CGROUP_INET_SOCK_RELEASE),
    Section("cgroup/sock", _T.CGROUP_SOCK, _A.CGROUP_INET_SOCK_CREATE),
    Section("cgroup/post_bind4", _T.CGROUP_SOCK, _A.CGROUP_INET4_POST_BIND),
    Section("cgroup/post_bind6", _T.CGROUP_SOCK, _A.CGROUP_INET6_POST_BIND),
    Section("cgroup/bind4", _T.CGROUP_SOCK_ADDR, _A.CGROUP_INET4_BIND),
    Section("cgroup/bind6", _T.CGROUP_SOCK_ADDR, _A.CGROUP_INET6_BIND),
    Section("cgroup/connect4", _T.CGROUP_SOCK_ADDR, _A.CGROUP_INET4_CONNECT),
    Section("cgroup/connect6", _T.CGROUP_SOCK_ADDR, _A.CGROUP_INET6_CONNECT),
    Section("cgroup/connect_unix", _T.CGROUP_SOCK_ADDR, _A.CGROUP_UNIX_CONNECT),
    Section("cgroup/sendmsg4", _T.CGROUP_SOCK_ADDR, _A.CGROUP_UDP4_SENDMSG),
    Section("cgroup/sendmsg6", _T.CGROUP_SOCK_ADDR, _A.CGROUP_UDP6_SENDMSG),
    Section("cgroup/sendmsg_unix", _T.CGROUP_SOCK_ADDR, _A.CGROUP_UNIX_SENDMSG),
    Section("cgroup/recvmsg4", _T.CGROUP_SOCK_ADDR, _A.CGROUP_UDP4_RECVMSG),
    Section("cgroup/recvmsg6", _T.CGROUP_SOCK_ADDR, _A.CGROUP_UDP6_RECVMSG),
    Section("cgroup/recvmsg_unix", _T.CGROUP_SOCK_ADDR, _A.CGROUP_UNIX_RECVMSG),
    Section("cgroup/getpeername4", _T.CGROUP_SOCK_ADDR, _A.CGROUP_INET4_GETPEERNAME),
    Section("cgroup/getpeername6", _T.CGROUP_SOCK_ADDR, _A.CGROUP_INET6_GETPEERNAME),
    Section("cgroup/getpeername_unix", _T.CGROUP_SOCK_ADDR, _A.CGROUP_UNIX_GETPEERNAME),
    Section("cgroup/getsockname4", _T.CGROUP_SOCK_ADDR, _A.CGROUP_INET4_GETSOCKNAME),
    Section("cgroup/getsockname6", _T.CGROUP_SOCK_ADDR, _A.CGROUP_INET6_GETSOCKNAME),
    Section("cgroup/getsockname_unix", _T.CGROUP_SOCK_ADDR, _A.CGROUP_UNIX_GETSOCKNAME),
    Section("cgroup/sysctl", _T.CGROUP_SYSCTL, _A.CGROUP_SYSCTL),
    Section("cgroup/getsockopt", _T.CGROUP_SOCKOPT, _A.CGROUP_GETSOCKOPT),
    Section("cgroup/setsockopt", _T.CGROUP_SOCKOPT, _A.CGROUP_SETSOCKOPT),
    Section("cgroup/dev", _T.CGROUP_DEVICE, _A.CGROUP_DEVICE),
    Section("struct_ops", _T.STRUCT_OPS, extra=True),
    Section("struct_ops.s", _T.STRUCT_OPS, extra=True, sleepable=True),
    Section("sk_lookup", _T.SK_LOOKUP, _A.SK_LOOKUP),
    Section("netfilter", _T.NETFILTER, _A.NETFILTER),
)
_BY_NAME: Final = {row.name: row for row in SECTIONS}


def section_row(name: str) -> tuple[Section, str] | None:
    """The row of a section name (without a leading `?`) and what follows its slash; None if it means nothing."""
    row = _BY_NAME.get(name)
    if row is not None:
        return row, ""
    for row in SECTIONS:
        if row.extra and name.startswith(row.name + "/"):
            return row, name[len(row.name) + 1 :]
    return None
