"""Objects that programs and libraries carry within them (libbpf's skeletons do), found by their ELF header and written out."""

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path

_MAGIC, _EM_BPF, _NOBITS = b"\x7fELF\x02\x01\x01", 247, 8


def objects(folder: Path, into: Path) -> list[Path]:
    """Every BPF object within the files below a folder, each once, as a file of its own."""
    into.mkdir(parents=True, exist_ok=True)
    out: dict[bytes, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        data = path.read_bytes()
        for number, found in enumerate(_within(data)):
            file = into / f"{path.name.partition('.')[0]}{f'-{number}' if number else ''}.o"
            if out.setdefault(hashlib.sha256(found).digest(), file) == file:
                file.write_bytes(found)
    return sorted(out.values())


def _within(data: bytes) -> Iterator[bytes]:
    at = data.find(_MAGIC)
    while at >= 0:
        size = _size(data, at)
        if size:
            yield data[at : at + size]
        at = data.find(_MAGIC, at + max(size, 1))


def _size(data: bytes, at: int) -> int:
    """The size of the BPF object that begins there: to the end of its last section; 0 if there is none."""
    if len(data) < at + 64 or struct.unpack_from("<H", data, at + 18) != (_EM_BPF,):
        return 0
    (table,), (entry, count) = struct.unpack_from("<Q", data, at + 40), struct.unpack_from("<HH", data, at + 58)
    end = table + entry * count
    if not count or entry < 64 or at + end > len(data):
        return 0
    for header in range(at + table, at + table + entry * count, entry):
        kind, offset, size = (*struct.unpack_from("<I", data, header + 4), *struct.unpack_from("<QQ", data, header + 24))
        end = end if kind == _NOBITS else max(end, offset + size)
    return end if at + end <= len(data) else 0
