"""A runtime map in memory that forked processes share, header included."""

import ctypes
import mmap

from ebpf.engine.runtime import library
from ebpf.engine.runtime.abi import MapHeader
from ebpf.uapi import MapType

HEADER = 4096


def place(memory: mmap.mmap) -> int:
    window = (ctypes.c_char * len(memory)).from_buffer(memory)
    try:
        return ctypes.addressof(window)
    finally:
        del window


def round8(size: int) -> int:
    return (size + 7) // 8 * 8


class SharedMap:
    """A map for tests: values and keys as bytes, results as the runtime gives them."""

    def __init__(self, kind: MapType, key_size: int, value_size: int, max_entries: int, cpus: int = 1) -> None:
        per_cpu = kind in (MapType.PERCPU_ARRAY, MapType.PERCPU_HASH, MapType.LRU_PERCPU_HASH)
        values = round8(value_size) * (cpus if per_cpu else 1)
        # What stands before an element: none, or the head and key of a hash's or trie's.
        before = {
            MapType.ARRAY: 0,
            MapType.PERCPU_ARRAY: 0,
            MapType.QUEUE: 0,
            MapType.STACK: 0,
            MapType.LPM_TRIE: 16 + round8(key_size - 4),
        }
        element = before.get(kind, 16 + round8(key_size)) + values
        capacity = 2 * max_entries + 1 if kind == MapType.LPM_TRIE else max_entries + 1
        buckets = 1 << max(max_entries - 1, 0).bit_length()
        data_at = HEADER + (4 * buckets + 7) // 8 * 8 + 8
        self.memory = mmap.mmap(-1, data_at + element * capacity)
        base = place(self.memory)
        self.header = MapHeader.from_address(base)
        self.address = base
        self.key_size, self.value_size, self.values = key_size, value_size, values if per_cpu else value_size
        header = self.header
        header.type, header.key_size, header.value_size, header.max_entries = kind, key_size, value_size, max_entries
        header.elem_size, header.ncpu, header.cpu_stride = element, cpus, round8(value_size) if per_cpu else 0
        header.meta, header.data, header.buckets, header.event_fd = base + HEADER, base + data_at, buckets, -1
        header.capacity = capacity

    def put(self, key: bytes, value: bytes, flags: int = 0) -> int:
        return int(library().rt_map_put(self.address, key, value, flags, 1, 0))

    def get(self, key: bytes) -> bytes | None:
        out = ctypes.create_string_buffer(self.values)
        return None if library().rt_map_read(self.address, key, out, self.values) else out.raw

    def use(self, key: bytes) -> bool:
        """Look a key up as a program does."""
        return bool(library().rt_map_value(self.address, key, 0))

    def remove(self, key: bytes) -> int:
        return int(library().rt_map_remove(self.address, key))

    def walk(self) -> list[bytes]:
        """All keys, as a reader walks them."""
        out: list[bytes] = []
        key: bytes | None = None
        room = ctypes.create_string_buffer(self.key_size)
        while not library().rt_map_next(self.address, key, room):
            key = room.raw
            out.append(key)
            assert len(out) <= self.header.max_entries
        return out

    def batched(self, count: int) -> tuple[dict[bytes, bytes], int]:
        """The first elements by one batch, and where it stopped."""
        keys = ctypes.create_string_buffer(count * self.key_size)
        values = ctypes.create_string_buffer(count * self.values)
        at = ctypes.c_uint32()
        done = library().rt_map_batch(self.address, ctypes.byref(at), count, keys, values, self.values, 0)
        pairs = {
            keys.raw[i * self.key_size : (i + 1) * self.key_size]: values.raw[i * self.values : (i + 1) * self.values] for i in range(done)
        }
        return pairs, at.value
