"""The memory that an interpreted program may touch: regions of this process's own address space."""

import ctypes
from bisect import bisect_right, insort
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

_CELLS: Final[Mapping[int, Any]] = {1: ctypes.c_uint8, 2: ctypes.c_uint16, 4: ctypes.c_uint32, 8: ctypes.c_uint64}


@dataclass(frozen=True, slots=True, order=True)
class Region:
    """`size` bytes from the address `base`; `keep` is what owns them."""

    base: int
    size: int
    writable: bool = field(compare=False)
    name: str = field(default="", compare=False)
    keep: object = field(default=None, compare=False, repr=False)


class Memory:
    """The regions that a program may touch. Every access has to lie inside one of them."""

    def __init__(self) -> None:
        self._regions: list[Region] = []
        self._last: Region | None = None

    @property
    def regions(self) -> tuple[Region, ...]:
        """The regions by address."""
        return tuple(self._regions)

    def add(self, base: int, size: int, *, writable: bool, name: str = "", keep: object = None) -> Region:
        """Allow `size` bytes from `base`, which must stay mapped; `keep` is held until the region is removed."""
        region = Region(base, size, writable, name, keep)
        insort(self._regions, region)
        return region

    def add_buffer(self, buffer: Any, *, writable: bool = True, name: str = "") -> Region:
        """Allow a writable buffer (bytearray, ctypes array, mmap...); it cannot be resized while the region is here."""
        size = memoryview(buffer).nbytes
        cells = (ctypes.c_uint8 * size).from_buffer(buffer)
        return self.add(ctypes.addressof(cells), size, writable=writable, name=name, keep=cells)

    def remove(self, region: Region) -> None:
        """Take a region away again."""
        self._regions.remove(region)
        self._last = None

    def why_not(self, address: int, size: int, *, writing: bool) -> str:
        """Why `size` bytes at `address` may not be read (or written); "" if they may."""
        last = self._last
        if last is not None and last.base <= address and address + size <= last.base + last.size and (last.writable or not writing):
            return ""
        read_only = ""
        # Regions may nest (a packet inside its buffer), so those that begin earlier count too.
        for place in range(bisect_right(self._regions, address, key=lambda r: r.base) - 1, -1, -1):
            region = self._regions[place]
            if address + size <= region.base + region.size:
                if region.writable or not writing:
                    self._last = region
                    return ""
                read_only = region.name or f"{region.base:#x}"
        return f"region {read_only} is read-only" if read_only else "outside of all memory that the program was given"

    def read(self, address: int, size: int) -> int:
        """The number in 1, 2, 4 or 8 bytes at `address`, which must have been checked by `why_not`."""
        value: int = _CELLS[size].from_address(address).value
        return value

    def write(self, address: int, size: int, value: int) -> None:
        """Store the low bits of a number in 1, 2, 4 or 8 bytes at `address`, which must have been checked by `why_not`."""
        _CELLS[size].from_address(address).value = value
