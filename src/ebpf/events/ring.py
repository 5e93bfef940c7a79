"""Reading a BPF ring buffer, in Linux's page layout, from either kernel."""

import struct
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import islice

from ebpf.errors import UsageError
from ebpf.events.waiting import ready
from ebpf.object import Map
from ebpf.sys.kernel import Kernel

_PAGE = 4096
_BUSY, _DISCARD, _LENGTH = 1 << 31, 1 << 30, (1 << 30) - 1


class RingBuffer:
    """Records of a ring buffer map, in order. Close it, or use it in a with statement.

    An exception in a callback reaches the caller of poll(); the record counts as read.
    """

    def __init__(self, held: Map) -> None:
        self._kernel: Kernel = held.kernel
        self._fd = held.fd
        self._size = held.spec.max_entries
        self._consumer = self._kernel.mmap(held.fd, _PAGE, writable=True)
        self._producer = self._kernel.mmap(held.fd, _PAGE + 2 * self._size, writable=False, offset=_PAGE)
        self._data = self._producer.view[_PAGE:]
        self.read_count = 0

    @property
    def fd(self) -> int:
        """The kernel's descriptor to wait on."""
        return self._fd

    def records(self) -> Iterator[bytes]:
        """The records that there are now, without waiting."""
        consumer, producer = self._consumer.view, self._producer.view
        mask = self._size - 1
        (at,) = struct.unpack_from("<Q", consumer)
        while True:
            (end,) = struct.unpack_from("<Q", producer)
            if at >= end:
                return
            (length,) = struct.unpack_from("<I", self._data, at & mask)
            if length & _BUSY:
                # Reserved and not submitted yet: what follows waits for it.
                return
            size = length & _LENGTH
            start = (at & mask) + 8
            record = None if length & _DISCARD else bytes(self._data[start : start + size])
            at += (size + 8 + 7) // 8 * 8
            struct.pack_into("<Q", consumer, 0, at)
            if record is not None:
                self.read_count += 1
                yield record

    def poll(self, callback: Callable[[bytes], object], timeout_s: float | None = None) -> int:
        """Wait for records and give each to `callback`; returns how many (0: the time was over)."""
        count = 0
        for record in self.records():
            callback(record)
            count += 1
        if count:
            return count
        if self._kernel.wait([self._fd], timeout_s):
            for record in self.records():
                callback(record)
                count += 1
        return count

    def take(self, limit: int) -> list[bytes]:
        """Up to `limit` of the records that there are now, without waiting."""
        return list(islice(self.records(), limit))

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Records as they come, for ever, in asyncio."""
        while True:
            for record in self.records():
                yield record
            await ready(self._kernel, [self._fd])

    def __iter__(self) -> Iterator[bytes]:
        """Records as they come, for ever (a command's end is KeyboardInterrupt)."""
        while True:
            yield from self.records()
            self._kernel.wait([self._fd], None)

    def close(self) -> None:
        """Unmap the buffer. Idempotent."""
        self._data.release()
        self._consumer.close()
        self._producer.close()

    def __enter__(self) -> "RingBuffer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class UserRingBuffer:
    """The other direction: what is put in here, programs take out (bpf_user_ringbuf_drain). One writer. Close it."""

    def __init__(self, held: Map) -> None:
        self._size = held.spec.max_entries
        kernel: Kernel = held.kernel
        self._consumer = kernel.mmap(held.fd, _PAGE, writable=False)
        self._producer = kernel.mmap(held.fd, _PAGE + 2 * self._size, writable=True, offset=_PAGE)
        self._data = self._producer.view[_PAGE:]

    @property
    def free(self) -> int:
        """How many bytes are free; a record takes 8 more than its own, rounded up to 8."""
        (end,) = struct.unpack_from("<Q", self._producer.view)
        (begin,) = struct.unpack_from("<Q", self._consumer.view)
        return int(self._size - (end - begin))

    def put(self, record: bytes) -> bool:
        """Put a record in; False if there is no room now. Raises UsageError for one that never fits."""
        whole = (len(record) + 8 + 7) // 8 * 8
        if whole > self._size:
            raise UsageError(f"a record of {len(record)} bytes does not fit a ring of {self._size}")
        if whole > self.free:
            return False
        (end,) = struct.unpack_from("<Q", self._producer.view)
        at = end & (self._size - 1)
        self._data[at + 8 : at + 8 + len(record)] = record
        struct.pack_into("<II", self._data, at, len(record), 0)
        # The place of the end is written last: a program sees whole records only.
        struct.pack_into("<Q", self._producer.view, 0, end + whole)
        return True

    def close(self) -> None:
        """Unmap the buffer. Idempotent."""
        self._data.release()
        self._consumer.close()
        self._producer.close()

    def __enter__(self) -> "UserRingBuffer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
