"""Bytes of an object file to an ObjectSpec: sections to programs and maps, relocations resolved as far as no kernel is needed."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import PurePath

from ebpf.btf import Btf, Kind, place_variables
from ebpf.elf.ext import Ext, read_ext
from ebpf.elf.file import ElfFile, Section, SectionType, Symbol, read_elf
from ebpf.elf.maps import btf_maps, data_map, is_data
from ebpf.errors import FormatError
from ebpf.isa import Insn, by_slot, decode, encode
from ebpf.isa.opcodes import CALL, LD_IMM64
from ebpf.spec import CoreReloc, FuncInfo, LineInfo, MapSpec, ObjectSpec, ProgramSpec, Reloc, RelocKind
from ebpf.uapi import CallSrc, PseudoSrc
from ebpf.uapi.sections import section_row

_EXECUTABLE = 0x4
_R_64_64, _R_64_32 = 1, 10
_FUNC, _SECTION = 2, 3
_SLEEPABLE, _XDP_FRAGS = 1 << 4, 1 << 5
_UNDEFINED = 0


@dataclass(slots=True)
class _Function:
    """A function of a section: its slots [begin, end) and instructions."""

    name: str
    section: Section
    begin: int
    end: int
    insns: tuple[Insn, ...]
    binding: int


def read_object(data: bytes, path: str = "") -> ObjectSpec:
    """Read a compiled eBPF object. The same bytes give the same spec on any machine.

    Raises FormatError (path, where, why) for anything that is not a whole eBPF object.
    """
    elf = read_elf(data, path)
    return _Reader(elf, path).read()


def object_name(path: str) -> str:
    """The name that libbpf gives an object: the file's name up to its first `.o`-like ending, letters and digits."""
    name = PurePath(path).name
    for ending in (".bpf.o", ".o"):
        if name.endswith(ending):
            name = name.removesuffix(ending)
            break
    name = name.partition(".")[0]
    return re.sub(r"[^A-Za-z0-9_]", "_", name) or "obj"


class _Reader:
    def __init__(self, elf: ElfFile, path: str) -> None:
        self._elf = elf
        self._path = path
        self._btf = self._read_btf()
        self._ext = self._read_ext()
        self._functions = self._find_functions()
        self._map_names: dict[int, str] = {}

    def read(self) -> ObjectSpec:
        maps = self._maps()
        licence = self._text("license")
        programs: dict[str, ProgramSpec] = {}
        for function in self._functions:
            spec = self._program(function, maps, licence)
            if spec is None:
                continue
            if spec.name in programs:
                raise FormatError("is defined twice", path=self._path, where=f"program {spec.name!r}")
            programs[spec.name] = spec
        return ObjectSpec(path=self._path, programs=programs, maps=maps, btf=self._btf, license=licence)

    # -- sections

    def _bad(self, why: str, where: str = "") -> FormatError:
        return FormatError(why, path=self._path, where=where)

    def _text(self, name: str) -> str:
        section = self._elf.section(name)
        return section.data.split(b"\0", 1)[0].decode("ascii", "replace") if section is not None else ""

    def _read_btf(self) -> Btf | None:
        section = self._elf.section(".BTF")
        if section is None or not section.data:
            return None
        btf = Btf.parse(section.data, self._path)
        sizes = {s.name: s.size for s in self._elf.sections if s.name and s.type in (SectionType.PROGBITS, SectionType.NOBITS)}
        offsets: dict[str, int] = {}
        for sec in btf:
            if sec.kind == Kind.DATASEC and sec.name in sizes:
                names = {btf.type(v.type_id).name for v in sec.variables}
                for symbol in self._elf.symbols:
                    if symbol.name in names and symbol.section < len(self._elf.sections):
                        offsets[symbol.name] = symbol.value
        placed = {t.name: sizes[t.name] for t in btf if t.kind == Kind.DATASEC and t.name in sizes}
        return place_variables(btf, placed, offsets, {}) if placed else btf

    def _read_ext(self) -> Ext:
        section = self._elf.section(".BTF.ext")
        if section is None or self._btf is None or not section.data:
            return Ext()
        return read_ext(section.data, self._btf.strings, self._path)

    def _maps(self) -> dict[str, MapSpec]:
        if self._elf.section("maps") is not None:
            error = self._bad("legacy map definitions are not read", where="section 'maps'")
            error.hint = 'write the maps with BTF: struct { __uint(type, ...); ... } name SEC(".maps");'
            raise error
        maps: dict[str, MapSpec] = {}
        if self._elf.section(".maps") is not None:
            if self._btf is None:
                raise self._bad("has maps but no BTF: compile with -g", where=".maps")
            maps |= btf_maps(self._elf, self._btf)
        name = object_name(self._path)
        for section in self._elf.sections:
            if is_data(section.name) and section.size:
                if section.type not in (SectionType.PROGBITS, SectionType.NOBITS):
                    raise self._bad(f"has type {section.type}", where=f"section {section.name!r}")
                if section.size > 1 << 26:
                    raise self._bad(f"{section.size} bytes of variables are too many", where=f"section {section.name!r}")
                maps[section.name] = data_map(self._elf, section, self._btf, name)
                self._map_names[section.index] = section.name
        return maps

    # -- functions

    def _find_functions(self) -> list[_Function]:
        out: list[_Function] = []
        for section in self._elf.sections:
            if section.type != SectionType.PROGBITS or not section.flags & _EXECUTABLE or not section.data:
                continue
            try:
                slots = by_slot(decode(section.data))
            except FormatError as error:
                raise self._bad(error.why, where=f"section {section.name!r}") from error
            symbols = {s.value: s for s in self._elf.symbols if s.section == section.index and s.kind == _FUNC and s.name and s.size}
            for symbol in sorted(symbols.values(), key=lambda s: s.value):
                begin, end = symbol.value // 8, (symbol.value + symbol.size) // 8
                if symbol.value % 8 or symbol.size % 8 or end > len(slots) or slots[begin] is None:
                    raise self._bad("does not lie in its section", where=f"function {symbol.name!r}")
                insns = tuple(i for i in slots[begin:end] if i is not None)
                out.append(_Function(symbol.name, section, begin, end, insns, symbol.binding))
        return out

    def _function_at(self, section: int, slot: int) -> _Function | None:
        return next((f for f in self._functions if f.section.index == section and f.begin == slot), None)

    def _program(self, function: _Function, maps: dict[str, MapSpec], licence: str) -> ProgramSpec | None:
        """The program that begins with `function`, its subprograms appended; None for a function of .text."""
        section = function.section.name
        if section == ".text" or (function.binding == 0 and self._is_called(function)):
            return None
        autoload = not section.startswith("?")
        found = section_row(section.removeprefix("?"))
        if found is None:
            error = self._bad("is no section name of a program", where=f"section {section!r}, program {function.name!r}")
            error.hint = 'SEC("xdp"), SEC("kprobe/do_unlinkat"), SEC("tracepoint/syscalls/sys_enter_openat") are such names'
            raise error
        row, target = found
        assembled = _Assembler(self, maps).assemble(function)
        flags = (_SLEEPABLE if row.sleepable else 0) | (_XDP_FRAGS if row.frags else 0)
        return replace(
            assembled,
            section=section,
            type=int(row.type),
            attach_type=None if row.attach is None else int(row.attach),
            attach_to=target,
            license=licence,
            flags=flags,
            autoload=autoload,
        )

    def _is_called(self, function: _Function) -> bool:
        """Whether a static function of a program section is another's subprogram and no entry of its own."""
        return function.section.name == ".text"


class _Assembler:
    """Puts a program together: its entry function, then each subprogram in the order its first call is met."""

    def __init__(self, reader: _Reader, maps: dict[str, MapSpec]) -> None:
        self._reader = reader
        self._elf = reader._elf
        self._btf = reader._btf
        self._maps = maps
        self._code: list[Insn] = []
        self._starts: dict[tuple[int, int], int] = {}
        self._order: list[_Function] = []
        self._relocs: list[Reloc] = []
        self._calls: list[tuple[int, int, _Function]] = []

    def assemble(self, entry: _Function) -> ProgramSpec:
        self._append(entry)
        done = 0
        while done < len(self._calls):
            _, _, callee = self._calls[done]
            done += 1
            if (callee.section.index, callee.begin) not in self._starts:
                self._append(callee)
        for at, slot, callee in self._calls:
            target = self._starts[callee.section.index, callee.begin]
            self._code[at] = replace(self._code[at], imm=target - slot - 1)
        return ProgramSpec(
            name=entry.name,
            section=entry.section.name,
            type=0,
            insns=encode(self._code),
            relocs=tuple(self._relocs),
            core_relocs=tuple(self._core()),
            func_infos=tuple(self._funcs()),
            line_infos=tuple(self._lines()),
        )

    def _append(self, function: _Function) -> None:
        start = sum(i.slots for i in self._code)
        self._starts[function.section.index, function.begin] = start
        self._order.append(function)
        rels = {
            r.offset // 8: r
            for r in self._elf.relocations.get(function.section.index, ())
            if function.begin <= r.offset // 8 < function.end
        }
        slot = function.begin
        for insn in function.insns:
            here = start + slot - function.begin
            where = f"program {function.name!r}, insn {slot - function.begin}"
            relocation = rels.pop(slot, None)
            if relocation is not None:
                insn = self._relocate(insn, here, relocation.type, self._elf.symbols[relocation.symbol], where)
            elif insn.opcode == CALL and insn.src == CallSrc.PSEUDO_CALL:
                self._call(here, function.section.index, slot + insn.imm + 1, where)
            self._code.append(insn)
            slot += insn.slots
        if rels:
            raise self._reader._bad("relocates the middle of an instruction", where=f"program {function.name!r}")

    def _call(self, here: int, section: int, slot: int, where: str) -> None:
        callee = self._reader._function_at(section, slot)
        if callee is None:
            raise self._reader._bad(f"calls slot {slot}, where no function begins", where=where)
        self._calls.append((len(self._code), here, callee))

    def _relocate(self, insn: Insn, here: int, kind: int, symbol: Symbol, where: str) -> Insn:
        if kind == _R_64_32:
            if insn.opcode != CALL:
                raise self._reader._bad("a call's relocation is on another instruction", where=where)
            if symbol.section == _UNDEFINED:
                self._relocs.append(Reloc(here, RelocKind.KFUNC, symbol.name))
                return replace(insn, src=int(CallSrc.KFUNC_CALL), imm=0)
            offset = insn.imm + 1 if symbol.kind == _SECTION else 0
            self._call(here, symbol.section, symbol.value // 8 + offset, where)
            return replace(insn, src=int(CallSrc.PSEUDO_CALL))
        if kind != _R_64_64 or insn.opcode != LD_IMM64:
            raise self._reader._bad(f"relocation of type {kind} on opcode {insn.opcode:#x} is not known", where=where)
        if symbol.section == _UNDEFINED:
            self._relocs.append(Reloc(here, RelocKind.KSYM, symbol.name))
            return insn
        if symbol.section >= len(self._elf.sections):
            raise self._reader._bad(f"symbol {symbol.name!r} has no section", where=where)
        section = self._elf.sections[symbol.section]
        if section.name == ".maps":
            if symbol.name not in self._maps:
                raise self._reader._bad(f"map {symbol.name!r} is not defined", where=where)
            self._relocs.append(Reloc(here, RelocKind.MAP_FD, symbol.name))
            return replace(insn, src=int(PseudoSrc.MAP_FD), imm=0, imm_hi=0)
        if section.flags & _EXECUTABLE:
            self._call(here, section.index, (symbol.value + insn.imm) // 8, where)
            return replace(insn, src=int(PseudoSrc.FUNC), imm_hi=0)
        if section.name in self._maps:
            # The addend stands in the instruction: for a section symbol it is the variable's own offset.
            offset = insn.imm + (0 if symbol.kind == _SECTION else symbol.value)
            if not 0 <= offset <= section.size:
                raise self._reader._bad(f"offset {offset} is outside section {section.name!r}", where=where)
            self._relocs.append(Reloc(here, RelocKind.MAP_VALUE, section.name, offset))
            return replace(insn, src=int(PseudoSrc.MAP_VALUE), imm=0, imm_hi=offset)
        raise self._reader._bad(f"refers to section {section.name!r}, which is no map", where=where)

    # -- information that goes with the code

    def _records(self, table: dict[str, list[tuple[int, ...]]]) -> Iterable[tuple[int, tuple[int, ...]]]:
        """The records of the functions in this program, with their slot in it."""
        for function in self._order:
            start = self._starts[function.section.index, function.begin]
            for record in table.get(function.section.name, ()):
                slot = record[0] // 8
                if function.begin <= slot < function.end:
                    yield start + slot - function.begin, record

    def _funcs(self) -> Iterable[FuncInfo]:
        return (FuncInfo(slot, record[1]) for slot, record in self._records(self._reader._ext.funcs))

    def _lines(self) -> Iterable[LineInfo]:
        if self._btf is None:
            return
        for slot, record in self._records(self._reader._ext.lines):
            _, path_off, text_off, place = record[:4]
            yield LineInfo(slot, self._btf.string(path_off), place >> 10, place & 0x3FF, self._btf.string(text_off), path_off, text_off)

    def _core(self) -> Iterable[CoreReloc]:
        if self._btf is None:
            return
        for slot, record in self._records(self._reader._ext.core):
            yield CoreReloc(slot, record[1], self._btf.string(record[2]), record[3])
