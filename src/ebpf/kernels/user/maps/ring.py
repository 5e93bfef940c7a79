"""A ring buffer's memory: Linux's pages (consumer, producer, data twice), and a private page before them."""

import ctypes
import mmap
import os

from ebpf.errors import NotSupportedError

_PAGE = 4096


class RingMemory:
    """Pages [private][consumer][producer][data][data again], in one stretch of addresses."""

    def __init__(self, size: int) -> None:
        if not hasattr(os, "memfd_create") or not hasattr(os, "eventfd"):
            raise NotSupportedError("ring buffers", "this system has no memfd_create or eventfd")
        self.size = size
        whole = 3 * _PAGE + size
        self._fd = os.memfd_create("ebpf:ringbuf", os.MFD_CLOEXEC)
        os.ftruncate(self._fd, whole)
        self.event_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
        libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        self._libc = libc
        self._length = whole + size
        both = mmap.PROT_READ | mmap.PROT_WRITE
        base = libc.mmap(None, self._length, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        for at, offset, length in ((0, 0, whole), (whole, 3 * _PAGE, size)):
            got = libc.mmap(base + at, length, both, mmap.MAP_SHARED | 0x10, self._fd, offset)
            if got != base + at:
                raise NotSupportedError("ring buffers", os.strerror(ctypes.get_errno()).lower())
        self._base = base
        self.data_address = base + 3 * _PAGE

    def view(self, length: int, offset: int) -> memoryview:
        """What Linux maps at an offset of the descriptor: 0 is the consumer's page, 4096 the producer's and the data, twice."""
        window = (ctypes.c_char * length).from_address(self._base + _PAGE + offset)
        return memoryview(window).cast("B")

    def close(self) -> None:
        """Give the memory back. Idempotent."""
        if self._fd >= 0:
            self._libc.munmap(self._base, self._length)
            os.close(self._fd)
            os.close(self.event_fd)
            self._fd = -1
