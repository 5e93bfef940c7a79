"""The elements of a map as text and as JSON: by their bytes, and by their types where the map has some."""

import errno
import os
from dataclasses import dataclass

from ebpf.cli.jsonw import Json, hex_bytes
from ebpf.cli.types import MapTypes
from ebpf.errors import KernelError
from ebpf.sys.calls import MapInfo, MapLookup, MapNextKey
from ebpf.sys.kernel import Kernel
from ebpf.uapi import MapType

PER_CPU = (MapType.PERCPU_HASH, MapType.PERCPU_ARRAY, MapType.LRU_PERCPU_HASH)
OF_MAPS = (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS)
# Arrays whose empty places are shown.
_SHOW_ABSENT = (MapType.DEVMAP, MapType.CPUMAP, MapType.XSKMAP, MapType.SOCKMAP)
_ENOTSUPP = 524


def _step(info: MapInfo) -> int:
    """From one CPU's value to the next one's, in bytes."""
    return (info.value_size + 7) // 8 * 8


def value_bytes(kernel: Kernel, info: MapInfo) -> int:
    """How many bytes a look-up gives: of a per-CPU map all CPUs' values."""
    return _step(info) * kernel.possible_cpus if info.type in PER_CPU else info.value_size


def _by_cpu(info: MapInfo, value: bytes) -> list[bytes]:
    """The values of a per-CPU element, CPU 0 first."""
    return [value[at : at + info.value_size] for at in range(0, len(value), _step(info))]


@dataclass(slots=True)
class Walk:
    """All keys of a map, each with its value or the errno that stands for it. `errno` is what ended the walk early, else 0."""

    elements: list[tuple[bytes, bytes | int]]
    errno: int = 0

    @classmethod
    def over(cls, kernel: Kernel, fd: int, info: MapInfo) -> "Walk":
        """Read a map, one key after the other."""
        walk = cls([])
        key: bytes | None = None
        while True:
            try:
                key = kernel.bpf(MapNextKey(fd, key, info.key_size))
            except KernelError as error:
                walk.errno = 0 if error.errno == errno.ENOENT else error.errno
                return walk
            try:
                walk.elements.append((key, kernel.bpf(MapLookup(fd, key, value_bytes(kernel, info)))))
            except KernelError as error:
                # A program or map that is not there is no element; of a hash one that went meanwhile is none.
                if error.errno != errno.ENOENT or info.type in _SHOW_ABSENT:
                    walk.elements.append((key, error.errno))


def formatted(info: MapInfo, types: MapTypes, key: bytes, value: bytes) -> dict[str, Json]:
    """An element by its types; a per-CPU one has a list of values. Data maps have no key worth showing."""
    row: dict[str, Json] = {}
    if types.has_key:
        row["key"] = types.key(key)
    if info.type in PER_CPU:
        row["values"] = [{"cpu": cpu, "value": types.value(part)} for cpu, part in enumerate(_by_cpu(info, value))]
    else:
        row["value"] = types.value(value)
    return row


def element(info: MapInfo, types: MapTypes | None, key: bytes, value: bytes | int) -> dict[str, Json]:
    """An element as a JSON row: its bytes, and what they mean."""
    row: dict[str, Json] = {"key": hex_bytes(key)}
    if isinstance(value, int):
        return row | {"value": {"error": _absent(value)}}
    if info.type in PER_CPU:
        row["values"] = [{"cpu": cpu, "value": hex_bytes(part)} for cpu, part in enumerate(_by_cpu(info, value))]
    else:
        row["value"] = hex_bytes(value)
    if info.type in OF_MAPS:
        row["inner_map_id"] = int.from_bytes(value[:4], "little")
    if types is not None:
        row["formatted"] = formatted(info, types, key, value)
    return row


def hex_text(data: bytes) -> str:
    """Bytes in hexadecimal, apart."""
    return " ".join(f"{b:02x}" for b in data)


def _absent(number: int) -> str:
    """What stands for a value that cannot be read."""
    if number == errno.ENOENT:
        return "<no entry>"
    return f"Unknown error {number}" if number == _ENOTSUPP else os.strerror(number)


def plain(info: MapInfo, key: bytes, value: bytes | int) -> str:
    """An element as text, by its bytes; where there is no value its errno says why."""
    if isinstance(value, bytes) and info.type in PER_CPU:
        lines = ["key:", hex_text(key)]
        lines += [f"value (CPU {cpu:02d}): {hex_text(part)}" for cpu, part in enumerate(_by_cpu(info, value))]
        return "\n".join(lines)
    if isinstance(value, bytes) and info.type in OF_MAPS:
        return f"key: {hex_text(key)}  inner_map_id: {int.from_bytes(value[:4], 'little')} "
    shown = hex_text(value) if isinstance(value, bytes) else _absent(value)
    size = len(value) if isinstance(value, bytes) else len(shown)
    wide = info.key_size > 16 or size > 16
    between = "\n" if wide else " "
    parts = ([f"key:{between}{hex_text(key)}"] if info.key_size else []) + ([f"value:{between}{shown}"] if size else [])
    return ("  " if info.key_size + size <= 24 and not wide else "\n").join(parts)
