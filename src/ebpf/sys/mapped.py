"""Memory that is mapped from files side by side: ring buffers have their data twice, so that no record is cut."""

import ctypes
import mmap
import os
from collections.abc import Sequence
from contextlib import suppress

from ebpf.errors import NotSupportedError

_FIXED, _FIXED_NOREPLACE = 0x10, 0x100000
_FAILED = ctypes.c_void_p(-1).value


class Stretch:
    """One stretch of addresses, made of pieces of files: (fd, offset, length, writable), fd -1 for memory of no file.

    With `at` it begins there, where nothing else may be.
    """

    def __init__(self, pieces: Sequence[tuple[int, int, int, bool]], at: int = 0) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
        libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        self._libc = libc
        self.size = sum(length for _, _, length, _ in pieces)
        self._closed = False
        base = libc.mmap(at or None, self.size, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | (_FIXED_NOREPLACE if at else 0), -1, 0)
        if base in (None, _FAILED):
            raise NotSupportedError("mapped memory", os.strerror(ctypes.get_errno()).lower())
        self.address: int = base
        at = base
        for fd, offset, length, writable in pieces:
            access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
            kind = mmap.MAP_SHARED if fd >= 0 else mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            if libc.mmap(at, length, access, kind | _FIXED, fd, offset) != at:
                why = os.strerror(ctypes.get_errno()).lower()
                self.close()
                raise NotSupportedError("mapped memory", why)
            at += length

    def view(self, offset: int, length: int) -> memoryview:
        """A window into the stretch: not to be used after close()."""
        return memoryview((ctypes.c_char * length).from_address(self.address + offset)).cast("B")

    def close(self) -> None:
        """Unmap. Idempotent."""
        if not self._closed:
            self._closed = True
            self._libc.munmap(self.address, self.size)


class Mapped:
    """A stretch as the memory that mmap gives."""

    def __init__(self, stretch: Stretch, length: int) -> None:
        self._stretch = stretch
        self._view = stretch.view(0, length)

    @property
    def view(self) -> memoryview:
        """The memory."""
        return self._view

    def close(self) -> None:
        """Unmap it, unless somebody still looks at it."""
        with suppress(BufferError):
            self._view.release()
            self._stretch.close()
