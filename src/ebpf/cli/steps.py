"""What `-d` prints of a load, in libbpf's words: what stands in the object, then each map and program as the kernel takes it."""

import errno
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

from ebpf.cli.context import Context
from ebpf.elf import ElfFile, Section, SectionType, Symbol
from ebpf.errors import KernelError, errno_name
from ebpf.isa.opcodes import CALL
from ebpf.spec import MapSpec, ObjectSpec
from ebpf.sys.calls import Call, MapCreate, ProgLoad, R
from ebpf.sys.kernel import Kernel

_FUNC, _SECTION_SYMBOL = 2, 3
_EXECUTABLE = 1 << 2
_LLVM_ADDRSIG = 0x6FFF4C03
# What a reader of maps and code has no use for.
_UNREAD = re.compile(r"(\.rel)?\.debug_.*|\.rel\.BTF(\.ext)?")
# Instructions, states, statistics.
_ALL_LEVELS = 7


def opened(elf: ElfFile, spec: ObjectSpec) -> Iterator[str]:
    """What stands in an object, in the order in which libbpf reads it."""
    yield f"loading object from {elf.path}"
    for section in elf.sections[1:]:
        empty = section.name == ".text" and not section.size
        if section.type in (SectionType.STRTAB, _LLVM_ADDRSIG) or _UNREAD.fullmatch(section.name) or empty:
            continue
        flags = f"flags {section.flags:x}, type={section.type}"
        yield f"elf: section({section.index}) {section.name}, size {section.size}, link {section.link}, {flags}"
        if section.name == "license":
            yield f"license of {elf.path} is {spec.license}"
        elif section.type == SectionType.PROGBITS and section.flags & _EXECUTABLE:
            for function in _functions(elf, section):
                at = f"insn offset {function.value // 8} ({function.value} bytes)"
                size = f"code size {function.size // 8} insns ({function.size} bytes)"
                yield f"sec '{section.name}': found program '{function.name}' at {at}, {size}"
    yield f"looking for externs among {len(elf.symbols)} symbols..."
    yield f"collected {len(spec.externs)} externs total"
    for number, extern in enumerate(spec.externs.values()):
        yield f"extern ({'kcfg' if extern.size else 'ksym'}) #{number}: name {extern.name}"
    for number, held in enumerate(spec.maps.values()):
        yield from _map(elf, number, held)
    for section in elf.sections:
        if section.type == SectionType.REL and section.info < len(elf.sections):
            yield from _relocations(elf, spec, section, elf.sections[section.info])


def _functions(elf: ElfFile, section: Section) -> Iterator[Symbol]:
    return (s for s in elf.symbols if s.section == section.index and s.kind == _FUNC)


def _map(elf: ElfFile, number: int, held: MapSpec) -> Iterator[str]:
    section = elf.section(held.section)
    index = section.index if section is not None else 0
    if held.section != ".maps":
        yield f"map '{held.name}' (global data): at sec_idx {index}, offset 0, flags {held.flags:x}."
        yield f'map {number} is "{held.name}"'
        return
    at = next((s.value for s in elf.symbols if s.section == index and s.name[:15] == held.name), 0)
    yield f"map '{held.name}': at sec_idx {index}, offset {at}."
    yield from _fields(held.name, held)


def _fields(name: str, held: MapSpec) -> Iterator[str]:
    yield f"map '{name}': found type = {held.type}."
    for what, id_, size in (("key", held.key_type_id, held.key_size), ("value", held.value_type_id, held.value_size)):
        if id_:
            yield f"map '{name}': found {what} [{id_}], sz = {size}."
        elif size and not (what == "value" and held.inner is not None):
            yield f"map '{name}': found {what}_size = {size}."
    if held.max_entries:
        yield f"map '{name}': found max_entries = {held.max_entries}."
    for what, value, form in (("map_flags", held.flags, "#x"), ("map_extra", held.map_extra, "#x"), ("pinning", held.pinning, "")):
        if value:
            yield f"map '{name}': found {what} = {value:{form}}."
    if held.inner is not None:
        yield f"map '{name}': found inner map definition."
        yield from _fields(f"{name}.inner", held.inner)


def _relocations(elf: ElfFile, spec: ObjectSpec, section: Section, target: Section) -> Iterator[str]:
    if not target.flags & _EXECUTABLE:
        return
    head = f"sec '{section.name}'"
    yield f"{head}: collecting relocation for section({target.index}) '{target.name}'"
    functions = list(_functions(elf, target))
    for number, relocation in enumerate(elf.relocations.get(target.index, ())):
        symbol = elf.symbols[relocation.symbol]
        name = symbol.name
        if symbol.kind == _SECTION_SYMBOL and not name:
            name = elf.sections[symbol.section].name
        yield f"{head}: relo #{number}: insn #{relocation.offset // 8} against '{name}'"
        function = next((f for f in functions if f.value <= relocation.offset < f.value + f.size), None)
        if function is not None and target.data[relocation.offset] != CALL:
            yield from _found(elf, spec, symbol, function.name, (relocation.offset - function.value) // 8)


def _found(elf: ElfFile, spec: ObjectSpec, symbol: Symbol, program: str, insn: int) -> Iterator[str]:
    """What an instruction's symbol is: a map, or a section of global variables."""
    if not symbol.section:
        number = list(spec.externs).index(symbol.name)
        yield f"prog '{program}': found extern #{number} '{symbol.name}' (sym {elf.symbols.index(symbol)}) for insn #{insn}"
    elif symbol.section < len(elf.sections):
        place = elf.sections[symbol.section].name
        key = symbol.name if place == ".maps" else place
        if key in spec.maps:
            number, data = list(spec.maps).index(key), place != ".maps"
            at = f"({spec.maps[key].name}, sec {symbol.section}, off {0 if data else symbol.value})"
            yield f"prog '{program}': found {'data map' if data else 'map'} {number} {at} for insn {insn if data else f'#{insn}'}"


class Steps:
    """Wraps a kernel: says which maps could not be made; with -d each that was, and what the verifier did, at all its levels."""

    def __init__(self, kernel: Kernel, context: Context) -> None:
        self._kernel = kernel
        self._context = context

    def bpf(self, call: Call[R]) -> R:
        """Carry out one command."""
        if isinstance(call, MapCreate):
            return cast(R, self._create(call))
        if isinstance(call, ProgLoad) and self._context.debug:
            return cast(R, self._load(call))
        return self._kernel.bpf(call)

    def _create(self, call: MapCreate) -> int:
        try:
            fd = self._kernel.bpf(call)
        except KernelError as error:
            code = errno_name(error.errno)
            if call.btf_key_type_id or call.btf_value_type_id:
                say(self._context, f"Error in bpf_create_map_xattr({call.name}): -{code}. Retrying without BTF.")
            else:
                say(self._context, f"map '{call.name}': failed to create: -{code}")
            raise
        if self._context.debug:
            say(self._context, f"map '{call.name}': created successfully, fd={fd}")
        return fd

    def _load(self, call: ProgLoad) -> object:
        try:
            loaded = self._kernel.bpf(replace(call, log_level=_ALL_LEVELS, log_size=1 << 24))
        except KernelError as error:
            if error.errno != errno.ENOSPC:
                raise
            # The log is larger than what Linux keeps of it.
            loaded = self._kernel.bpf(call)
        if loaded.log:
            say(self._context, log(call.name, loaded.log))
        return loaded

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernel, name)


def say(context: Context, text: str) -> None:
    """A line about the load, beside what the command itself says."""
    context.note(f"libbpf: {text}" if context.command == "bpftool" else text)


def log(program: str, text: str) -> str:
    """The verifier's log of a program, as libbpf frames it."""
    return f"prog '{program}': -- BEGIN PROG LOAD LOG --\n{text.rstrip()}\n-- END PROG LOAD LOG --"
