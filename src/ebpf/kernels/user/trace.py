"""The lines that bpf_trace_printk writes: one ring for the kernel, shared out among its readers."""

import ctypes
import os

from ebpf.engine.runtime import library
from ebpf.engine.runtime.abi import Trace
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
        self.readers: list[TraceReader] = []

    def waiting(self) -> bool:
        """Whether there are lines that no reader was given yet."""
        return bool(self.header.head != self.header.tail)

    def share(self) -> None:
        """Give every reader the lines that there are, with a line in ftrace's words where some were lost."""
        if not self.waiting():
            return
        out = ctypes.create_string_buffer(_SIZE)
        lost = ctypes.c_uint64()
        size = library().rt_trace_take(self.address, out, _SIZE, ctypes.byref(lost))
        notice = f"CPU:0 [LOST {lost.value} EVENTS]\n".encode() if lost.value else b""
        for reader in self.readers:
            reader.give(notice + out.raw[:size])

    def close(self) -> None:
        """Give the memory back."""
        if self.event_fd >= 0:
            os.close(self.event_fd)
            self.event_fd = -1
        self._region.close()


class TraceReader(Object):
    """An open trace pipe. Each reader gets every line."""

    def __init__(self, ring: TraceRing) -> None:
        super().__init__()
        self._ring = ring
        self._lines = b""
        self.event_fd = ring.event_fd
        # What is there already belongs to those who were here before, if there is anybody.
        if ring.readers:
            ring.share()
        ring.readers.append(self)

    def give(self, lines: bytes) -> None:
        """Keep lines for the next take(); the oldest go when there are too many."""
        self._lines += lines
        if len(self._lines) > _SIZE:
            self._lines = self._lines[-_SIZE:].partition(b"\n")[2]

    def readable(self) -> bool:
        """Whether there are lines."""
        return bool(self._lines) or self._ring.waiting()

    def arm(self) -> None:
        """Have the next line wake us."""
        self._ring.header.waiting = 1

    def take(self) -> bytes:
        """The lines that there are."""
        self._ring.share()
        lines, self._lines = self._lines, b""
        return lines

    def destroy(self) -> None:
        """Stop reading."""
        if self in self._ring.readers:
            self._ring.readers.remove(self)
