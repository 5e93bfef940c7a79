"""What all types of map share: header, memory, and the commands, each refused unless a type has it."""

import ctypes
import errno
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from ebpf.engine.program import MapDesc
from ebpf.engine.runtime import library
from ebpf.engine.runtime.abi import MapHeader
from ebpf.engine.runtime.python import Room, close_finder, open_finder
from ebpf.errors import KernelError, NotSupportedError
from ebpf.kernels.user.maps.ring import RingMemory
from ebpf.kernels.user.memory import Region
from ebpf.sys.calls import Batch, MapCreate
from ebpf.uapi import MAP_TYPES, MapFlag, MapType, UpdateFlag

#: The kernel's own number for what a type of map does not do; user space has no name for it.
ENOTSUPP = 524
#: More than this no map is given: what is not touched costs nothing but addresses.
_LARGEST = 1 << 36
_PAGE = 4096
# How many elements are read at once where all are.
_PIECE = 4096
_LOCK = int(UpdateFlag.F_LOCK)
#: Types whose values may have a field of the kernel's.
_WITH_FIELD = {
    "bpf_spin_lock": (MapType.HASH, MapType.ARRAY, MapType.TASK_STORAGE, MapType.CGRP_STORAGE),
    "bpf_timer": (MapType.HASH, MapType.LRU_HASH, MapType.ARRAY),
}
PROG_ACCESS = MapFlag.RDONLY_PROG | MapFlag.WRONLY_PROG
#: Flags of the descriptor that MAP_CREATE answers with, not of the map.
FD_ACCESS = MapFlag.RDONLY | MapFlag.WRONLY


def round8(size: int) -> int:
    """The next multiple of 8."""
    return (size + 7) // 8 * 8


def bad(why: str, number: int = errno.EINVAL) -> KernelError:
    """What MAP_CREATE answers to a request that makes no sense."""
    return KernelError(number, "bpf(MAP_CREATE)", why)


class Map:
    """A map of the user kernel. `value_bytes` is what a look-up returns: all CPUs side by side for a per-CPU map.

    A type is a class: `FLAGS` are those that MAP_CREATE takes, `check` refuses other sizes, `build` makes the memory.
    Raises KernelError with Linux's errno for each misuse; whether the descriptor permits a command is asked before.
    """

    FLAGS: ClassVar[MapFlag] = FD_ACCESS | MapFlag.NUMA_NODE
    #: Whether it can be an inner map, and whether with its size alone.
    INNER: ClassVar[bool] = True
    FIXED_AS_INNER: ClassVar[bool] = False
    #: Whether clients may map it at all.
    MAPPABLE: ClassVar[bool] = False
    #: Whether keys are descriptors of the system's.
    BY_DESCRIPTOR: ClassVar[bool] = False
    #: What these commands are refused with where a type does not have them.
    NO_NEXT: ClassVar[int] = ENOTSUPP
    NO_DELETE: ClassVar[int] = ENOTSUPP
    #: What an update that finds no room is told.
    FULL: ClassVar[str] = "the map is full"

    def __init__(self, call: MapCreate, cpus: int) -> None:
        self.spec = call
        self.type = MapType(call.map_type)
        self.flags = MapFlag(call.flags) & ~FD_ACCESS
        self.frozen = False
        self.writable_views = 0
        self.header = MapHeader()
        self.cpus = cpus
        self.per_cpu = MAP_TYPES[self.type].per_cpu
        self.value_bytes = round8(call.value_size) * cpus if self.per_cpu else call.value_size
        self.ring: RingMemory | None = None
        self._regions: list[Region] = []
        self._finders: list[Callable[[Any], Any]] = []
        #: What runs its timers while somebody has it open.
        self.clock = 0
        header = self.header
        header.type, header.key_size, header.value_size = call.map_type, call.key_size, call.value_size
        header.max_entries, header.flags, header.ncpu = call.max_entries, self.flags, cpus
        header.event_fd = -1
        header.cpu_stride = round8(call.value_size) if self.per_cpu else 0
        self.build()
        self.memlock = sum(r.size for r in self._regions) or (self.ring.size if self.ring is not None else 0)

    @property
    def kind(self) -> str:
        """The type's name."""
        return MAP_TYPES[self.type].name

    @classmethod
    def check(cls, call: MapCreate) -> None:
        """Refuse what Linux refuses to make."""

    def build(self) -> None:
        """Make the memory."""

    def region(self, size: int) -> Region:
        """A piece of memory that goes with the map."""
        if size > _LARGEST:
            raise bad(f"{size} bytes are more than a map may have", errno.ENOMEM)
        try:
            region = Region(size, self.spec.name or "map")
        except (OSError, OverflowError) as error:
            raise bad(f"{size} bytes: {error}", errno.ENOMEM) from error
        self._regions.append(region)
        return region

    @property
    def max_entries(self) -> int:
        """How many elements there may be."""
        return int(self.header.max_entries)

    @property
    def address(self) -> int:
        """Where the header lies: what programs are given for this map."""
        return ctypes.addressof(self.header)

    @property
    def data_address(self) -> int:
        """Where the elements lie."""
        return self.header.data or 0

    def describe(self, fd: int) -> MapDesc:
        """The map as the engine sees it, under the descriptor that a program names."""
        spec = self.spec
        return MapDesc(
            fd,
            spec.map_type,
            spec.key_size,
            spec.value_size,
            self.max_entries,
            int(self.flags),
            spec.name,
            self.frozen,
            self.address,
            self.inner_desc(),
        )

    def inner_desc(self) -> MapDesc | None:
        """What inner maps are like, of a map of maps."""
        return None

    def set_fields(self, fields: Sequence[tuple[int, str, int]]) -> None:
        """Say which fields of the value are the kernel's: (offset, the struct's name or `kptr`, bytes). Refuses what is not built."""
        for offset, name, _ in fields:
            if name not in _WITH_FIELD:
                raise NotSupportedError(
                    f"map {self.spec.name!r}", f"{name} in a value is not built in the user kernel yet", hint="Run with --kernel linux"
                )
            if self.flags & PROG_ACCESS:
                raise bad(f"a map whose values have a {name} is read and written by programs", errno.EACCES)
            if self.type not in _WITH_FIELD[name]:
                raise bad(f"values of {self.kind} cannot have a {name}", errno.EOPNOTSUPP)
            place = "lock_at" if name == "bpf_spin_lock" else "timer_at"
            if getattr(self.header, place):
                raise bad(f"values have two {name}s")
            setattr(self.header, place, offset + 1)

    @property
    def has_fields(self) -> bool:
        """Whether something in its values is the kernel's."""
        return bool(self.header.lock_at or self.header.timer_at)

    def opened(self) -> None:
        """Somebody has the map open: it may have timers."""
        self.header.clock = self.clock or None

    def left(self) -> None:
        """Nobody has the map open any more: its timers go, and none of them runs when this returns."""
        clock, self.header.clock = self.header.clock, None
        if clock:
            library().rt_clock_leave(clock, self.address)

    # -- elements

    def no(self, call: str, number: int = ENOTSUPP) -> KernelError:
        """This type does not have a command."""
        return KernelError(number, call, f"{self.kind} maps do not have it")

    def key(self, key: bytes, call: str) -> bytes:
        """A key, which must have the map's size."""
        if len(key) != self.spec.key_size:
            raise KernelError(errno.EINVAL, call, f"the key has {len(key)} bytes, the map's have {self.spec.key_size}")
        return key

    def value(self, value: bytes, call: str) -> bytes:
        """A value, which must have the map's size."""
        if len(value) != self.value_bytes:
            raise KernelError(errno.EINVAL, call, f"the value has {len(value)} bytes, the map's have {self.value_bytes}")
        return value

    def no_lock(self, flags: int, call: str) -> None:
        """Refuse BPF_F_LOCK on a map without spin locks, and what is no flag of a look-up."""
        if flags and (flags != _LOCK or not self.header.lock_at):
            raise KernelError(errno.EINVAL, call, "the map's values have no bpf_spin_lock" if flags == _LOCK else f"flags {flags:#x}")

    def read_raw(self, key: bytes, flags: int) -> bytes:
        """The bytes that the runtime has under its own key."""
        call = "map_lookup_elem"
        self.no_lock(flags, call)
        out = ctypes.create_string_buffer(self.value_bytes)
        read = library().rt_map_read_locked if flags else library().rt_map_read
        self.answer(read(self.address, key, out, self.value_bytes), call)
        return out.raw

    def put_raw(self, key: bytes, value: bytes, flags: int) -> None:
        """Write a value under the runtime's key."""
        call = "map_update_elem"
        if flags & _LOCK:
            self.no_lock(_LOCK, call)
        result = library().rt_map_put(self.address, key, value, flags, 1, 0)
        self.answer(result, call, self.FULL if -result in (errno.E2BIG, errno.ENOSPC) else "")

    def remove_raw(self, key: bytes) -> None:
        """Remove what is under the runtime's key."""
        self.answer(library().rt_map_remove(self.address, key), "map_delete_elem")

    def take_raw(self, key: bytes, flags: int) -> bytes:
        """Remove what the runtime has under a key, and give it, in one step."""
        call = "map_lookup_and_delete_elem"
        self.no_lock(flags, call)
        out = ctypes.create_string_buffer(self.value_bytes)
        self.answer(library().rt_map_take(self.address, self.key(key, call), out, self.value_bytes), call)
        return out.raw

    def next_raw(self, key: bytes | None) -> bytes:
        """The runtime's key after `key`."""
        raw = self.key(key, "map_get_next_key") if key is not None else None
        out = ctypes.create_string_buffer(self.spec.key_size)
        self.answer(library().rt_map_next(self.address, raw, out), "map_get_next_key")
        return out.raw

    def walk_batch(self, start: bytes, count: int, flags: int) -> Batch:
        """Up to `count` elements behind the key `start`, one by one; keys that are empty are passed over."""
        self.no_lock(flags, "map_lookup_batch")
        keys, values, key, done = bytearray(), bytearray(), start or None, 0
        while done < count:
            try:
                key = self.next_key(key)
            except KernelError as error:
                if error.errno != errno.ENOENT:
                    raise
                return Batch(done, bytes(keys), bytes(values), b"")
            try:
                values += self.lookup(key, flags, b"")
            except KernelError as error:
                if error.errno != errno.ENOENT:
                    raise
                continue
            keys += key
            done += 1
        return Batch(count, bytes(keys), bytes(values), key or bytes(max(self.spec.key_size, 1)))

    def answer(self, result: int, call: str, why: str = "") -> None:
        """Raise what the runtime answered, if that is an errno."""
        if result:
            raise KernelError(-result, call, why)

    def lookup(self, key: bytes, flags: int, asked: bytes) -> bytes:
        """The value under a key (all CPUs' of a per-CPU map); `asked` is what a bloom filter is asked about."""
        raise self.no("map_lookup_elem")

    def update(self, key: bytes, value: bytes, flags: int) -> None:
        """Write a value under a key."""
        raise self.no("map_update_elem")

    def delete(self, key: bytes) -> None:
        """Remove a key."""
        self.key(key, "map_delete_elem")
        raise self.no("map_delete_elem", self.NO_DELETE)

    def take(self, key: bytes, flags: int) -> bytes:
        """Look a key up and remove it."""
        raise self.no("map_lookup_and_delete_elem")

    def next_key(self, key: bytes | None) -> bytes:
        """The key after `key`."""
        if key is not None:
            self.key(key, "map_get_next_key")
        raise self.no("map_get_next_key", self.NO_NEXT)

    def finder(self, key: str, value: str) -> Callable[[Any], Any] | None:
        """A function that looks keys up without a command; None for a map whose look-ups need one."""
        return None

    def batch(self, start: bytes, count: int, flags: int, *, take: bool) -> Batch:
        """Up to `count` elements from a place on; with `take` they are removed."""
        raise self.no("map_lookup_and_delete_batch" if take else "map_lookup_batch")

    def put_many(self, keys: bytes, values: bytes, count: int, flags: int) -> int:
        """Write elements that stand end to end."""
        raise self.no("map_update_batch")

    def remove_many(self, keys: bytes, count: int, flags: int) -> int:
        """Remove keys that stand end to end."""
        raise self.no("map_delete_batch")

    def freeze(self) -> None:
        """Forbid later writes from user space."""
        if self.writable_views:
            raise KernelError(errno.EBUSY, "bpf(MAP_FREEZE)", "the map is mapped for writing")
        self.frozen = True

    # -- everything at once, to be kept

    def contents(self) -> dict[str, Any]:
        """All that is in the map and can be in another one like it, as plain values; taking it may empty the map."""
        return {}

    def fill(self, contents: Mapping[str, Any]) -> None:
        """Put into a new map what another one gave as its contents. ValueError, TypeError or KernelError for anything else."""

    # -- memory that clients map

    def view(self, length: int, offset: int, *, writable: bool) -> memoryview:
        """The memory that a client may map."""
        raise self.no("mmap")

    def files(self, length: int, offset: int, *, writable: bool) -> list[tuple[int, int, int, bool]]:
        """The same memory as pieces of files, for a client to map: (fd, offset, length, writable)."""
        raise self.no("mmap")

    def close(self) -> None:
        """Give the memory back."""
        for finder in self._finders:
            close_finder(finder)
        self._finders.clear()
        for region in self._regions:
            region.close()
        self._regions.clear()
        if self.ring is not None:
            self.ring.close()


class Keyed(Map):
    """A map whose elements the runtime finds by key."""

    def lookup(self, key: bytes, flags: int, asked: bytes) -> bytes:
        """The value under a key."""
        return self.read_raw(self.key(key, "map_lookup_elem"), flags)

    def finder(self, key: str, value: str) -> Callable[[Any], Any] | None:
        """A function that looks keys up without a command. Raises ValueError for letters of other sizes than the map's."""
        for letter, size in ((key, self.spec.key_size), (value, self.value_bytes)):
            if letter and struct.calcsize(f"<{letter}") != size:
                raise ValueError(f"{letter!r} does not have {size} bytes")
        made = open_finder(self.address, self.value_bytes, key, value)
        if made is not None:
            self._finders.append(made)
        return made

    def update(self, key: bytes, value: bytes, flags: int) -> None:
        """Write a value under a key."""
        call = "map_update_elem"
        self.put_raw(self.key(key, call), self.value(value, call), flags)

    def delete(self, key: bytes) -> None:
        """Remove a key."""
        self.remove_raw(self.key(key, "map_delete_elem"))

    def next_key(self, key: bytes | None) -> bytes:
        """The key after `key`."""
        return self.next_raw(key)

    def _end(self) -> int:
        """One more than the last place of a batch."""
        return int(self.header.max_entries)

    def batch(self, start: bytes, count: int, flags: int, *, take: bool) -> Batch:
        """Up to `count` elements from a place on."""
        call = "map_lookup_batch"
        self.no_lock(flags, call)
        if flags and not take:
            # Each value under its own lock.
            return self.walk_batch(start, count, flags)
        if not count:
            return Batch(0, b"", b"", start or bytes(4))
        place = ctypes.c_uint32(int.from_bytes(start[:4], "little"))
        if start and place.value >= self._end():
            return Batch(0, b"", b"", b"")
        room = min(count, self._most_now(place.value))
        keys, values = Room(room * self.spec.key_size), Room(room * self.value_bytes)
        done = library().rt_map_batch(self.address, ctypes.byref(place), room, keys.address, values.address, self.value_bytes, take)
        if place.value < self._end() and not done:
            raise KernelError(errno.ENOSPC, call, "a bucket has more elements than were asked for")
        rest = self._rest(place.value, done == count)
        return Batch(done, keys.filled(done * self.spec.key_size), values.filled(done * self.value_bytes), rest)

    def _most_now(self, place: int) -> int:
        """How many elements a batch from a place on can have at the moment."""
        return max(int(self.header.max_entries) - place, 1)

    def _rest(self, place: int, filled: bool) -> bytes:
        """Where a batch goes on: nowhere once the end was seen."""
        return b"" if place >= self._end() and not filled else place.to_bytes(4, "little")

    def put_many(self, keys: bytes, values: bytes, count: int, flags: int) -> int:
        """Write elements that stand end to end."""
        call = "map_update_batch"
        self.no_lock(flags, call)
        if len(keys) != count * self.spec.key_size or len(values) != count * self.value_bytes:
            raise KernelError(errno.EINVAL, call, f"{len(keys)} bytes of keys and {len(values)} of values for {count} elements")
        done = ctypes.c_uint32()
        result = library().rt_map_put_many(self.address, keys, values, count, flags, self.value_bytes, ctypes.byref(done))
        if result:
            raise KernelError(-result, call, self.FULL if -result in (errno.E2BIG, errno.ENOSPC) else "", done=done.value)
        return count

    def contents(self) -> dict[str, Any]:
        """Keys and values, end to end."""
        keys, values, done, place, count = bytearray(), bytearray(), 0, b"", _PIECE
        while True:
            try:
                found = self.batch(place, count, 0, take=False)
            except KernelError as error:
                if error.errno != errno.ENOSPC or count > self.header.max_entries:
                    raise
                count *= 2
                continue
            keys += found.keys
            values += found.values
            done += found.count
            place = found.next
            if not place:
                return {"keys": bytes(keys), "values": bytes(values), "count": done}

    def fill(self, contents: Mapping[str, Any]) -> None:
        """Write them all."""
        if contents["count"]:
            self.put_many(contents["keys"], contents["values"], contents["count"], 0)

    def remove_many(self, keys: bytes, count: int, flags: int) -> int:
        """Remove keys that stand end to end."""
        call = "map_delete_batch"
        self.no_lock(flags, call)
        if len(keys) != count * self.spec.key_size:
            raise KernelError(errno.EINVAL, call, f"{len(keys)} bytes of keys for {count} elements")
        done = ctypes.c_uint32()
        result = library().rt_map_remove_many(self.address, keys, count, ctypes.byref(done))
        if result:
            raise KernelError(-result, call, done=done.value)
        return count
