"""The ELF container: sections, symbols and relocations of a 64-bit little-endian object, every offset checked."""

import struct
from typing import NamedTuple

from ebpf.errors import FormatError
from ebpf.records import record

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_SYM = struct.Struct("<IBBHQQ")
_REL = struct.Struct("<QQ")
_EM_BPF = 247
# STV_INTERNAL and STV_HIDDEN.
_HIDDEN = (1, 2)
_MOST_SECTIONS = 4096
_LONGEST_NAME = 4096


class SectionType:
    """The section types that matter here."""

    PROGBITS, SYMTAB, STRTAB, RELA, NOBITS, REL = 1, 2, 3, 4, 8, 9


@record
class Section:
    """A section with its bytes (empty for NOBITS, whose `size` still counts)."""

    index: int
    name: str
    type: int
    flags: int
    size: int
    data: bytes
    link: int
    info: int
    align: int = 1


class Symbol(NamedTuple):
    """A symbol: `kind` is NOTYPE 0, OBJECT 1, FUNC 2, SECTION 3; `binding` LOCAL 0, GLOBAL 1, WEAK 2; `hidden` from other objects."""

    name: str
    value: int
    size: int
    kind: int
    binding: int
    section: int
    hidden: bool = False


class Relocation(NamedTuple):
    """At `offset` of its section, `type` of the symbol number `symbol`."""

    offset: int
    type: int
    symbol: int


@record
class ElfFile:
    """An object file taken apart. `relocations` are keyed by the index of the section they change."""

    path: str
    sections: tuple[Section, ...]
    symbols: tuple[Symbol, ...]
    relocations: dict[int, tuple[Relocation, ...]]

    def section(self, name: str) -> Section | None:
        """The first section of a name."""
        return next((s for s in self.sections if s.name == name), None)


def read_elf(data: bytes, path: str = "", *, any_machine: bool = False) -> ElfFile:
    """Take an ELF object apart. Raises FormatError where it is not a whole eBPF object (with `any_machine`: no ELF file,
    of which only the sections are read).
    """

    def bad(why: str, where: str = "", hint: str | None = None) -> FormatError:
        error = FormatError(why, path=path, where=where)
        error.hint = hint
        return error

    if data[:4] != b"\x7fELF":
        raise bad("is not an ELF object", hint="compile C with `ebpf cc FILE.bpf.c`" if data[:1].isascii() else None)
    if len(data) < _EHDR.size:
        raise bad(f"is cut off: {len(data)} bytes")
    if data[4] != 2 or data[5] not in (1, 2):
        raise bad("is not a 64-bit ELF object")
    if data[5] == 2:
        raise bad("is big-endian", hint="compile it with -target bpfel")
    _, _, machine, _, _, _, section_offset, _, _, _, _, entry, count, names = _EHDR.unpack_from(data)
    if machine not in (_EM_BPF, 0) and not any_machine:
        raise bad(f"is for another machine (e_machine {machine}), not eBPF", hint="compile it with -target bpf")
    if entry != _SHDR.size or not count or count > _MOST_SECTIONS or section_offset + count * entry > len(data):
        raise bad("has no whole section table")
    headers = [_SHDR.unpack_from(data, section_offset + i * entry) for i in range(count)]

    def bytes_of(index: int) -> bytes:
        _, kind, _, _, offset, size, *_ = headers[index]
        if kind == SectionType.NOBITS:
            return b""
        if offset + size > len(data):
            raise bad("reaches past the end of the file", where=f"section {index}")
        return data[offset : offset + size]

    if sum(h[5] for h in headers if h[1] != SectionType.NOBITS) > len(data):
        raise bad("its sections are larger than the file")
    if names >= count:
        raise bad(f"section {names} of {count} should hold the names")
    strings = bytes_of(names)

    def string(table: bytes, at: int, where: str) -> str:
        # The bound keeps many names that share one long string from filling the memory.
        end = table.find(b"\0", at, at + _LONGEST_NAME)
        if at >= len(table) or end < 0:
            raise bad(f"string {at} of {len(table)}", where=where)
        return table[at:end].decode("utf-8", "replace")

    sections = tuple(
        Section(i, string(strings, h[0], f"section {i}"), h[1], h[2], h[5], bytes_of(i), h[6], h[7], max(h[8], 1))
        for i, h in enumerate(headers)
    )
    if any_machine:
        return ElfFile(path, sections, (), {})
    symbols: tuple[Symbol, ...] = ()
    for section in sections:
        if section.type == SectionType.SYMTAB:
            if section.link >= count or len(section.data) % _SYM.size:
                raise bad("is torn", where=f"section {section.name!r}")
            table = sections[section.link].data
            symbols = tuple(
                Symbol(string(table, n, "symbol") if n else "", value, size, info & 0xF, info >> 4, index, other & 3 in _HIDDEN)
                for n, info, other, index, value, size in _SYM.iter_unpack(section.data)
            )
            break
    relocations: dict[int, tuple[Relocation, ...]] = {}
    for section in sections:
        if section.type == SectionType.RELA:
            raise bad("RELA relocations are not eBPF's", where=f"section {section.name!r}")
        if section.type != SectionType.REL:
            continue
        if len(section.data) % _REL.size:
            raise bad("is torn", where=f"section {section.name!r}")
        rows = tuple(Relocation(offset, info & 0xFFFFFFFF, info >> 32) for offset, info in _REL.iter_unpack(section.data))
        if section.info >= count or any(row.symbol >= len(symbols) for row in rows):
            raise bad("names a section or symbol that is not there", where=f"section {section.name!r}")
        relocations[section.info] = relocations.get(section.info, ()) + rows
    return ElfFile(path, sections, symbols, relocations)
