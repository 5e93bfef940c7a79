"""Several objects made into one: sections of one name laid end to end, symbols resolved, types and records put together.

As `bpftool gen object`: strong definitions win over weak ones, two strong ones of a name are refused, what stays undefined is the
kernel's (functions, variables, options).
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ebpf.btf import Btf
from ebpf.elf.agree import disagreement
from ebpf.elf.ext import Ext, read_ext
from ebpf.elf.file import ElfFile, Section, SectionType, Symbol, read_elf
from ebpf.elf.merge import merge_ext, merge_types
from ebpf.elf.read import read_types
from ebpf.elf.write import Out, OutSymbol, write_elf
from ebpf.errors import FormatError
from ebpf.isa.opcodes import CALL

_LOCAL, _WEAK, _SECTION, _FILE, _UNDEFINED = 0, 2, 3, 4, 0
_EXECUTABLE = 0x4
_LARGEST_ALIGN = 1 << 16
_SKIPPED = (".BTF", ".BTF.ext", ".llvm_addrsig", ".symtab", ".strtab")
_SKIPPED_BEGINNINGS = (".rel", ".debug_", ".eh_frame", ".note")


@dataclass(slots=True)
class Input:
    """An object that is put in: where each of its sections begins in the whole, and what its symbols became."""

    elf: ElfFile
    btf: Btf | None
    ext: Ext
    bases: dict[int, int] = field(default_factory=dict)
    symbols: dict[int, int] = field(default_factory=dict)
    #: Names of definitions that lost against another object's.
    lost: set[str] = field(default_factory=set)
    #: Sections of which another object's copy is taken.
    left_out: set[str] = field(default_factory=set)


def link_objects(objects: Sequence[tuple[str, bytes]]) -> bytes:
    """One object of several (path and bytes each). Raises FormatError for what does not go together."""
    inputs = [_input(data, path) for path, data in objects]
    sections: dict[str, Out] = {}
    for each in inputs:
        _lay_out(each, sections)
    numbers = {name: number + 1 for number, name in enumerate(sections)}
    symbols = _Symbols(sections, numbers)
    for each in inputs:
        symbols.add(each)
    for each in inputs:
        _relocate(each, sections, symbols)
    types = merge_types(inputs, sections)
    extra = merge_ext(inputs, types, sections) if types is not None else b""
    return write_elf(sections, symbols.ordered(), types.raw if types is not None else b"", extra)


def _input(data: bytes, path: str) -> Input:
    elf = read_elf(data, path)
    btf, records = read_types(elf), elf.section(".BTF.ext")
    if btf is None or records is None or not records.data:
        return Input(elf, btf, Ext())
    return Input(elf, btf, read_ext(records.data, btf, path))


def _kept(section: Section) -> bool:
    if section.type not in (SectionType.PROGBITS, SectionType.NOBITS) or section.name in _SKIPPED or not section.name:
        return False
    return not section.name.startswith(_SKIPPED_BEGINNINGS)


def _lay_out(each: Input, sections: dict[str, Out]) -> None:
    for section in each.elf.sections:
        if not _kept(section):
            continue
        out = sections.setdefault(section.name, Out(section.type, section.flags, section.align))
        where = f"section {section.name!r}"
        if out.type != section.type:
            raise FormatError("holds data in one object and none in another", path=each.elf.path, where=where)
        if section.name in ("license", "version") and out.size:
            if bytes(out.data) != section.data:
                raise FormatError("differs from the other objects'", path=each.elf.path, where=where)
            # One is enough.
            each.bases[section.index] = 0
            each.left_out.add(section.name)
            continue
        if section.align & (section.align - 1) or section.align > _LARGEST_ALIGN:
            raise FormatError(f"is aligned to {section.align}", path=each.elf.path, where=where)
        # A piece begins as the strictest before it would: libbpf's linker has it so, and so are the maps of variables as large.
        out.align = max(out.align, section.align)
        base = (out.size + out.align - 1) // out.align * out.align
        if section.type == SectionType.PROGBITS:
            out.data += bytes(base - out.size) + section.data
        out.size = base + section.size
        each.bases[section.index] = base


class _Symbols:
    """The symbols of the whole."""

    def __init__(self, sections: dict[str, Out], numbers: dict[str, int]) -> None:
        self._numbers = numbers
        self._rows: list[OutSymbol] = [OutSymbol("", 0, 0, _SECTION, _LOCAL, number) for number in numbers.values()]
        self._of_section = {name: place for place, name in enumerate(numbers)}
        self._globals: dict[str, tuple[int, Input]] = {}

    def add(self, each: Input) -> None:
        """Take over an object's symbols."""
        for number, symbol in enumerate(each.elf.symbols):
            if not number or symbol.kind == _FILE:
                continue
            if symbol.section != _UNDEFINED and symbol.section not in each.bases:
                # Of a section that is not taken over (debugging).
                continue
            if symbol.kind == _SECTION:
                each.symbols[number] = self._of_section[each.elf.sections[symbol.section].name]
            elif symbol.binding == _LOCAL:
                each.symbols[number] = self._append(self._placed(each, symbol))
            else:
                each.symbols[number] = self._global(each, symbol)

    def _append(self, row: OutSymbol) -> int:
        self._rows.append(row)
        return len(self._rows) - 1

    def _placed(self, each: Input, symbol: Symbol) -> OutSymbol:
        if symbol.section == _UNDEFINED:
            return OutSymbol(symbol.name, 0, 0, symbol.kind, symbol.binding, 0, symbol.hidden)
        base = each.bases[symbol.section]
        section = self._numbers[each.elf.sections[symbol.section].name]
        return OutSymbol(symbol.name, symbol.value + base, symbol.size, symbol.kind, symbol.binding, section, symbol.hidden)

    def _global(self, each: Input, symbol: Symbol) -> int:
        row, known = self._placed(each, symbol), self._globals.get(symbol.name)
        if known is None:
            place = self._append(row)
            self._globals[symbol.name] = (place, each)
            return place
        place, owner = known
        there = self._rows[place]
        kept = not symbol.section or each.elf.sections[symbol.section].name not in each.left_out
        why = disagreement(symbol.name, owner.btf, each.btf) if kept else ""
        if why:
            raise FormatError(f"{why} (elsewhere: {owner.elf.path})", path=each.elf.path, where=f"symbol {symbol.name!r}")
        hidden = there.hidden or row.hidden
        if not row.section:
            # Wanted here, and there already (or wanted there too: then a strong wish outweighs a weak one).
            binding = min(there.binding, row.binding) if not there.section else there.binding
            self._rows[place] = replace(there, binding=binding, hidden=hidden)
        elif not there.section:
            self._rows[place] = replace(row, hidden=hidden)
            self._globals[symbol.name] = (place, each)
        elif symbol.section and each.elf.sections[symbol.section].name in each.left_out:
            each.lost.add(symbol.name)
        elif row.binding != _WEAK and there.binding != _WEAK:
            raise FormatError(f"is defined in {owner.elf.path} too", path=each.elf.path, where=f"symbol {symbol.name!r}")
        elif there.binding == _WEAK and row.binding != _WEAK:
            owner.lost.add(symbol.name)
            self._rows[place] = replace(row, hidden=hidden)
            self._globals[symbol.name] = (place, each)
        else:
            each.lost.add(symbol.name)
            self._rows[place] = replace(there, hidden=hidden)
        return place

    def ordered(self) -> list[OutSymbol]:
        """All symbols by number."""
        return self._rows


def _relocate(each: Input, sections: dict[str, Out], symbols: _Symbols) -> None:
    for index, rows in each.elf.relocations.items():
        if index not in each.bases:
            continue
        section = each.elf.sections[index]
        out, base = sections[section.name], each.bases[index]
        for row in rows:
            where = f"section {section.name!r}, byte {row.offset}"
            if row.symbol not in each.symbols or row.offset + 8 > len(section.data):
                raise FormatError("a relocation by a symbol that is not there", path=each.elf.path, where=where)
            at, symbol = base + row.offset, each.elf.symbols[row.symbol]
            out.relocations.append((at, row.type, each.symbols[row.symbol]))
            if symbol.kind == _SECTION:
                # By its section: the rest of the address stands in the place itself.
                _shift(out, section, at, each.bases[symbol.section])


def _shift(out: Out, section: Section, at: int, by: int) -> None:
    if not section.flags & _EXECUTABLE:
        (value,) = struct.unpack_from("<Q", out.data, at)
        struct.pack_into("<Q", out.data, at, value + by & (1 << 64) - 1)
        return
    (imm,) = struct.unpack_from("<i", out.data, at + 4)
    value = imm + (by // 8 if out.data[at] == CALL else by)
    struct.pack_into("<I", out.data, at + 4, value & 0xFFFFFFFF)
