"""The lines that bpf_trace_printk writes: one ring for the kernel, taken by one reader at a time."""

import ctypes
import errno
import os

from ebpf.engine.runtime import library
from ebpf.engine.runtime.abi import Trace
from ebpf.errors import KernelError
from ebpf.kernels.user.memory import Region
from ebpf.kernels.user.objects import Object

_SIZE = 1 << 20


class TraceRing:
    """The ring's memory. What was written before a reader opens it is kept, the newest megabyte of it."""

    def __init__(self) -> None:
        self._region = Region(ctypes.sizeof(Trace) + _SIZE, "trace")
        self.address = self._region.address
        self.header = Trace.from_address(self.address)
        self.header.size = _SIZE
        self.event_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) if hasattr(os, "eventfd") else -1
        self.header.event_fd = self.event_fd
        self.readers = 0

    def take(self) -> bytes:
        """All whole lines that there are, with a line in ftrace's words where some were lost."""
        out = ctypes.create_string_buffer(_SIZE)
        lost = ctypes.c_uint64()
        size = library().rt_trace_take(self.address, out, _SIZE, ctypes.byref(lost))
        notice = f"CPU:0 [LOST {lost.value} EVENTS]\n".encode() if lost.value else b""
        return notice + out.raw[:size]

    def close(self) -> None:
        """Give the memory back."""
        if self.event_fd >= 0:
            os.close(self.event_fd)
            self.event_fd = -1
        self._region.close()


class TraceReader(Object):
    """An open trace pipe."""

    def __init__(self, ring: TraceRing) -> None:
        super().__init__()
        if ring.readers:
            raise KernelError(errno.EBUSY, "open trace_pipe", "it is being read already")
        self._ring = ring
        self.event_fd = ring.event_fd
        ring.readers += 1

    def readable(self) -> bool:
        """Whether there are lines."""
        return bool(self._ring.header.head != self._ring.header.tail)

    def arm(self) -> None:
        """Have the next line wake us."""
        self._ring.header.waiting = 1

    def take(self) -> bytes:
        """The lines that there are."""
        return self._ring.take()

    def close(self) -> None:
        """Stop reading."""
        if self._ring.readers:
            self._ring.readers -= 1
