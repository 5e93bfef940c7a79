"""Arrays of things that are no bytes: each element is the address of one, 0 for none."""

import ctypes
import errno
from typing import ClassVar

from ebpf.engine.runtime import library
from ebpf.errors import KernelError
from ebpf.kernels.user.maps.base import FD_ACCESS, Map, bad
from ebpf.sys.calls import MapCreate
from ebpf.uapi import MapFlag


class Slots(Map):
    """Elements are written and removed by descriptor; the kernel says what a descriptor stands for."""

    FLAGS = FD_ACCESS | MapFlag.NUMA_NODE
    #: What an element holds.
    HOLDS: ClassVar[str] = ""

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

    def index(self, key: bytes, call: str) -> int:
        """The place of an element; E2BIG past the end."""
        index = int.from_bytes(self.key(key, call), "little")
        if index >= self.header.max_entries:
            raise KernelError(errno.E2BIG, call, f"index {index}: the map has {self.header.max_entries}")
        return index

    def place(self, index: int) -> ctypes.c_uint64:
        """The address that an element is."""
        return ctypes.c_uint64.from_address(self.data_address + 8 * index)

    def put(self, index: int, thing: object, address: int) -> object | None:
        """Fill an element; the answer is what was there."""
        old = self.slots.get(index)
        self.slots[index] = thing
        self.place(index).value = address
        return old

    def drop(self, index: int, call: str) -> object:
        """Empty an element; the answer is what was there. ENOENT if nothing was."""
        if index not in self.slots:
            raise KernelError(errno.ENOENT, call, f"index {index} is empty")
        self.place(index).value = 0
        return self.slots.pop(index)

    def next_key(self, key: bytes | None) -> bytes:
        """The next index, whether it is empty or not."""
        raw = self.key(key, "map_get_next_key") if key is not None else None
        out = ctypes.create_string_buffer(4)
        self.answer(library().rt_map_next(self.address, raw, out), "map_get_next_key")
        return out.raw


class PerfArray(Slots):
    """BPF_MAP_TYPE_PERF_EVENT_ARRAY."""

    FLAGS = Slots.FLAGS | MapFlag.PRESERVE_ELEMS
    HOLDS = "perf"
