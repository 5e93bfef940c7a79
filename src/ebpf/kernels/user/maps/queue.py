"""Maps without keys: queues, stacks, and bloom filters."""

import ctypes
import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, ClassVar

from ebpf.engine.runtime import library
from ebpf.errors import KernelError
from ebpf.kernels.user.maps.base import FD_ACCESS, PROG_ACCESS, Map, bad, round8
from ebpf.sys.calls import MapCreate
from ebpf.uapi import MapFlag, MapType

_LARGEST_VALUE = 1 << 22
_HASHES = 5
_MOST_BITS = 1 << 32


class Keyless(Map):
    """What is written is pushed, what is looked up is peeked at."""

    FLAGS = FD_ACCESS | PROG_ACCESS | MapFlag.NUMA_NODE

    @classmethod
    def check(cls, call: MapCreate) -> None:
        """No keys, but values and elements."""
        if call.key_size or not call.value_size or not call.max_entries:
            raise bad("key_size must be 0, value_size and max_entries must not")

    def lookup(self, key: bytes, flags: int, asked: bytes) -> bytes:
        """The value that a pop would give, or for a filter whether `asked` may be in it."""
        call = "map_lookup_elem"
        self.no_lock(flags, call)
        self.key(key, call)
        value = ctypes.create_string_buffer(asked, self.value_bytes)
        self.answer(library().rt_map_peek(self.address, value), call)
        return value.raw

    def update(self, key: bytes, value: bytes, flags: int) -> None:
        """Push a value."""
        call = "map_update_elem"
        self.key(key, call)
        self.answer(library().rt_map_push(self.address, self.value(value, call), flags), call)


class Queue(Keyless):
    """BPF_MAP_TYPE_QUEUE, BPF_MAP_TYPE_STACK."""

    NO_NEXT = NO_DELETE = errno.EINVAL

    @classmethod
    def check(cls, call: MapCreate) -> None:
        """Values of a size that the kernel copies."""
        super().check(call)
        if call.value_size > _LARGEST_VALUE:
            raise bad(f"a value of {call.value_size} bytes", errno.E2BIG)

    def build(self) -> None:
        """A ring of one slot more than there may be elements, and where it begins and ends."""
        self.header.elem_size = round8(self.spec.value_size)
        data = self.region(self.header.elem_size * (self.spec.max_entries + 1))
        place = self.region(8)
        self.header.data, self.header.data_size = data.address, data.size
        self.header.meta, self.header.meta_size = place.address, place.size

    def take(self, key: bytes, flags: int) -> bytes:
        """Pop a value."""
        call = "map_lookup_and_delete_elem"
        if flags:
            raise KernelError(errno.EINVAL, call, f"flags {flags:#x}")
        self.key(key, call)
        value = ctypes.create_string_buffer(self.value_bytes)
        self.answer(library().rt_map_pop(self.address, value), call)
        return value.raw

    def contents(self) -> dict[str, Any]:
        """All values, those that were pushed first in front; the map is empty then."""
        values = []
        with suppress(KernelError):
            while True:
                values.append(self.take(b"", 0))
        if self.type == MapType.STACK:
            values.reverse()
        return {"values": b"".join(values)}

    def fill(self, contents: Mapping[str, Any]) -> None:
        """Push them again."""
        values = contents["values"]
        for at in range(0, len(values), self.value_bytes):
            self.update(b"", values[at : at + self.value_bytes], 0)


class Bloom(Keyless):
    """BPF_MAP_TYPE_BLOOM_FILTER; the lowest 4 bits of map_extra say how many hash functions."""

    FLAGS = Keyless.FLAGS | MapFlag.ZERO_SEED
    NO_NEXT = NO_DELETE = errno.EOPNOTSUPP
    EXTRA: ClassVar[int] = 15

    @classmethod
    def check(cls, call: MapCreate) -> None:
        """No keys; nothing else in map_extra."""
        super().check(call)
        if call.map_extra & ~cls.EXTRA:
            raise bad("map_extra is the number of hash functions, 15 at most")

    def build(self) -> None:
        """Bits, a power of two: so many that of values never put in few seem to be there."""
        header = self.header
        header.buckets = self.spec.map_extra & self.EXTRA or _HASHES
        wanted = self.spec.max_entries * header.buckets * 7 // 5
        bits = min(1 << max(wanted - 1, 0).bit_length(), _MOST_BITS)
        header.seed = 0 if self.flags & MapFlag.ZERO_SEED else int.from_bytes(os.urandom(4), "little")
        header.data_size = max(bits // 8, 8)
        header.data = self.region(header.data_size).address

    def contents(self) -> dict[str, Any]:
        """The bits, and what the hashes began with."""
        return {"seed": int(self.header.seed), "bits": ctypes.string_at(self.data_address, self.header.data_size)}

    def fill(self, contents: Mapping[str, Any]) -> None:
        """Take them over."""
        if len(contents["bits"]) != self.header.data_size:
            raise bad("a filter of another size")
        self.header.seed = contents["seed"]
        ctypes.memmove(self.data_address, contents["bits"], self.header.data_size)
