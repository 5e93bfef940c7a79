"""Attaching programs: one file for each family of hooks."""

from ebpf.attach.auto import link_by_section
from ebpf.attach.link import Link
from ebpf.attach.perf import kprobe, tracepoint
from ebpf.attach.raw import raw_tracepoint
from ebpf.attach.xdp import xdp

__all__ = ["Link", "kprobe", "link_by_section", "raw_tracepoint", "tracepoint", "xdp"]
