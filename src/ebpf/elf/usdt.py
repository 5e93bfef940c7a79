"""USDT probes of a program or library: the notes that say where each is and where its arguments are.

Source: SystemTap's "user space probe implementation" (the notes of .note.stapsdt).
"""

import struct
from dataclasses import dataclass

from ebpf.elf.file import read_elf
from ebpf.elf.symbols import to_file_offset
from ebpf.errors import FormatError

_NOTE = struct.Struct("<III")
_PLACES = struct.Struct("<QQQ")
_STAPSDT = 3
_SECTION = ".note.stapsdt"


@dataclass(frozen=True, slots=True)
class Probe:
    """One place of a probe: `offset` and `semaphore` (0: none) are in the file, `arguments` as the assembler wrote them."""

    provider: str
    name: str
    offset: int
    semaphore: int
    arguments: str


def read_probes(path: str) -> list[Probe]:
    """All places of all probes of a file. Raises FormatError, OSError."""
    with open(path, "rb") as file:
        data = file.read()
    elf = read_elf(data, path, any_machine=True)
    notes = elf.section(_SECTION)
    if notes is None:
        return []
    base = _address_of(data, ".stapsdt.base", elf.section(".stapsdt.base"))
    out = []
    for place, noted_base, semaphore, texts in _notes(notes.data, path):
        if len(texts) < 3:
            raise FormatError("a note is cut off", path=path, where=_SECTION)
        # The linker moved all by as much as it moved the base.
        shift = base - noted_base if base else 0
        offset = to_file_offset(data, path, place + shift)
        counter = to_file_offset(data, path, semaphore + shift) if semaphore else 0
        out.append(Probe(texts[0], texts[1], offset, counter, texts[2]))
    return out


def _notes(data: bytes, path: str) -> "list[tuple[int, int, int, list[str]]]":
    out, at = [], 0
    while at + _NOTE.size <= len(data):
        name_size, size, kind = _NOTE.unpack_from(data, at)
        at += _NOTE.size
        name = data[at : at + name_size].rstrip(b"\0")
        at += (name_size + 3) // 4 * 4
        body = data[at : at + size]
        at += (size + 3) // 4 * 4
        if len(body) != size:
            raise FormatError("a note reaches past the end", path=path, where=_SECTION)
        if kind == _STAPSDT and name == b"stapsdt" and size >= _PLACES.size:
            place, base, semaphore = _PLACES.unpack_from(body)
            texts = body[_PLACES.size :].split(b"\0")
            out.append((place, base, semaphore, [text.decode("utf-8", "replace") for text in texts]))
    return out


def _address_of(data: bytes, name: str, section: object) -> int:
    """The address of a section (0: there is none); the sections of an ElfFile do not keep theirs."""
    if section is None:
        return 0
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    (strings,) = struct.unpack_from("<Q", data, table + names * size + 24)
    for number in range(count):
        name_at, _, _, address = struct.unpack_from("<IIQQ", data, table + number * size)
        if data[strings + name_at : strings + name_at + len(name) + 1] == name.encode() + b"\0":
            return int(address)
    return 0
