"""Maps of an object: those that C defines with BTF in `.maps`, and one for each section of global variables."""

from bisect import bisect_right
from collections.abc import Mapping

from ebpf.btf import Btf, Kind, SectionVar
from ebpf.btf import Type as BtfType
from ebpf.btf.types import ENUMS
from ebpf.elf.externs import KCONFIG, kconfig_size
from ebpf.elf.file import ElfFile, Section
from ebpf.errors import FormatError
from ebpf.records import changed
from ebpf.spec import DataVar, Extern, ExternKind, MapSpec
from ebpf.uapi import MapFlag, MapType

_NAME_LEN = 15
# LIBBPF_PIN_BY_NAME.
_BY_NAME = 1
_U32, _U64 = 0xFFFFFFFF, (1 << 64) - 1
_DATA = (".data", ".rodata", ".bss")


def is_data(name: str) -> bool:
    """Whether a section holds global variables."""
    return name in _DATA or name.startswith((".data.", ".rodata.", ".bss."))


#: Where the variables of an arena are, and the structs of functions that the kernel calls (`?`: only where it is asked for).
ARENA = ".addr_space.1"
STRUCT_OPS = (".struct_ops", ".struct_ops.link", "?.struct_ops", "?.struct_ops.link")

# The linkage of a static variable.
_STATIC = 0
_FUNC = 2


def data_map(elf: ElfFile, section: Section, btf: Btf | None, object_name: str) -> MapSpec:
    """The array map of one element that holds a section's variables, named as libbpf names it."""
    read_only = section.name.startswith(".rodata")
    sec = btf.find(section.name, Kind.DATASEC) if btf is not None else None
    # Only what C names from outside is worth mapping: strings of the compiler's are not.
    mapped = btf is not None and sec is not None and any(btf.type(v.type_id).info != _STATIC for v in sec.variables)
    flags = (MapFlag.MMAPABLE if mapped else MapFlag(0)) | (MapFlag.RDONLY_PROG if read_only else MapFlag(0))
    variables = _variables(elf, section, btf, sec)
    return MapSpec(
        name=data_name(object_name, section.name),
        type=MapType.ARRAY,
        key_size=4,
        value_size=section.size,
        max_entries=1,
        flags=int(flags),
        value_type_id=sec.id if sec is not None else 0,
        section=section.name,
        initial=section.data if section.data else bytes(section.size),
        frozen=read_only,
        variables=variables,
    )


def with_arena(elf: ElfFile, section: Section, btf: Btf | None, maps: Mapping[str, MapSpec]) -> dict[str, MapSpec]:
    """The maps, the one arena among them with the variables that lie in it."""
    arenas = [name for name, held in maps.items() if held.type == MapType.ARENA]
    if len(arenas) != 1:
        why = f"has variables of an arena, and there are {len(arenas)} arenas"
        raise FormatError(why, path=elf.path, where=f"section {section.name!r}")
    sec = btf.find(section.name, Kind.DATASEC) if btf is not None else None
    initial = section.data if section.data else bytes(section.size)
    return {**maps, arenas[0]: changed(maps[arenas[0]], initial=initial, variables=_variables(elf, section, btf, sec))}


def struct_ops_maps(elf: ElfFile, section: Section, btf: Btf) -> dict[str, MapSpec]:
    """A map for each struct of functions; `slots` has, by the place in the struct, the program that is called there."""
    sec = btf.find(section.name, Kind.DATASEC)
    if sec is None:
        raise FormatError("has no type information", path=elf.path, where=f"section {section.name!r}")
    functions = {(s.section, s.value): s.name for s in elf.symbols if s.kind == _FUNC and s.name}
    out = {}
    for variable in sec.variables:
        var = btf.type(variable.type_id)
        end = variable.offset + variable.size
        data = section.data[variable.offset : end].ljust(variable.size, b"\0")
        slots = []
        for row in elf.relocations.get(section.index, ()):
            if variable.offset <= row.offset < end:
                symbol, at = elf.symbols[row.symbol], row.offset - variable.offset
                addend = int.from_bytes(data[at : at + 8], "little")
                name = symbol.name if symbol.kind == _FUNC else functions.get((symbol.section, symbol.value + addend), "")
                if not name:
                    raise FormatError(f"byte {row.offset} refers to no function", path=elf.path, where=f"section {section.name!r}")
                slots.append((at, name))
        out[var.name] = MapSpec(
            name=var.name[:_NAME_LEN],
            type=MapType.STRUCT_OPS,
            key_size=4,
            value_size=variable.size,
            max_entries=1,
            flags=int(MapFlag.LINK) if section.name.endswith(".link") else 0,
            value_type_id=btf.resolve(var.ref).id,
            section=section.name,
            initial=data,
            slots=tuple(slots),
        )
    return out


def kconfig_map(btf: Btf, externs: Mapping[str, Extern], object_name: str) -> MapSpec:
    """The map of the kernel options that an object asks for: filled when it is loaded, and constant from then on."""
    sec = btf.find(KCONFIG, Kind.DATASEC)
    options = [e for e in externs.values() if e.kind == ExternKind.KCONFIG]
    return MapSpec(
        name=data_name(object_name, KCONFIG),
        type=MapType.ARRAY,
        key_size=4,
        value_size=kconfig_size(externs),
        max_entries=1,
        flags=int(MapFlag.MMAPABLE | MapFlag.RDONLY_PROG),
        value_type_id=sec.id if sec is not None else 0,
        section=KCONFIG,
        initial=bytes(kconfig_size(externs)),
        frozen=True,
        variables=tuple(DataVar(e.name, e.offset, e.size, e.type_id) for e in options),
    )


def data_name(object_name: str, section: str) -> str:
    """At most 15 characters: as much of the object's name as fits (8 at most), then the section's; custom sections stand alone."""
    room = 0 if "." in section[1:] else min(max(_NAME_LEN - len(section), 0), 8)
    name = (object_name[:room] + section)[:_NAME_LEN]
    return "".join(c if c.isascii() and (c.isalnum() or c in "_.") else "_" for c in name)


def _variables(elf: ElfFile, section: Section, btf: Btf | None, sec: BtfType | None) -> tuple[DataVar, ...]:
    if btf is not None and sec is not None:
        return tuple(DataVar(btf.type(v.type_id).name, v.offset, v.size, btf.type(v.type_id).ref) for v in sec.variables)
    rows = [s for s in elf.symbols if s.section == section.index and s.kind == 1 and s.name]
    return tuple(DataVar(s.name, s.value, s.size, 0) for s in sorted(rows, key=lambda s: s.value))


def btf_maps(elf: ElfFile, btf: Btf) -> dict[str, MapSpec]:
    """The maps of `.maps`, by name."""
    section = elf.section(".maps")
    sec = btf.find(".maps", Kind.DATASEC)
    if section is None:
        return {}
    if sec is None:
        raise FormatError("has no type information", path=elf.path, where=".maps")
    out: dict[str, MapSpec] = {}
    for variable in sec.variables:
        var = btf.type(variable.type_id)
        out[var.name] = _definition(btf, var.name, btf.resolve(var.ref), elf.path)
    slots: dict[str, list[tuple[int, str]]] = {}
    places = [variable.offset for variable in sec.variables]
    for relocation in elf.relocations.get(section.index, ()):
        at = bisect_right(places, relocation.offset) - 1
        name, index = _slot(btf, sec.variables[at], relocation.offset) if at >= 0 else ("", -1)
        if name not in out:
            raise FormatError(f"a relocation at byte {relocation.offset}, where no .values lie", path=elf.path, where=".maps")
        slots.setdefault(name, []).append((index, elf.symbols[relocation.symbol].name))
    return out | {name: changed(out[name], slots=tuple(rows)) for name, rows in slots.items()}


def _slot(btf: Btf, variable: SectionVar, offset: int) -> tuple[str, int]:
    """The map and index that `.values = {[index] = ...}` fills: clang leaves a relocation at the element's place."""
    var = btf.type(variable.type_id)
    values = next((m for m in btf.resolve(var.ref).members if m.name == "values"), None)
    at = offset - variable.offset - (values.bits // 8 if values is not None else 0)
    return (var.name, at // 8) if values is not None and at >= 0 and not at % 8 else ("", -1)


def _number(btf: Btf, type_id: int, where: str, path: str) -> int:
    """__uint(x, N) is a pointer to an array of N ints: the length is the number. __ulong(x, N) is an enum of that one number."""
    pointer = btf.resolve(type_id)
    if pointer.kind in ENUMS and len(pointer.enumerators) == 1:
        return pointer.enumerators[0].value & _U64
    array = btf.resolve(pointer.ref) if pointer.kind == Kind.PTR else pointer
    if array.kind != Kind.ARRAY:
        raise FormatError("is not written with __uint()", path=path, where=where)
    return array.info


_NUMBERS: dict[str, str] = {
    "type": "type",
    "key_size": "key_size",
    "value_size": "value_size",
    "max_entries": "max_entries",
    "map_flags": "flags",
    "numa_node": "numa_node",
    "pinning": "pinning",
    "map_extra": "map_extra",
}


def _definition(btf: Btf, name: str, struct: BtfType, path: str, *, inner: bool = False) -> MapSpec:
    if struct.kind != Kind.STRUCT:
        raise FormatError("is not a struct", path=path, where=f"map {name!r}")
    numbers: dict[str, int] = {}
    types: dict[str, int] = {}
    inner_spec: MapSpec | None = None
    for member in struct.members:
        where = f"map {name!r}, {member.name}"
        if member.name in _NUMBERS:
            numbers[_NUMBERS[member.name]] = _number(btf, member.type_id, where, path)
        elif member.name in ("key", "value"):
            pointer = btf.resolve(member.type_id)
            if pointer.kind != Kind.PTR:
                raise FormatError("is not written with __type()", path=path, where=where)
            types[member.name] = pointer.ref
            size = btf.size_of(pointer.ref)
            if numbers.setdefault(f"{member.name}_size", size) != size:
                raise FormatError(f"{size} bytes, but {member.name}_size says {numbers[member.name + '_size']}", path=path, where=where)
        elif member.name == "values" and not inner:
            inner_spec = _inner(btf, name, member.type_id, path)
            numbers.setdefault("value_size", 4)
        else:
            raise FormatError("is no field of a map definition", path=path, where=where)
    if any(number > _U32 for name, number in numbers.items() if name != "map_extra"):
        raise FormatError("a key or value larger than 4 GiB", path=path, where=f"map {name!r}")
    if numbers.get("pinning", 0) > (0 if inner else _BY_NAME):
        why = "an inner map is not pinned" if inner else f"is {numbers['pinning']}; it is LIBBPF_PIN_NONE (0) or LIBBPF_PIN_BY_NAME (1)"
        raise FormatError(why, path=path, where=f"map {name!r}, pinning")
    if "type" not in numbers:
        raise FormatError("has no type", path=path, where=f"map {name!r}")
    return MapSpec(
        name=name[:_NAME_LEN],
        type=numbers["type"],
        key_size=numbers.get("key_size", 0),
        value_size=numbers.get("value_size", 0),
        max_entries=numbers.get("max_entries", 0),
        key_type_id=types.get("key", 0),
        value_type_id=types.get("value", 0),
        section=".maps",
        inner=inner_spec,
        flags=numbers.get("flags", 0),
        numa_node=numbers.get("numa_node", 0),
        pinning=numbers.get("pinning", 0),
        map_extra=numbers.get("map_extra", 0),
    )


def _inner(btf: Btf, name: str, type_id: int, path: str) -> MapSpec | None:
    array = btf.resolve(type_id)
    element = btf.resolve(array.ref) if array.kind == Kind.ARRAY else array
    target = btf.resolve(element.ref) if element.kind == Kind.PTR else element
    if target.kind == Kind.FUNC_PROTO:
        return None
    return _definition(btf, f"{name}.inner", target, path, inner=True)
