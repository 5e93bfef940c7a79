"""Attaching programs: one file for each family of hooks."""

from typing import TYPE_CHECKING

from ebpf.attach.auto import by_section
from ebpf.attach.cgroup import cgroup
from ebpf.attach.link import Link
from ebpf.attach.netfilter import netfilter
from ebpf.attach.struct_ops import struct_ops
from ebpf.attach.tc import netkit, tc, tcx
from ebpf.attach.xdp import xdp
from ebpf.lazy import names

if TYPE_CHECKING:
    from ebpf.attach.iterator import IterLink, iterate
    from ebpf.attach.multi import kprobe_multi, uprobe_multi
    from ebpf.attach.perf import breakpoint, kprobe, ksyscall, perf_event, tracepoint, uprobe
    from ebpf.attach.raw import freplace, raw_tracepoint, trace
    from ebpf.attach.sockets import flow_dissector, reuseport, sk_lookup, socket_filter, sockmap
    from ebpf.attach.static_probes import usdt

__getattr__ = names(
    __name__,
    {
        "IterLink": "iterator",
        "iterate": "iterator",
        "kprobe_multi": "multi",
        "uprobe_multi": "multi",
        "usdt": "static_probes",
        "breakpoint": "perf",
        "kprobe": "perf",
        "ksyscall": "perf",
        "perf_event": "perf",
        "tracepoint": "perf",
        "uprobe": "perf",
        "freplace": "raw",
        "raw_tracepoint": "raw",
        "trace": "raw",
        "flow_dissector": "sockets",
        "reuseport": "sockets",
        "sk_lookup": "sockets",
        "socket_filter": "sockets",
        "sockmap": "sockets",
    },
)

__all__ = [
    "IterLink",
    "Link",
    "breakpoint",
    "by_section",
    "cgroup",
    "flow_dissector",
    "freplace",
    "iterate",
    "kprobe",
    "kprobe_multi",
    "ksyscall",
    "netfilter",
    "netkit",
    "perf_event",
    "raw_tracepoint",
    "reuseport",
    "sk_lookup",
    "socket_filter",
    "sockmap",
    "struct_ops",
    "tc",
    "tcx",
    "trace",
    "tracepoint",
    "uprobe",
    "uprobe_multi",
    "usdt",
    "xdp",
]
