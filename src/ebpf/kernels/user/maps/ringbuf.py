"""Ring buffers as maps: they have no elements, but memory that readers map."""

import errno

from ebpf.engine.runtime import library
from ebpf.errors import KernelError
from ebpf.kernels.user.maps.base import Map, bad
from ebpf.kernels.user.maps.ring import RingMemory
from ebpf.sys.calls import MapCreate
from ebpf.uapi import MapFlag

_PAGE = 4096


class Ringbuf(Map):
    """BPF_MAP_TYPE_RINGBUF."""

    FLAGS = MapFlag.NUMA_NODE
    MAPPABLE = True

    @classmethod
    def check(cls, call: MapCreate) -> None:
        """No keys and values; max_entries is the size."""
        size = call.max_entries
        if call.key_size or call.value_size or not size or size & (size - 1) or size % _PAGE:
            raise bad(f"a ring buffer's size is a power of two and of whole pages, not {size}")

    def build(self) -> None:
        """Linux's pages."""
        self.ring = RingMemory(self.spec.max_entries)
        self.header.data, self.header.data_size = self.ring.data_address, self.ring.size
        self.header.event_fd = self.ring.event_fd
        library().rt_ringbuf_init(self.address)

    def _permitted(self, length: int, offset: int, *, writable: bool) -> RingMemory:
        assert self.ring is not None
        if writable and (offset or length != _PAGE):
            raise KernelError(errno.EPERM, "mmap", "of a ring buffer only the consumer's page can be written")
        if offset + length > 2 * _PAGE + 2 * self.ring.size:
            raise KernelError(errno.EINVAL, "mmap", f"{length} bytes from {offset} are no part of a ring buffer")
        return self.ring

    def view(self, length: int, offset: int, *, writable: bool) -> memoryview:
        """The consumer's page, or the producer's and the data."""
        return self._permitted(length, offset, writable=writable).view(length, offset)

    def files(self, length: int, offset: int, *, writable: bool) -> list[tuple[int, int, int, bool]]:
        """The same as pieces of files."""
        pieces = self._permitted(length, offset, writable=writable and not offset).files(length, offset)
        if pieces is None:
            raise KernelError(errno.EINVAL, "mmap", f"{length} bytes from {offset} are no part of a ring buffer")
        return pieces
