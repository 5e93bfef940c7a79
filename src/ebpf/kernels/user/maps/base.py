"""A map: its header and memory, and the element commands with Linux's errno for each misuse."""

import ctypes
import errno
import os
from collections.abc import Callable

from ebpf.engine.program import MapDesc
from ebpf.engine.runtime import library
from ebpf.engine.runtime.abi import MapHeader
from ebpf.errors import KernelError, NotSupportedError
from ebpf.kernels.user.maps.ring import RingMemory
from ebpf.kernels.user.memory import Region
from ebpf.sys.calls import Batch, MapCreate
from ebpf.uapi import MAP_TYPES, MapFlag, MapType

_HASH = (MapType.HASH, MapType.PERCPU_HASH)
_ARRAY = (MapType.ARRAY, MapType.PERCPU_ARRAY)
_LARGEST = 1 << 32
_ACCESS = MapFlag.RDONLY | MapFlag.WRONLY | MapFlag.RDONLY_PROG | MapFlag.WRONLY_PROG
_FLAGS = {
    MapType.HASH: MapFlag.NO_PREALLOC | MapFlag.ZERO_SEED | MapFlag.NUMA_NODE | _ACCESS,
    MapType.PERCPU_HASH: MapFlag.NO_PREALLOC | MapFlag.ZERO_SEED | MapFlag.NUMA_NODE | _ACCESS,
    MapType.ARRAY: MapFlag.MMAPABLE | MapFlag.INNER_MAP | MapFlag.NUMA_NODE | MapFlag.PRESERVE_ELEMS | _ACCESS,
    MapType.PERCPU_ARRAY: MapFlag.NUMA_NODE | _ACCESS,
    MapType.RINGBUF: MapFlag.NUMA_NODE,
    MapType.PERF_EVENT_ARRAY: MapFlag.PRESERVE_ELEMS | MapFlag.NUMA_NODE | _ACCESS,
}


def _round8(size: int) -> int:
    return (size + 7) // 8 * 8


class Map:
    """A map of the user kernel. `value_bytes` is what a look-up returns: all CPUs side by side for a per-CPU map."""

    def __init__(self, call: MapCreate, cpus: int) -> None:
        self.spec = call
        self.type = MapType(call.map_type)
        self.frozen = False
        self.header = MapHeader()
        self.cpus = cpus
        self.per_cpu = MAP_TYPES[self.type].per_cpu
        self.value_bytes = _round8(call.value_size) * cpus if self.per_cpu else call.value_size
        self.slots: dict[int, object] = {}
        self.ring: RingMemory | None = None
        self._regions: list[Region] = []
        header = self.header
        header.type, header.key_size, header.value_size = call.map_type, call.key_size, call.value_size
        header.max_entries, header.flags, header.ncpu = call.max_entries, call.flags, cpus
        header.event_fd = -1
        header.cpu_stride = _round8(call.value_size) if self.per_cpu else 0
        _BUILD[self.type](self)
        self.memlock = sum(r.size for r in self._regions) or (self.ring.size if self.ring is not None else 0)

    # -- construction

    def _region(self, size: int) -> Region:
        if size > _LARGEST:
            raise KernelError(errno.ENOMEM, "map_create", f"{size} bytes are more than a map may have")
        region = Region(size, self.spec.name or "map")
        self._regions.append(region)
        return region

    def _build_array(self) -> None:
        self.header.elem_size = _round8(self.spec.value_size) * (self.cpus if self.per_cpu else 1)
        data = self._region(self.header.elem_size * self.spec.max_entries)
        self.header.data, self.header.data_size = data.address, data.size

    def _build_hash(self) -> None:
        header = self.header
        values = _round8(self.spec.value_size) * (self.cpus if self.per_cpu else 1)
        header.elem_size = 8 + _round8(self.spec.key_size) + values
        header.buckets = 1 << max(self.spec.max_entries - 1, 0).bit_length()
        header.seed = 0 if self.spec.flags & MapFlag.ZERO_SEED else int.from_bytes(os.urandom(4), "little")
        data = self._region(header.elem_size * self.spec.max_entries)
        heads = self._region(4 * header.buckets)
        header.data, header.data_size = data.address, data.size
        header.meta, header.meta_size = heads.address, heads.size
        library().rt_map_init(self.address)

    def _build_ring(self) -> None:
        self.ring = RingMemory(self.spec.max_entries)
        self.header.data, self.header.data_size = self.ring.data_address, self.ring.size
        self.header.event_fd = self.ring.event_fd
        library().rt_ringbuf_init(self.address)

    def _build_perf(self) -> None:
        if not self.spec.max_entries:
            self.header.max_entries = self.cpus
        data = self._region(8 * self.header.max_entries)
        self.header.elem_size = 8
        self.header.data, self.header.data_size = data.address, data.size

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
            fd, spec.map_type, spec.key_size, spec.value_size, self.header.max_entries, spec.flags, spec.name, self.frozen, self.address
        )

    # -- elements

    def _key(self, key: bytes, call: str) -> ctypes.Array[ctypes.c_char]:
        if self.type not in _HASH + _ARRAY:
            raise KernelError(
                errno.ENOTSUP if self.type == MapType.RINGBUF else errno.EINVAL,
                call,
                f"{MAP_TYPES[self.type].name} maps have no elements to {call[4:]}",
            )
        if len(key) != self.spec.key_size:
            raise KernelError(errno.EINVAL, call, f"the key has {len(key)} bytes, the map's have {self.spec.key_size}")
        return ctypes.create_string_buffer(key, max(len(key), 1))

    def lookup(self, key: bytes) -> bytes:
        """The value under a key (all CPUs' of a per-CPU map)."""
        raw = self._key(key, "map_lookup_elem")
        if self.spec.flags & MapFlag.WRONLY:
            raise KernelError(errno.EPERM, "map_lookup_elem", "the map is write-only")
        at = library().rt_map_value(self.address, raw, 0)
        if not at:
            raise KernelError(errno.ENOENT, "map_lookup_elem")
        return ctypes.string_at(at, self.value_bytes)

    def update(self, key: bytes, value: bytes, flags: int) -> None:
        """Write a value under a key."""
        if self.frozen or self.spec.flags & MapFlag.RDONLY:
            raise KernelError(errno.EPERM, "map_update_elem", "the map is frozen" if self.frozen else "the map is read-only")
        raw = self._key(key, "map_update_elem")
        if len(value) != self.value_bytes:
            raise KernelError(errno.EINVAL, "map_update_elem", f"the value has {len(value)} bytes, the map's have {self.value_bytes}")
        held = ctypes.create_string_buffer(value, max(len(value), 1))
        result = library().rt_map_put(self.address, raw, held, flags, 1, 0)
        if result:
            raise KernelError(-result, "map_update_elem", "the map is full" if result == -errno.E2BIG and self.type in _HASH else "")

    def delete(self, key: bytes) -> None:
        """Remove a key."""
        if self.frozen or self.spec.flags & MapFlag.RDONLY:
            raise KernelError(errno.EPERM, "map_delete_elem", "the map is frozen" if self.frozen else "the map is read-only")
        result = library().rt_map_remove(self.address, self._key(key, "map_delete_elem"))
        if result:
            raise KernelError(-result, "map_delete_elem", "elements of an array cannot be deleted" if self.type in _ARRAY else "")

    def take(self, key: bytes) -> bytes:
        """Look a key up and remove it."""
        if self.type not in _HASH:
            raise KernelError(errno.ENOTSUP, "map_lookup_and_delete_elem")
        value = self.lookup(key)
        self.delete(key)
        return value

    def next_key(self, key: bytes | None) -> bytes:
        """The key after `key`."""
        raw = self._key(key, "map_get_next_key") if key is not None else None
        if raw is None:
            self._key(bytes(self.spec.key_size), "map_get_next_key")
        out = ctypes.create_string_buffer(max(self.spec.key_size, 1))
        result = library().rt_map_next(self.address, raw, out)
        if result:
            raise KernelError(-result, "map_get_next_key")
        return out.raw[: self.spec.key_size]

    def batch(self, start: bytes, count: int) -> Batch:
        """Up to `count` elements from a place on."""
        self._key(bytes(self.spec.key_size), "map_lookup_batch")
        place = ctypes.c_uint32(int.from_bytes(start, "little"))
        keys = ctypes.create_string_buffer(max(count * self.spec.key_size, 1))
        values = ctypes.create_string_buffer(max(count * self.value_bytes, 1))
        done = library().rt_map_batch(self.address, ctypes.byref(place), count, keys, values, self.value_bytes)
        whole = self.header.max_entries if self.type in _ARRAY else self.header.buckets
        if place.value < whole and not done:
            raise KernelError(errno.ENOSPC, "map_lookup_batch", "a bucket has more elements than were asked for")
        return Batch(
            done,
            keys.raw[: done * self.spec.key_size],
            values.raw[: done * self.value_bytes],
            b"" if place.value >= whole else place.value.to_bytes(4, "little"),
        )

    def freeze(self) -> None:
        """Forbid later writes from user space."""
        if self.frozen:
            raise KernelError(errno.EBUSY, "map_freeze")
        self.frozen = True

    def view(self, length: int, offset: int) -> memoryview:
        """The memory that a client may map."""
        if self.ring is not None:
            return self.ring.view(length, offset)
        if self.type != MapType.ARRAY or not self.spec.flags & MapFlag.MMAPABLE:
            raise KernelError(errno.ENOTSUP, "mmap", "the map was not made with BPF_F_MMAPABLE")
        return self._regions[0].view(length, offset)

    def files(self, length: int, offset: int) -> list[tuple[int, int, int, bool]]:
        """The same memory as pieces of files, for a client to map: (fd, offset, length, writable)."""
        if self.ring is not None:
            pieces = self.ring.files(length, offset)
            if pieces is None:
                raise KernelError(errno.EINVAL, "mmap", f"{length} bytes from {offset} are no part of a ring buffer")
            return pieces
        self.view(0, 0)
        region = self._regions[0]
        if offset % 4096 or offset + length > region.size or length <= 0 or region.fd < 0:
            raise KernelError(errno.EINVAL, "mmap", f"{length} bytes from {offset}: the map has {region.size}")
        return [(region.fd, offset, length, not self.spec.flags & MapFlag.RDONLY)]

    def close(self) -> None:
        """Give the memory back."""
        for region in self._regions:
            region.close()
        self._regions.clear()
        if self.ring is not None:
            self.ring.close()


_BUILD: dict[MapType, Callable[[Map], None]] = {
    MapType.ARRAY: Map._build_array,
    MapType.PERCPU_ARRAY: Map._build_array,
    MapType.HASH: Map._build_hash,
    MapType.PERCPU_HASH: Map._build_hash,
    MapType.RINGBUF: Map._build_ring,
    MapType.PERF_EVENT_ARRAY: Map._build_perf,
}


def create(call: MapCreate, cpus: int) -> Map:
    """Make a map, or say with Linux's errno what is wrong with the request."""

    def bad(why: str, number: int = errno.EINVAL) -> KernelError:
        return KernelError(number, "bpf(MAP_CREATE)", why)

    try:
        kind = MapType(call.map_type)
    except ValueError:
        raise bad(f"there is no map type {call.map_type}") from None
    name = MAP_TYPES[kind].name if kind in MAP_TYPES else "unspec"
    if kind not in _BUILD:
        raise NotSupportedError(
            f"map {call.name!r}", f"maps of type {name} are not built in the user kernel yet", hint="Run with --kernel linux"
        )
    if call.flags & ~int(_FLAGS[kind]):
        raise bad(f"{name} does not take flags {call.flags & ~int(_FLAGS[kind]):#x}")
    if kind in _ARRAY and call.key_size != 4:
        raise bad(f"{name} has keys of 4 bytes, not {call.key_size}")
    if kind in _HASH and (not call.key_size or call.key_size > 512):
        raise bad(f"a key of {call.key_size} bytes")
    if kind in _ARRAY + _HASH and (not call.value_size or not call.max_entries):
        raise bad("value_size and max_entries must not be 0")
    if kind == MapType.RINGBUF:
        size = call.max_entries
        if call.key_size or call.value_size or not size or size & (size - 1) or size % 4096:
            raise bad(f"a ring buffer's size is a power of two and of whole pages, not {size}")
    if kind == MapType.PERF_EVENT_ARRAY and (call.key_size != 4 or call.value_size != 4):
        raise bad("perf_event_array has keys and values of 4 bytes")
    if call.value_size > 1 << 26 or call.max_entries > 1 << 30:
        raise bad("the map is too large", errno.E2BIG)
    if len(call.name) > 15 or not all(c.isalnum() or c in "_." for c in call.name):
        raise bad(f"name {call.name!r} has more than 15 characters, or other than letters, digits, '_' and '.'")
    return Map(call, cpus)
