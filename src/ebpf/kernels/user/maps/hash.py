"""Hashes, shared or per CPU, with or without eviction of what was not used for long."""

import errno
import os

from ebpf.kernels.user.maps.array import LARGEST_PER_CPU
from ebpf.kernels.user.maps.base import ENOTSUPP, FD_ACCESS, PROG_ACCESS, Keyed, Map, bad, round8
from ebpf.sys.calls import MapCreate
from ebpf.uapi import MapFlag

# Before each key: where the chain goes on, the hash, a version, marks.
_HEAD = 16
# Keys and values together fit into what the kernel's allocator gives in one piece, beside its own head of an element.
_LARGEST_ELEMENT = (1 << 22) - 48
_MOST_ELEMENTS = (1 << 31) - 2


def check_hash(call: MapCreate) -> None:
    """Refuse a hash without keys, values or elements, or with too many or too large ones."""
    if not call.key_size or not call.value_size or not call.max_entries:
        raise bad("key_size, value_size and max_entries must not be 0")
    if call.key_size + call.value_size >= _LARGEST_ELEMENT:
        raise bad(f"an element of {call.key_size + call.value_size} bytes", errno.E2BIG)
    if call.max_entries > _MOST_ELEMENTS:
        raise bad(f"{call.max_entries} elements", errno.E2BIG)


def build_hash(held: Map, entries: int, stored: int) -> None:
    """A hash's memory, for values of `stored` bytes. One element more than may be in it: a value that is written anew moves."""
    header = held.header
    header.max_entries = entries
    header.capacity = entries + 1
    header.elem_size = _HEAD + round8(held.spec.key_size) + stored
    header.buckets = 1 << max(entries - 1, 0).bit_length()
    header.seed = 0 if held.flags & MapFlag.ZERO_SEED else int.from_bytes(os.urandom(4), "little")
    data = held.region(header.elem_size * header.capacity)
    heads = held.region(4 * header.buckets)
    header.data, header.data_size = data.address, data.size
    header.meta, header.meta_size = heads.address, heads.size


class Hash(Keyed):
    """BPF_MAP_TYPE_HASH."""

    FLAGS = FD_ACCESS | PROG_ACCESS | MapFlag.NUMA_NODE | MapFlag.NO_PREALLOC | MapFlag.ZERO_SEED

    @classmethod
    def check(cls, call: MapCreate) -> None:
        """There are keys, values and elements, and not too many."""
        check_hash(call)

    def entries(self) -> int:
        """How many elements there may be."""
        return self.spec.max_entries

    def build(self) -> None:
        """Elements and the heads of their chains."""
        build_hash(self, self.entries(), round8(self.spec.value_size) * (self.cpus if self.per_cpu else 1))

    def _end(self) -> int:
        return int(self.header.buckets)

    def _most_now(self, place: int) -> int:
        # Others may add some until the lock is taken: then the batch ends early. With all of its room filled it is not copied.
        return min(max(int(self.header.count), 64), int(self.header.max_entries))

    def _rest(self, place: int, filled: bool) -> bytes:
        del filled
        return b"" if place >= self._end() else place.to_bytes(4, "little")

    def take(self, key: bytes, flags: int) -> bytes:
        """Look a key up and remove it, in one step."""
        return self.take_raw(key, flags)


class PerCpuHash(Hash):
    """BPF_MAP_TYPE_PERCPU_HASH."""

    FLAGS = FD_ACCESS | PROG_ACCESS | MapFlag.NO_PREALLOC | MapFlag.ZERO_SEED

    @classmethod
    def check(cls, call: MapCreate) -> None:
        """As a hash's; a CPU's value fits into one piece of per-CPU memory."""
        super().check(call)
        if round8(call.value_size) > LARGEST_PER_CPU:
            raise bad(f"a value of {call.value_size} bytes for each CPU", errno.E2BIG)


class _Evicting(Hash):
    """A hash in which, when it is full, what was not looked up lately makes room."""

    @classmethod
    def check(cls, call: MapCreate) -> None:
        """As a hash's; the elements that are evicted have to be there."""
        if call.flags & MapFlag.NO_PREALLOC:
            raise bad("an LRU map's elements are allocated beforehand", ENOTSUPP)
        super().check(call)

    def entries(self) -> int:
        """As many as were asked for, or more: lists of their own for each CPU (BPF_F_NO_COMMON_LRU) are equally long."""
        entries = self.spec.max_entries
        return -(-entries // self.cpus) * self.cpus if self.spec.flags & MapFlag.NO_COMMON_LRU else entries


class LruHash(_Evicting):
    """BPF_MAP_TYPE_LRU_HASH."""

    FLAGS = Hash.FLAGS | MapFlag.NO_COMMON_LRU


class LruPerCpuHash(_Evicting, PerCpuHash):
    """BPF_MAP_TYPE_LRU_PERCPU_HASH."""

    FLAGS = PerCpuHash.FLAGS | MapFlag.NO_COMMON_LRU
