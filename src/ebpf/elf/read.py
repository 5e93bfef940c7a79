"""Bytes of an object file to an ObjectSpec: sections to programs and maps, relocations resolved as far as no kernel is needed."""

import os
import re
from collections.abc import Mapping

from ebpf.btf import Btf, Kind, place_variables
from ebpf.elf.ext import Ext, read_ext
from ebpf.elf.externs import KCONFIG, kconfig_size, read_externs, settle
from ebpf.elf.file import ElfFile, Section, SectionType, Symbol, read_elf
from ebpf.elf.link import EXECUTABLE, Function, Linker
from ebpf.elf.maps import ARENA, STRUCT_OPS, btf_maps, data_map, is_data, kconfig_map, struct_ops_maps, with_arena
from ebpf.errors import FormatError
from ebpf.isa.opcodes import LD_IMM64
from ebpf.spec import Extern, MapSpec, ObjectSpec, ProgramSpec
from ebpf.uapi import ProgType
from ebpf.uapi.sections import Section as SectionRow
from ebpf.uapi.sections import section_row

_FUNC, _LOCAL = 2, 0
_SLEEPABLE, _XDP_FRAGS = 1 << 4, 1 << 5
_MOST_DATA = 1 << 26
_FREE_FORM = SectionRow("", ProgType.UNSPEC)


def read_object(data: bytes, path: str = "", *, section: str = "") -> ObjectSpec:
    """Read a compiled eBPF object. The same bytes give the same spec on any machine.

    `section` is what every program is taken for, whatever section it stands in ("": its own). A program whose section's name says
    nothing has no type (UNSPEC): only who loads it needs one.
    `ObjectSpec.maps` is keyed by the C name, and for global variables by the section (".bss"); `MapSpec.name` is the kernel's.

    Raises FormatError (path, where, why) for anything that is not a whole eBPF object.
    """
    elf = read_elf(data, path)
    btf = read_types(elf)
    externs = read_externs(elf, btf)
    if btf is not None:
        btf = settle(btf, externs, {s.name for s in elf.symbols if s.kind == _FUNC and s.hidden})
    maps = _maps(elf, btf, externs)
    functions = _functions(elf)
    licence = _text(elf, "license")
    linker = Linker(elf, btf, _records(elf, btf), functions, maps, externs)
    programs: dict[str, ProgramSpec] = {}
    for function in functions.values():
        # The functions of .text are subprograms: each program that calls one gets its own copy. One that is alone is a program for
        # who asks for it.
        if function.section.name == ".text" and len(functions) > 1:
            continue
        if function.name in programs:
            raise FormatError("is defined twice", path=path, where=f"program {function.name!r}")
        programs[function.name] = _program(linker, function, licence, section)
    return ObjectSpec(path=path, programs=programs, maps=maps, externs=externs, btf=btf, license=licence)


def object_name(path: str) -> str:
    """The name that libbpf gives an object: the file's name up to its first dot, other characters than letters and digits as `_`."""
    return re.sub(r"[^A-Za-z0-9_]", "_", os.path.basename(path).partition(".")[0]) or "obj"


def _text(elf: ElfFile, name: str) -> str:
    section = elf.section(name)
    return section.data.split(b"\0", 1)[0].decode("ascii", "replace") if section is not None else ""


def read_types(elf: ElfFile) -> Btf | None:
    """The object's types, ready for a kernel: the sizes of sections and the offsets of variables, which clang leaves open, filled in."""
    section = elf.section(".BTF")
    if section is None or not section.data:
        return None
    btf = Btf.parse(section.data, elf.path)
    sizes = {s.name: s.size for s in elf.sections if s.name and s.type in (SectionType.PROGBITS, SectionType.NOBITS)}
    names = [btf.name(id_) for id_ in range(1, len(btf)) if btf.kind(id_) == Kind.DATASEC]
    placed = {name: sizes[name] for name in names if name in sizes}
    if not placed:
        return btf
    holding = {s.index for s in elf.sections if s.name in placed}
    offsets: dict[str, int] = {}
    again: set[str] = set()
    for symbol in elf.symbols:
        if symbol.section in holding and symbol.name:
            if symbol.name in offsets:
                again.add(symbol.name)
            offsets[symbol.name] = symbol.value
    # Static variables of one name come out of a linker, which has filled in where they are.
    return place_variables(btf, placed, {name: at for name, at in offsets.items() if name not in again})


def _records(elf: ElfFile, btf: Btf | None) -> Ext:
    section = elf.section(".BTF.ext")
    if section is None or btf is None or not section.data:
        return Ext()
    return read_ext(section.data, btf, elf.path)


def _maps(elf: ElfFile, btf: Btf | None, externs: Mapping[str, Extern]) -> dict[str, MapSpec]:
    if elf.section("maps") is not None:
        error = FormatError("legacy map definitions are not read", path=elf.path, where="section 'maps'")
        error.hint = 'write the maps with BTF: struct { __uint(type, ...); ... } name SEC(".maps");'
        raise error
    maps: dict[str, MapSpec] = {}
    defined = elf.section(".maps")
    if defined is not None:
        if btf is None:
            error = FormatError("has maps but no types", path=elf.path, where=".maps")
            error.hint = "compile with -g"
            raise error
        maps |= btf_maps(elf, btf)
    name, room = object_name(elf.path), _MOST_DATA
    for section in elf.sections:
        if section.name == ARENA and section.size:
            maps = with_arena(elf, _bounded(elf, section, room), btf, maps)
        elif section.name in STRUCT_OPS and btf is not None:
            maps |= struct_ops_maps(elf, _bounded(elf, section, room), btf)
        if not is_data(section.name) or not section.size:
            continue
        where = f"section {section.name!r}"
        if section.type not in (SectionType.PROGBITS, SectionType.NOBITS):
            raise FormatError(f"has type {section.type}", path=elf.path, where=where)
        room -= section.size
        if room < 0:
            raise FormatError(f"with its {section.size} bytes there are more than {_MOST_DATA} of variables", path=elf.path, where=where)
        maps[section.name] = data_map(elf, section, btf, name)
    if kconfig_size(externs) and btf is not None:
        maps[KCONFIG] = kconfig_map(btf, externs, name)
    return maps


def _bounded(elf: ElfFile, section: Section, room: int) -> Section:
    """A section of variables that is not too large."""
    if section.size > room:
        raise FormatError(f"has {section.size} bytes of variables", path=elf.path, where=f"section {section.name!r}")
    return section


def _functions(elf: ElfFile) -> dict[tuple[int, int], Function]:
    """The functions of executable sections by section and first slot, in the order of the file."""
    symbols: dict[int, dict[int, Symbol]] = {}
    for symbol in elf.symbols:
        if symbol.kind == _FUNC and symbol.name and symbol.size:
            symbols.setdefault(symbol.section, {})[symbol.value] = symbol
    out: dict[tuple[int, int], Function] = {}
    for section in elf.sections:
        if section.type != SectionType.PROGBITS or not section.flags & EXECUTABLE or not section.data:
            continue
        halves = _halves(section, elf.path)
        end = 0
        for symbol in sorted(symbols.get(section.index, {}).values(), key=lambda s: s.value):
            function = _function(symbol, section, halves, elf.path)
            if function.begin < end:
                raise FormatError("overlaps the function before it", path=elf.path, where=f"function {symbol.name!r}")
            end = function.end
            out[function.key] = function
    return out


def _halves(section: Section, path: str) -> set[int]:
    """The slots of a section that are the second of an ld_imm64. Raises FormatError for half an instruction."""
    data, where = section.data, f"section {section.name!r}"
    if len(data) % 8:
        raise FormatError(f"bytecode of {len(data)} bytes is not a whole number of 8-byte slots", path=path, where=where)
    opcodes, out = data[::8], set[int]()
    at = opcodes.find(LD_IMM64)
    while at >= 0:
        if at + 1 == len(opcodes) or any(data[at * 8 + 8 : at * 8 + 12]):
            raise FormatError("ld_imm64 without its second half", path=path, where=f"{where}, insn {at - len(out)}")
        out.add(at + 1)
        at = opcodes.find(LD_IMM64, at + 2)
    return out


def _function(symbol: Symbol, section: Section, halves: set[int], path: str) -> Function:
    begin, end = symbol.value // 8, (symbol.value + symbol.size) // 8
    torn = symbol.value % 8 or symbol.size % 8 or end > len(section.data) // 8 or begin in halves or end in halves
    if torn:
        raise FormatError("does not lie in its section", path=path, where=f"function {symbol.name!r}")
    return Function(symbol.name, section, begin, end, halves, symbol.binding)


def _program(linker: Linker, function: Function, licence: str, taken_for: str = "") -> ProgramSpec:
    section, path = function.section.name, linker.elf.path
    where = f"section {section!r}, program {function.name!r}"
    if function.binding == _LOCAL and section != ".text":
        error = FormatError("a static function cannot be a program", path=path, where=where)
        error.hint = "leave 'static' out, or SEC() if it is a subprogram"
        raise error
    row, target = section_row(taken_for or section.removeprefix("?")) or (_FREE_FORM, "")
    linked = linker.link(function)
    return ProgramSpec(
        name=function.name,
        section=section,
        type=int(row.type),
        insns=linked.insns,
        license=licence,
        attach_type=None if row.attach is None else int(row.attach),
        attach_to=target,
        relocs=linked.relocs,
        core_relocs=linked.core_relocs,
        func_infos=linked.func_infos,
        line_infos=linked.line_infos,
        flags=(_SLEEPABLE if row.sleepable else 0) | (_XDP_FRAGS if row.frags else 0),
        autoload=not section.startswith("?") and (section != ".text" or bool(taken_for)),
    )
