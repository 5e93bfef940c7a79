"""A ring buffer's memory: Linux's pages (consumer, producer, data twice), and a private page before them."""

import os

from ebpf.errors import NotSupportedError
from ebpf.kernels.user.memory import forbid_writing, memory_file
from ebpf.sys.mapped import Stretch

_PAGE = 4096


class RingMemory:
    """Pages [private][consumer][producer][data][data again], in one stretch of addresses.

    The consumer's page is a file of its own, which clients may write; the file of the others they can only read.
    """

    def __init__(self, size: int) -> None:
        if not hasattr(os, "memfd_create") or not hasattr(os, "eventfd"):
            raise NotSupportedError("ring buffers", "this system has no memfd_create or eventfd")
        self.size = size
        self.event_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._consumer = memory_file("ringbuf", _PAGE)
        self._data = memory_file("ringbuf", _PAGE + size)
        self._stretch = Stretch(
            [
                (-1, 0, _PAGE, True),
                (self._consumer, 0, _PAGE, True),
                (self._data, 0, _PAGE + size, True),
                (self._data, _PAGE, size, True),
            ]
        )
        forbid_writing(self._data)
        self.data_address = self._stretch.address + 3 * _PAGE

    def view(self, length: int, offset: int) -> memoryview:
        """What Linux maps at an offset of the descriptor: 0 is the consumer's page, 4096 the producer's and the data, twice."""
        return self._stretch.view(_PAGE + offset, length)

    def files(self, length: int, offset: int) -> list[tuple[int, int, int, bool]] | None:
        """The same as pieces of files: (fd, offset, length, writable)."""
        if not offset:
            return [(self._consumer, 0, _PAGE, True)] if length == _PAGE else None
        if offset != _PAGE or length != _PAGE + 2 * self.size:
            return None
        return [(self._data, 0, _PAGE + self.size, False), (self._data, _PAGE, self.size, False)]

    def close(self) -> None:
        """Give the memory back. Idempotent."""
        if self._data >= 0:
            self._stretch.close()
            for fd in (self._data, self._consumer, self.event_fd):
                os.close(fd)
            self._data = -1
