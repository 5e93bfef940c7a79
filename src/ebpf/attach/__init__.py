"""Attaching programs: one file for each family of hooks."""

from ebpf.attach.auto import by_section
from ebpf.attach.cgroup import cgroup
from ebpf.attach.iterator import IterLink, iterate
from ebpf.attach.link import Link
from ebpf.attach.multi import kprobe_multi, uprobe_multi
from ebpf.attach.netfilter import netfilter
from ebpf.attach.perf import breakpoint, kprobe, ksyscall, perf_event, tracepoint, uprobe
from ebpf.attach.raw import raw_tracepoint, trace
from ebpf.attach.sockets import flow_dissector, reuseport, sk_lookup, socket_filter, sockmap
from ebpf.attach.struct_ops import struct_ops
from ebpf.attach.tc import netkit, tc, tcx
from ebpf.attach.usdt import usdt
from ebpf.attach.xdp import xdp

__all__ = [
    "IterLink",
    "Link",
    "breakpoint",
    "by_section",
    "cgroup",
    "flow_dissector",
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
