"""The seam: typed calls, the protocols of a kernel and its laboratory, captures, and the recorder."""

from ebpf.sys.capture import Capture, CaptureWriter, Packet
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
from ebpf.sys.recorder import Recorder
from ebpf.sys.scripted import Scripted

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
