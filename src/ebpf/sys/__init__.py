"""The seam: typed calls, the protocols of a kernel and its laboratory, captures, and the recorder."""

from typing import TYPE_CHECKING

from ebpf.lazy import names
from ebpf.sys.kernel import (
    Buffer,
    Command,
    Kernel,
    Kprobe,
    Lab,
    PerfOutput,
    PerfSource,
    Process,
    ReplayStats,
    Scope,
    Tracepoint,
    Uprobe,
    XdpState,
)

if TYPE_CHECKING:
    from ebpf.sys.capture import Capture, CaptureWriter, Packet
    from ebpf.sys.recorder import Recorder
    from ebpf.sys.scripted import Scripted

__getattr__ = names(
    __name__,
    {"Capture": "capture", "CaptureWriter": "capture", "Packet": "capture", "Recorder": "recorder", "Scripted": "scripted"},
)

__all__ = [
    "Buffer",
    "Capture",
    "CaptureWriter",
    "Command",
    "Kernel",
    "Kprobe",
    "Lab",
    "Packet",
    "PerfOutput",
    "PerfSource",
    "Process",
    "Recorder",
    "ReplayStats",
    "Scope",
    "Scripted",
    "Tracepoint",
    "Uprobe",
    "XdpState",
]
