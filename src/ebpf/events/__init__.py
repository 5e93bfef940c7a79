"""What programs say: ring buffers, perf buffers and the trace pipe, read through the seam."""

from ebpf.events.perf import PerfBuffer
from ebpf.events.ring import RingBuffer, UserRingBuffer
from ebpf.events.trace import TraceLine, TracePipe

__all__ = ["PerfBuffer", "RingBuffer", "TraceLine", "TracePipe", "UserRingBuffer"]
