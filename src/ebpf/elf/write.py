"""An ELF object out of its parts."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ebpf.elf.file import SectionType

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_SYM = struct.Struct("<IBBHQQ")
_EM_BPF, _REL_OBJECT, _HIDDEN = 247, 1, 2


@dataclass(slots=True)
class Out:
    """A section that grows. `relocations` are (offset, type, symbol's number)."""

    type: int
    flags: int
    align: int
    data: bytearray = field(default_factory=bytearray)
    size: int = 0
    relocations: list[tuple[int, int, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class OutSymbol:
    """A symbol; `section` counts from 1 (0: undefined)."""

    name: str
    value: int
    size: int
    kind: int
    binding: int
    section: int
    hidden: bool = False


class _Strings:
    def __init__(self) -> None:
        self.data = bytearray(b"\0")
        self._known: dict[str, int] = {"": 0}

    def add(self, text: str) -> int:
        if text not in self._known:
            self._known[text] = len(self.data)
            self.data += text.encode() + b"\0"
        return self._known[text]


def write_elf(sections: Mapping[str, Out], symbols: Sequence[OutSymbol], btf: bytes, ext: bytes) -> bytes:
    """The object: the sections in their order, their relocations, types, symbols."""
    strings = _Strings()
    # Local symbols stand first.
    order = sorted(range(len(symbols)), key=lambda number: symbols[number].binding != 0)
    place = {number: at + 1 for at, number in enumerate(order)}
    local = 1 + sum(symbol.binding == 0 for symbol in symbols)
    table = bytearray(_SYM.size)
    for number in order:
        s = symbols[number]
        table += _SYM.pack(strings.add(s.name), s.binding << 4 | s.kind, _HIDDEN if s.hidden else 0, s.section, s.value, s.size)
    #: name, type, flags, data, size, link, info, align, size of an entry
    rows: list[tuple[str, int, int, bytes, int, int, int, int, int]] = [("", 0, 0, b"", 0, 0, 0, 0, 0)]
    for name, out in sections.items():
        rows.append((name, out.type, out.flags, bytes(out.data), out.size, 0, 0, out.align, 0))
    related = [(number + 1, name, out) for number, (name, out) in enumerate(sections.items()) if out.relocations]
    at_symbols = len(rows) + len(related) + bool(btf) + bool(ext)
    for number, name, out in related:
        data = b"".join(struct.pack("<QQ", at, place[symbol] << 32 | kind) for at, kind, symbol in sorted(out.relocations))
        rows.append((f".rel{name}", SectionType.REL, 0, data, len(data), at_symbols, number, 8, 16))
    for name, data in ((".BTF", btf), (".BTF.ext", ext)):
        if data:
            rows.append((name, SectionType.PROGBITS, 0, data, len(data), 0, 0, 4, 0))
    rows.append((".symtab", SectionType.SYMTAB, 0, bytes(table), len(table), at_symbols + 1, local, 8, _SYM.size))
    names = [strings.add(row[0]) for row in rows] + [strings.add(".strtab")]
    rows.append((".strtab", SectionType.STRTAB, 0, bytes(strings.data), len(strings.data), 0, 0, 1, 0))
    body, headers = bytearray(_EHDR.size), []
    for name_at, (_, kind, flags, data, size, link, info, align, entry) in zip(names, rows, strict=True):
        step = max(align, 1)
        body += bytes(-len(body) % step)
        headers.append(_SHDR.pack(name_at, kind, flags, 0, len(body) if kind else 0, size, link, info, align, entry))
        body += data
    body += bytes(-len(body) % 8)
    head = _EHDR.pack(b"\x7fELF\2\1\1", _REL_OBJECT, _EM_BPF, 1, 0, 0, len(body), 0, _EHDR.size, 0, 0, _SHDR.size, len(rows), len(rows) - 1)
    body[: _EHDR.size] = head
    return bytes(body) + b"".join(headers)
