"""Programs put together: an entry function, the subprograms that it reaches, and the records that go with their code."""

import struct
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Set

from ebpf.btf import Btf, Kind
from ebpf.elf.ext import Ext
from ebpf.elf.externs import KCONFIG
from ebpf.elf.file import ElfFile, Relocation, Section, Symbol
from ebpf.elf.maps import ARENA
from ebpf.errors import FormatError
from ebpf.isa.opcodes import CALL, LD_IMM64
from ebpf.records import record
from ebpf.spec import CoreReloc, Extern, ExternKind, FuncInfo, LineInfo, MapSpec, Reloc, RelocKind
from ebpf.uapi import CallSrc, MapType, PseudoSrc

EXECUTABLE = 0x4
_R_64_64, _R_64_32 = 1, 10
_UNDEFINED, _SECTION_SYMBOL = 0, 3
# Linux takes no more than this of one program; together they may have a few times as much.
_MOST_SLOTS = 1_000_000
_MOST_TOGETHER = 4_000_000


@record
class Function:
    """A function: slots [begin, end) of its section; `halves` are the section's slots that are the second of an ld_imm64."""

    name: str
    section: Section
    begin: int
    end: int
    halves: Set[int]
    binding: int

    @property
    def key(self) -> tuple[int, int]:
        """What finds it: the number of its section, and its first slot."""
        return self.section.index, self.begin


@record
class Linked:
    """A program's bytecode, calls resolved, with what is left to do at load and the records of its functions and lines."""

    insns: bytes
    relocs: tuple[Reloc, ...]
    core_relocs: tuple[CoreReloc, ...]
    func_infos: tuple[FuncInfo, ...]
    line_infos: tuple[LineInfo, ...]


_Record = tuple[int, ...]
_IMM = struct.Struct("<i")


@record
class _Table:
    """A table of .BTF.ext for one section, ordered by slot."""

    slots: list[int]
    records: list[_Record]

    def within(self, begin: int, end: int) -> Iterator[tuple[int, _Record]]:
        for i in range(bisect_left(self.slots, begin), bisect_left(self.slots, end)):
            yield self.slots[i], self.records[i]


def _tables(records: Mapping[str, list[_Record]]) -> dict[str, _Table]:
    out = {}
    for name, rows in records.items():
        ordered = sorted(rows, key=lambda row: row[0])
        out[name] = _Table([row[0] // 8 for row in ordered], ordered)
    return out


_HANDLER = "exception_callback:"


def _handlers(btf: Btf | None) -> dict[str, str]:
    """The function that each program names to run when it throws."""
    if btf is None:
        return {}
    # Of most types only the kind is looked at.
    tags = [btf.type(id_) for id_ in range(1, len(btf)) if btf.kind(id_) == Kind.DECL_TAG and btf.name(id_).startswith(_HANDLER)]
    return {btf.name(tag.ref): tag.name.removeprefix(_HANDLER) for tag in tags}


def _unresolved(function: Function, relocations: Mapping[int, Relocation]) -> list[int]:
    """The slots of a function that are to be changed: those with a relocation, and calls of functions of its section."""
    data = function.section.data
    opcodes = data[function.begin * 8 : function.end * 8 : 8]
    found = {slot for slot in relocations if function.begin <= slot < function.end}
    at = opcodes.find(CALL)
    while at >= 0:
        slot = function.begin + at
        if data[slot * 8 + 1] >> 4 == CallSrc.PSEUDO_CALL:
            found.add(slot)
        at = opcodes.find(CALL, at + 1)
    return sorted(found)


class Linker:
    """Makes programs of an object's functions, one after the other."""

    def __init__(
        self,
        elf: ElfFile,
        btf: Btf | None,
        ext: Ext,
        functions: Mapping[tuple[int, int], Function],
        maps: Mapping[str, MapSpec],
        externs: Mapping[str, Extern],
    ) -> None:
        self.elf = elf
        self.functions = functions
        self.maps = maps
        self.externs = externs
        self.relocations: dict[int, dict[int, Relocation]] = {
            index: {row.offset // 8: row for row in rows} for index, rows in elf.relocations.items()
        }
        self.arena = next((name for name, held in maps.items() if held.type == MapType.ARENA), "")
        self._btf = btf
        self._named = {function.name: function for function in functions.values() if function.section.name == ".text"}
        self._handlers = _handlers(btf)
        self._funcs, self._lines, self._core = _tables(ext.funcs), _tables(ext.lines), _tables(ext.core)
        self._together = 0
        self._texts: dict[int, str] = {}

    def link(self, entry: Function) -> Linked:
        """The program that begins with `entry`. Raises FormatError for a relocation that means nothing."""
        code = _Code(self)
        code.add(entry)
        handler = self._handlers.get(entry.name)
        if handler is not None:
            # What runs when the program throws stands behind all the others.
            if handler not in self._named:
                where = f"program {entry.name!r}"
                raise FormatError(f"its exception callback {handler!r} is no global function", path=self.elf.path, where=where)
            code.add(self._named[handler])
        self._together += len(code.code) // 8
        if self._together > _MOST_TOGETHER:
            raise FormatError(f"all programs together have more than {_MOST_TOGETHER} instructions", path=self.elf.path)
        return Linked(
            insns=bytes(code.code),
            relocs=tuple(sorted(code.relocs, key=lambda r: r.slot)),
            core_relocs=tuple(self._core_relocs(code)),
            func_infos=tuple(FuncInfo(slot, record[1]) for slot, record in code.records(self._funcs)),
            line_infos=tuple(self._line_infos(code)),
        )

    def _line_infos(self, code: "_Code") -> Iterator[LineInfo]:
        if self._btf is None:
            return
        for slot, (_, path_off, text_off, place, *_) in code.records(self._lines):
            yield LineInfo(slot, self._text(path_off), place >> 10, place & 0x3FF, self._text(text_off), path_off, text_off)

    def _text(self, offset: int) -> str:
        """A string of the object's types: many lines are of one file, and many instructions of one line."""
        known = self._texts.get(offset)
        if known is None:
            assert self._btf is not None
            known = self._texts[offset] = self._btf.string(offset)
        return known

    def _core_relocs(self, code: "_Code") -> Iterator[CoreReloc]:
        if self._btf is None:
            return
        for slot, row in code.records(self._core):
            yield CoreReloc(slot, row[1], self._btf.string(row[2]), row[3])


class _Code:
    """The code of one program while it grows."""

    def __init__(self, linker: Linker) -> None:
        self._linker = linker
        self._starts: dict[tuple[int, int], tuple[int, Function]] = {}
        self.code = bytearray()
        self.relocs: list[Reloc] = []

    def add(self, entry: Function) -> None:
        """Append a function and what it reaches. Depth first, as libbpf does it: a program's tag depends on the order."""
        if entry.key in self._starts:
            return
        self._append(entry)
        walks = [self._walk(entry)]
        while walks:
            callee = next(walks[-1], None)
            if callee is None:
                walks.pop()
            else:
                self._append(callee)
                walks.append(self._walk(callee))

    def records(self, tables: Mapping[str, _Table]) -> Iterator[tuple[int, _Record]]:
        """The records of the functions in this program, with their slot in it."""
        for start, function in self._starts.values():
            table = tables.get(function.section.name)
            if table is not None:
                for slot, record in table.within(function.begin, function.end):
                    yield start + slot - function.begin, record

    def _append(self, function: Function) -> None:
        self._starts[function.key] = len(self.code) // 8, function
        self.code += function.section.data[function.begin * 8 : function.end * 8]
        if len(self.code) > _MOST_SLOTS * 8:
            raise self._bad(f"has more than {_MOST_SLOTS} instructions with its subprograms", f"program {function.name!r}")

    def _bad(self, why: str, where: str) -> FormatError:
        return FormatError(why, path=self._linker.elf.path, where=where)

    def _extern(self, name: str, where: str) -> Extern:
        extern = self._linker.externs.get(name)
        if extern is None:
            error = self._bad(f"{name!r} is declared but defined nowhere", where)
            error.hint = "a function or variable of the kernel is declared with __ksym, a kernel option with __kconfig"
            raise error
        return extern

    def _walk(self, function: Function) -> Iterator[Function]:
        """Resolve the function's instructions; yields each function that has to be appended before going on."""
        start, _ = self._starts[function.key]
        relocations = self._linker.relocations.get(function.section.index, {})
        for slot in _unresolved(function, relocations):
            relocation = relocations.get(slot)
            where = f"function {function.name!r}, insn {slot - function.begin}"
            if slot in function.halves:
                raise self._bad("a relocation of the middle of an instruction", where)
            here = start + slot - function.begin
            callee: tuple[int, int] | None = None
            if relocation is not None:
                callee = self._relocate(here, relocation.type, self._linker.elf.symbols[relocation.symbol], where)
            else:
                callee = function.section.index, slot + self._imm(here) + 1
            if callee is not None:
                target = self._linker.functions.get(callee)
                if target is None:
                    raise self._bad(f"calls slot {callee[1]} of its section, where no function begins", where)
                if callee not in self._starts:
                    yield target
                _IMM.pack_into(self.code, here * 8 + 4, self._starts[callee][0] - here - 1)

    def _imm(self, here: int) -> int:
        value: int = _IMM.unpack_from(self.code, here * 8 + 4)[0]
        return value

    def _put(self, here: int, src: int, imm: int | None = None, imm_hi: int | None = None, where: str = "") -> None:
        """Change an instruction's source register and immediates."""
        at = here * 8
        self.code[at + 1] = self.code[at + 1] & 0xF | src << 4
        for place, value in ((at + 4, imm), (at + 12, imm_hi)):
            if value is not None:
                if not -1 << 31 <= value < 1 << 31:
                    raise self._bad(f"offset {value} does not fit into 32 bits", where)
                _IMM.pack_into(self.code, place, value)

    def _relocate(self, here: int, kind: int, symbol: Symbol, where: str) -> tuple[int, int] | None:
        """Make the instruction what it is to be; the answer is the function that it calls or whose address it takes."""
        opcode = self.code[here * 8]
        if kind == _R_64_32:
            if opcode != CALL:
                raise self._bad("a call's relocation is on another instruction", where)
            if symbol.section == _UNDEFINED:
                self._extern(symbol.name, where)
                self.relocs.append(Reloc(here, RelocKind.KFUNC, symbol.name))
                self._put(here, CallSrc.KFUNC_CALL, 0)
                return None
            # Clang leaves -1 in a call by the function's own symbol, and the distance from the section's beginning otherwise.
            offset = self._imm(here) + 1 if symbol.kind == _SECTION_SYMBOL else 0
            self._put(here, CallSrc.PSEUDO_CALL)
            return symbol.section, symbol.value // 8 + offset
        if kind != _R_64_64 or opcode != LD_IMM64:
            raise self._bad(f"relocation of type {kind} on opcode {opcode:#x} is not known", where)
        if symbol.section == _UNDEFINED:
            extern = self._extern(symbol.name, where)
            if extern.kind == ExternKind.KCONFIG:
                offset = extern.offset + self._imm(here)
                self.relocs.append(Reloc(here, RelocKind.MAP_VALUE, KCONFIG, offset))
                self._put(here, PseudoSrc.MAP_VALUE, 0, offset, where)
                return None
            self.relocs.append(Reloc(here, RelocKind.KSYM, symbol.name))
            return None
        if symbol.section >= len(self._linker.elf.sections):
            raise self._bad(f"symbol {symbol.name!r} has no section", where)
        section = self._linker.elf.sections[symbol.section]
        if section.name == ".maps":
            if symbol.name not in self._linker.maps:
                raise self._bad(f"map {symbol.name!r} is not defined" if symbol.name else "a static map: leave 'static' out", where)
            self.relocs.append(Reloc(here, RelocKind.MAP_FD, symbol.name))
            self._put(here, PseudoSrc.MAP_FD, 0, 0)
            return None
        # The addend stands in the instruction: for a section's symbol it is the offset in the section.
        offset = symbol.value + self._imm(here)
        if section.flags & EXECUTABLE:
            self._put(here, PseudoSrc.FUNC, None, 0)
            return section.index, offset // 8
        name = self._linker.arena if section.name == ARENA else section.name
        if name not in self._linker.maps:
            raise self._bad(f"refers to section {section.name!r}, which is no map", where)
        if not 0 <= offset <= section.size:
            raise self._bad(f"offset {offset} is outside section {section.name!r}", where)
        self.relocs.append(Reloc(here, RelocKind.MAP_VALUE, name, offset))
        self._put(here, PseudoSrc.MAP_VALUE, 0, offset, where)
        return None
