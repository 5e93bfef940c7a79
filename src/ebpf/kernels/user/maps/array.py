"""Arrays, shared or per CPU."""

import errno

from ebpf.errors import KernelError
from ebpf.kernels.user.maps.base import FD_ACCESS, PROG_ACCESS, Keyed, bad, round8
from ebpf.sys.calls import Batch, MapCreate
from ebpf.uapi import MapFlag

#: What the kernel's allocator of per-CPU memory gives at most in one piece.
LARGEST_PER_CPU = 32768
_LARGEST_VALUE = (1 << 31) - 1
_PAGE = 4096


class Array(Keyed):
    """BPF_MAP_TYPE_ARRAY."""

    FLAGS = FD_ACCESS | PROG_ACCESS | MapFlag.NUMA_NODE | MapFlag.MMAPABLE | MapFlag.INNER_MAP
    MAPPABLE = True
    FIXED_AS_INNER = True
    FULL = "the index is past the end"

    @classmethod
    def check(cls, call: MapCreate) -> None:
        """Keys of 4 bytes, and something to keep."""
        if call.key_size != 4:
            raise bad(f"keys of an array have 4 bytes, not {call.key_size}")
        if not call.value_size or not call.max_entries:
            raise bad("value_size and max_entries must not be 0")
        if call.value_size > _LARGEST_VALUE:
            raise bad(f"a value of {call.value_size} bytes", errno.E2BIG)

    def build(self) -> None:
        """The elements, one after the other."""
        self.header.elem_size = round8(self.spec.value_size) * (self.cpus if self.per_cpu else 1)
        data = self.region(self.header.elem_size * self.spec.max_entries)
        self.header.data, self.header.data_size = data.address, data.size
        if self.flags & MapFlag.RDONLY_PROG:
            # The verifier may rely on what is in it, so a client that is given the file must not be able to write, whatever it tries.
            data.forbid_writing()

    def remove_many(self, keys: bytes, count: int, flags: int) -> int:
        """Elements of an array cannot be removed."""
        raise self.no("map_delete_batch")

    def batch(self, start: bytes, count: int, flags: int, *, take: bool) -> Batch:
        """Up to `count` elements from an index on."""
        if take:
            raise self.no("map_lookup_and_delete_batch")
        return super().batch(start, count, flags, take=False)

    def view(self, length: int, offset: int, *, writable: bool) -> memoryview:
        """The elements, if the map was made to be mapped."""
        if not self.flags & MapFlag.MMAPABLE:
            raise KernelError(errno.EINVAL, "mmap", "the map was not made with BPF_F_MMAPABLE")
        region = self._regions[0]
        if offset % _PAGE or offset + length > region.size or length <= 0:
            raise KernelError(errno.EINVAL, "mmap", f"{length} bytes from {offset}: the map has {region.size}")
        return region.view(length, offset)

    def files(self, length: int, offset: int, *, writable: bool) -> list[tuple[int, int, int, bool]]:
        """The same as a piece of a file."""
        self.view(length, offset, writable=writable).release()
        region = self._regions[0]
        if region.fd < 0:
            raise KernelError(errno.ENODEV, "mmap", "this system has no memory files")
        return [(region.fd, offset, length, writable)]


class PerCpuArray(Array):
    """BPF_MAP_TYPE_PERCPU_ARRAY."""

    FLAGS = FD_ACCESS | PROG_ACCESS
    MAPPABLE = False
    FIXED_AS_INNER = False

    @classmethod
    def check(cls, call: MapCreate) -> None:
        """As an array's; a CPU's value fits into one piece of per-CPU memory."""
        super().check(call)
        if round8(call.value_size) > LARGEST_PER_CPU:
            raise bad(f"a value of {call.value_size} bytes for each CPU", errno.E2BIG)
