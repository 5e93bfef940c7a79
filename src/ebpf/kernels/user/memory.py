"""Memory that maps live in: anonymous files where there are any, so that others can map them, else private pages."""

import ctypes
import mmap
import os

# fcntl(2): F_ADD_SEALS, and the seals.
_ADD_SEALS, _SHRINK, _GROW, _FUTURE_WRITE = 1033, 2, 4, 16


def memory_file(name: str, size: int) -> int:
    """A memory file of a size that nobody can change any more."""
    fd = os.memfd_create(f"ebpf:{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    _seal(fd, _SHRINK | _GROW)
    return fd


def forbid_writing(fd: int) -> None:
    """Let nobody map a memory file for writing from now on; what is mapped stays writable. Linux 5.1 and later."""
    _seal(fd, _FUTURE_WRITE)


def _seal(fd: int, seals: int) -> None:
    import fcntl

    try:
        fcntl.fcntl(fd, _ADD_SEALS, seals)
    except OSError:
        # An older kernel: the file is as it is.
        pass


class Region:
    """A piece of writable memory at a fixed address. `fd` is its file (-1: none)."""

    def __init__(self, size: int, name: str = "map") -> None:
        self.size = max((size + mmap.PAGESIZE - 1) // mmap.PAGESIZE * mmap.PAGESIZE, mmap.PAGESIZE)
        self.fd = -1
        if hasattr(os, "memfd_create"):
            self.fd = memory_file(name, self.size)
        self._map = mmap.mmap(self.fd, self.size) if self.fd >= 0 else mmap.mmap(-1, self.size)
        self.address = address_of(self._map)

    def view(self, length: int, offset: int = 0) -> memoryview:
        """A window into the memory, valid until close()."""
        return memoryview(self._map)[offset : offset + length]

    def forbid_writing(self) -> None:
        """Let nobody else who has the file write to it."""
        if self.fd >= 0:
            forbid_writing(self.fd)

    def close(self) -> None:
        """Give the memory back; views that are still held keep it. Idempotent."""
        try:
            self._map.close()
        except BufferError:
            # Somebody still looks at it: it goes with the last view.
            pass
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def address_of(memory: mmap.mmap) -> int:
    """Where a mapping lies."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
