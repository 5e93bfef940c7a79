"""Reading perf buffers: one for each CPU, in Linux's page layout, from either kernel."""

import struct
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack
from itertools import islice

from ebpf.errors import UsageError
from ebpf.events.waiting import ready
from ebpf.object import Map
from ebpf.sys.kernel import Buffer, Kernel, PerfOutput

_PAGE = 4096
_HEAD, _TAIL = 1024, 1032
_LOST, _SAMPLE = 2, 9


class PerfBuffer:
    """The samples that programs give to a perf event array. Close it, or use it in a with statement. `lost` counts.

    `places` says under which index the buffer of which CPU goes ({cpu: index}); without it each CPU has its own number.
    """

    def __init__(self, held: Map, *, pages: int = 8, places: Mapping[int, int] | None = None) -> None:
        if pages < 1 or pages & (pages - 1):
            raise UsageError(f"a perf buffer has a power of two of pages, not {pages}")
        self._kernel: Kernel = held.kernel
        self._map = held
        self._size = pages * _PAGE
        self._rings: dict[int, tuple[int, Buffer]] = {}
        self._stack = ExitStack()
        self.lost = 0
        try:
            for cpu, index in (places or {cpu: cpu for cpu in range(held.kernel.possible_cpus)}).items():
                self._open(cpu, index)
        except BaseException:
            self.close()
            raise

    def _open(self, cpu: int, index: int) -> None:
        fd = self._kernel.perf_event_open(PerfOutput(), cpu=cpu)
        self._stack.callback(self._kernel.close, fd)
        buffer = self._kernel.mmap(fd, _PAGE + self._size, writable=True)
        self._stack.callback(buffer.close)
        key = struct.pack("<I", index)
        self._map.update(key, struct.pack("<I", fd))
        self._stack.callback(self._map.delete, key)
        self._kernel.perf_enable(fd)
        self._rings[cpu] = (fd, buffer)

    @property
    def fds(self) -> list[int]:
        """The kernel's descriptors to wait on."""
        return [fd for fd, _ in self._rings.values()]

    def records(self) -> Iterator[tuple[int, bytes | int]]:
        """What there is now: (cpu, sample's bytes), or (cpu, number of samples that were lost)."""
        for cpu, (_, buffer) in self._rings.items():
            view = buffer.view
            (tail,) = struct.unpack_from("<Q", view, _TAIL)
            (head,) = struct.unpack_from("<Q", view, _HEAD)
            while tail < head:
                kind, _, size = struct.unpack("<IHH", self._bytes(view, tail, 8))
                body = self._bytes(view, tail + 8, size - 8)
                tail += size
                struct.pack_into("<Q", view, _TAIL, tail)
                if kind == _SAMPLE:
                    (length,) = struct.unpack_from("<I", body)
                    yield cpu, body[4 : 4 + length]
                elif kind == _LOST:
                    (count,) = struct.unpack_from("<Q", body, 8)
                    self.lost += count
                    yield cpu, count

    def take(self, limit: int) -> list[tuple[int, bytes]]:
        """Up to `limit` of the samples that there are now, as (cpu, bytes), without waiting; losses only count."""
        return list(islice(((cpu, record) for cpu, record in self.records() if isinstance(record, bytes)), limit))

    async def __aiter__(self) -> AsyncIterator[tuple[int, bytes]]:
        """Samples as they come, as (cpu, bytes), for ever, in asyncio; losses count."""
        while True:
            for cpu, record in self.records():
                if isinstance(record, bytes):
                    yield cpu, record
            await ready(self._kernel, self.fds)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Samples as they come, as (cpu, bytes), for ever (a command's end is KeyboardInterrupt); losses count."""
        while True:
            for cpu, record in self.records():
                if isinstance(record, bytes):
                    yield cpu, record
            self._kernel.wait(self.fds, None)

    def _bytes(self, view: memoryview, at: int, size: int) -> bytes:
        start = at & (self._size - 1)
        first = bytes(view[_PAGE + start : _PAGE + min(start + size, self._size)])
        return first + bytes(view[_PAGE : _PAGE + size - len(first)]) if len(first) < size else first

    def poll(
        self,
        callback: Callable[[int, bytes], object],
        timeout_s: float | None = None,
        *,
        lost: Callable[[int, int], object] | None = None,
    ) -> int:
        """Wait for samples and give each to `callback(cpu, data)`; losses go to `lost(cpu, count)`. Returns how many samples."""
        count = self._give(callback, lost)
        if not count and self._kernel.wait(self.fds, timeout_s):
            count = self._give(callback, lost)
        return count

    def _give(self, callback: Callable[[int, bytes], object], lost: Callable[[int, int], object] | None) -> int:
        count = 0
        for cpu, record in self.records():
            if isinstance(record, int):
                if lost is not None:
                    lost(cpu, record)
                continue
            count += 1
            callback(cpu, record)
        return count

    def close(self) -> None:
        """Take the buffers out of the map and unmap them. Idempotent."""
        self._stack.close()
        self._rings.clear()

    def __enter__(self) -> "PerfBuffer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
