"""Maps of things that are no bytes: programs, maps, perf buffers, cgroups, interfaces.

An element is written by descriptor. The kernel says what a descriptor stands for, and keeps that while it is in a map.
"""

import ctypes
import errno
from abc import ABC, abstractmethod
from typing import ClassVar, Protocol

from ebpf.engine.program import MapDesc
from ebpf.engine.runtime import library
from ebpf.errors import KernelError
from ebpf.kernels.user.maps.base import ENOTSUPP, FD_ACCESS, PROG_ACCESS, Map, bad
from ebpf.kernels.user.maps.hash import build_hash, check_hash
from ebpf.sys.calls import Batch, MapCreate
from ebpf.uapi import MapFlag, UpdateFlag

_UPDATE, _DELETE = "map_update_elem", "map_delete_elem"


class Thing(Protocol):
    """What an element holds."""

    id: int


class Holding(Map, ABC):
    """A map of things. In memory an element is 8 bytes: the thing's address, or what stands for it; 0 for none."""

    #: What an element holds.
    HOLDS: ClassVar[str]
    #: Whether user space can look up which one it is, and whether it is done by batches too.
    TELLS: ClassVar[bool] = False
    BATCHES: ClassVar[bool] = False

    def __init__(self, call: MapCreate, cpus: int) -> None:
        self.things: dict[bytes, Thing] = {}
        #: Of a map of maps: what its inner maps have to be like.
        self.inner: Inner | None = None
        super().__init__(call, cpus)

    def inner_desc(self) -> MapDesc | None:
        """What inner maps are like."""
        return self.inner.desc if self.inner is not None else None

    @abstractmethod
    def may_put(self, key: bytes, flags: int) -> None:
        """Refuse an update before it is asked what the value stands for."""

    @abstractmethod
    def put(self, key: bytes, thing: Thing, cell: int) -> Thing | None:
        """Fill an element; the answer is what was there."""

    @abstractmethod
    def drop(self, key: bytes) -> Thing | None:
        """Empty an element; the answer is what was there."""

    def lookup(self, key: bytes, flags: int, asked: bytes) -> bytes:
        """The id of what an element holds."""
        self.no_lock(flags, "map_lookup_elem")
        self.key(key, "map_lookup_elem")
        if not self.TELLS:
            raise self.no("map_lookup_elem")
        thing = self.things.get(key)
        if thing is None:
            raise KernelError(errno.ENOENT, "map_lookup_elem")
        return thing.id.to_bytes(4, "little")

    def next_key(self, key: bytes | None) -> bytes:
        """The key after `key`."""
        return self.next_raw(key)

    def batch(self, start: bytes, count: int, flags: int, *, take: bool) -> Batch:
        """Up to `count` elements behind the key `start`."""
        if take or not self.BATCHES:
            raise self.no("map_lookup_and_delete_batch" if take else "map_lookup_batch")
        return self.walk_batch(start, count, flags)


class Slots(Holding):
    """An array of addresses."""

    @classmethod
    def check(cls, call: MapCreate) -> None:
        """Indices and descriptors have 4 bytes."""
        if call.key_size != 4 or call.value_size != 4 or not call.max_entries:
            raise bad("keys and values have 4 bytes, and there is at least one element")

    def build(self) -> None:
        """An address for each element."""
        data = self.region(8 * self.header.max_entries)
        self.header.elem_size = 8
        self.header.data, self.header.data_size = data.address, data.size

    def index(self, key: bytes, call: str, number: int = errno.E2BIG) -> int:
        """The index that a key is; an errno past the end."""
        index = int.from_bytes(self.key(key, call), "little")
        if index >= self.header.max_entries:
            raise KernelError(number, call, f"index {index}: the map has {self.header.max_entries}")
        return index

    def write(self, index: int, cell: int) -> None:
        """Set an element's 8 bytes, by one store."""
        ctypes.c_uint64.from_address(self.data_address + 8 * index).value = cell

    def may_put(self, key: bytes, flags: int) -> None:
        """Elements of an array are always there."""
        if flags:
            raise KernelError(errno.EINVAL, _UPDATE, f"flags {flags:#x}: elements of {self.kind} are always there")
        self.index(key, _UPDATE)

    def put(self, key: bytes, thing: Thing, cell: int) -> Thing | None:
        """Fill an element."""
        old = self.things.get(key)
        self.things[key] = thing
        self.write(self.index(key, _UPDATE), cell)
        return old

    def drop(self, key: bytes) -> Thing | None:
        """Empty an element. ENOENT if nothing is in it."""
        index = self.index(key, _DELETE)
        if key not in self.things:
            raise KernelError(errno.ENOENT, _DELETE, f"index {index} is empty")
        self.write(index, 0)
        return self.things.pop(key)


class HashedSlots(Holding):
    """A hash of addresses."""

    FLAGS = FD_ACCESS | PROG_ACCESS | MapFlag.NUMA_NODE | MapFlag.NO_PREALLOC | MapFlag.ZERO_SEED

    @classmethod
    def check(cls, call: MapCreate) -> None:
        """As a hash's; values are descriptors."""
        if call.value_size != 4:
            raise bad("values are descriptors, of 4 bytes")
        check_hash(call)

    def build(self) -> None:
        """A hash whose values are cells of 8 bytes."""
        self.header.value_size = 8
        build_hash(self, self.spec.max_entries, 8)

    def may_put(self, key: bytes, flags: int) -> None:
        """What a hash refuses."""
        self.key(key, _UPDATE)
        if flags > UpdateFlag.EXIST:
            raise KernelError(errno.EINVAL, _UPDATE, f"flags {flags:#x}")
        if flags == UpdateFlag.NOEXIST and key in self.things:
            raise KernelError(errno.EEXIST, _UPDATE)
        if flags == UpdateFlag.EXIST and key not in self.things:
            raise KernelError(errno.ENOENT, _UPDATE)

    def put(self, key: bytes, thing: Thing, cell: int) -> Thing | None:
        """Write an element."""
        self.answer(library().rt_map_put(self.address, key, cell.to_bytes(8, "little"), 0, 1, 0), _UPDATE)
        old = self.things.get(key)
        self.things[key] = thing
        return old

    def drop(self, key: bytes) -> Thing | None:
        """Remove an element."""
        self.remove_raw(self.key(key, "map_delete_elem"))
        return self.things.pop(key, None)


class PerfArray(Slots):
    """BPF_MAP_TYPE_PERF_EVENT_ARRAY."""

    FLAGS = Slots.FLAGS | MapFlag.PRESERVE_ELEMS
    HOLDS = "perf event"


class CgroupArray(Slots):
    """BPF_MAP_TYPE_CGROUP_ARRAY: a cell is the cgroup's id."""

    HOLDS = "cgroup"


class ProgArray(Slots):
    """BPF_MAP_TYPE_PROG_ARRAY: programs of one kind, that of the first program which had to do with the map."""

    HOLDS = "program"
    TELLS = True
    INNER = False

    def __init__(self, call: MapCreate, cpus: int) -> None:
        self._owner: tuple[int, int] | None = None
        super().__init__(call, cpus)

    @property
    def owner(self) -> int:
        """The type of its programs (0: none had to do with it yet)."""
        return self._owner[0] if self._owner is not None else 0

    def accepts(self, prog_type: int, attach_type: int) -> bool:
        """Whether a program of this kind may be in the map, or call into it; the first one decides."""
        if self._owner is None:
            self._owner = (prog_type, attach_type)
        return self._owner == (prog_type, attach_type)


class Inner:
    """What the inner maps of a map of maps have to be like: it outlives the map that it was taken from."""

    def __init__(self, template: Map) -> None:
        if isinstance(template, Holding) and template.HOLDS == "map":
            raise bad("maps of maps do not nest")
        if not template.INNER:
            raise bad(f"maps of type {template.kind} cannot be inner maps", ENOTSUPP)
        self._shape = _shape(template)
        self.spec = template.spec
        #: The inner map as programs see it.
        self.desc: MapDesc = template.describe(-1)

    def fits(self, other: Map) -> bool:
        """Whether a map is like it."""
        return _shape(other) == self._shape


def _shape(held: Map) -> tuple[int, ...]:
    entries = held.spec.max_entries if held.FIXED_AS_INNER and not held.flags & MapFlag.INNER_MAP else 0
    return (held.type, held.spec.key_size, held.spec.value_size, int(held.flags), entries)


class ArrayOfMaps(Slots):
    """BPF_MAP_TYPE_ARRAY_OF_MAPS."""

    HOLDS = "map"
    TELLS = BATCHES = True


class HashOfMaps(HashedSlots):
    """BPF_MAP_TYPE_HASH_OF_MAPS."""

    HOLDS = "map"
    TELLS = BATCHES = True


class _Devices(Holding):
    """A cell is an interface's index and a program's id; programs only read."""

    HOLDS = "interface"

    def __init__(self, call: MapCreate, cpus: int) -> None:
        super().__init__(call, cpus)
        self.flags |= MapFlag.RDONLY_PROG

    @classmethod
    def check(cls, call: MapCreate) -> None:
        """An index, or an index and a program."""
        if call.key_size != 4 or call.value_size not in (4, 8) or not call.max_entries:
            raise bad("keys have 4 bytes, values 4 or 8")

    def lookup(self, key: bytes, flags: int, asked: bytes) -> bytes:
        """The interface and program of an element."""
        return self.read_raw(self.key(key, "map_lookup_elem"), flags)


class Devmap(_Devices, Slots):
    """BPF_MAP_TYPE_DEVMAP. Interface 0 empties an element."""

    EMPTIES = True

    def may_put(self, key: bytes, flags: int) -> None:
        """Elements are always there, whatever is in them."""
        if flags > UpdateFlag.EXIST:
            raise KernelError(errno.EINVAL, _UPDATE, f"flags {flags:#x}")
        self.index(key, _UPDATE)
        if flags == UpdateFlag.NOEXIST:
            raise KernelError(errno.EEXIST, _UPDATE)

    def drop(self, key: bytes) -> Thing | None:
        """Empty an element, which may be empty already."""
        self.write(self.index(key, _DELETE, errno.EINVAL), 0)
        return self.things.pop(key, None)


class DevmapHash(_Devices, HashedSlots):
    """BPF_MAP_TYPE_DEVMAP_HASH."""

    FLAGS = Slots.FLAGS
    EMPTIES = False

    @classmethod
    def check(cls, call: MapCreate) -> None:
        """As a devmap's, and not too many."""
        _Devices.check(call)
        if call.max_entries > 1 << 31:
            raise bad(f"{call.max_entries} elements")

    def may_put(self, key: bytes, flags: int) -> None:
        """BPF_EXIST is not looked at, as on Linux."""
        super().may_put(key, flags if flags != UpdateFlag.EXIST else 0)
