"""ObjectSpec and its parts: plain frozen data that `elf` makes and `object` loads."""

from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple, TypeVar

from ebpf.btf import Btf, Value, write_value
from ebpf.errors import NotFoundError, UsageError, near
from ebpf.records import changed, made_by, names_of, record
from ebpf.uapi import ProgFlag, section_row

T = TypeVar("T")


class RelocKind(Enum):
    """What an instruction's immediate must become at load."""

    MAP_FD = "map"  # ld_imm64 of a map: the descriptor of map `symbol`
    MAP_VALUE = "value"  # ld_imm64 of a variable: descriptor of data map `symbol`, `addend` is the offset in its value
    FUNC = "func"  # ld_imm64 of a subprogram's address: already resolved in the code (imm is the slot distance)
    KFUNC = "kfunc"  # call of a kernel function `symbol`
    KSYM = "ksym"  # ld_imm64 of a kernel variable or function `symbol`


class ExternKind(Enum):
    """What an object can leave to the kernel."""

    KCONFIG = "kernel option"
    VARIABLE = "kernel variable"
    FUNCTION = "kernel function"


class Extern(NamedTuple):
    """A name that the kernel resolves; a `weak` one may be missing. `type_id` is of the object's own BTF (0: an address only).

    A kernel option lies at `offset` of the map ".kconfig", `size` bytes long.
    """

    name: str
    kind: ExternKind
    weak: bool
    type_id: int = 0
    size: int = 0
    align: int = 1
    offset: int = 0


class Reloc(NamedTuple):
    """Instruction slot `slot` of a program needs `symbol` (+ `addend`)."""

    slot: int
    kind: RelocKind
    symbol: str
    addend: int = 0


class CoreReloc(NamedTuple):
    """A CO-RE record: slot, local BTF type id, access string and kind (enum bpf_core_relo_kind)."""

    slot: int
    type_id: int
    access: str
    kind: int


class FuncInfo(NamedTuple):
    """A function of BTF type `type_id` begins at `slot`."""

    slot: int
    type_id: int


class LineInfo(NamedTuple):
    """From `slot` on the code belongs to this source line; `text` is that line. Offsets are BTF string offsets."""

    slot: int
    path: str
    line: int
    column: int
    text: str
    path_off: int
    text_off: int


class DataVar(NamedTuple):
    """A global variable: `size` bytes at `offset` of its data map, of BTF type `type_id` (0: unknown)."""

    name: str
    offset: int
    size: int
    type_id: int


@record
class MapSpec:
    """A map to make. `type` is a MapType; `initial` fills the one value of a data map; `variables` are its globals.

    `slots` are the maps or programs that it holds from the beginning, as (index, name), of struct_ops its functions by their place in
    the struct; `ifindex` is the device that has it.
    """

    name: str
    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int = 0
    map_extra: int = 0
    numa_node: int = 0
    pinning: int = 0
    key_type_id: int = 0
    value_type_id: int = 0
    section: str = ""
    initial: bytes | None = None
    frozen: bool = False
    inner: "MapSpec | None" = None
    variables: tuple[DataVar, ...] = ()
    ifindex: int = 0
    slots: tuple[tuple[int, str], ...] = ()


@record
class ProgramSpec:
    """A program to load: `insns` is encoded bytecode with its subprograms appended and their calls resolved.

    `type` is a ProgType and `attach_type` an AttachType or None; `attach_to` is what follows the slash in the section's name.
    `ifindex` is the device that it is made for.
    """

    name: str
    section: str
    type: int
    insns: bytes
    license: str = ""
    attach_type: int | None = None
    attach_to: str = ""
    relocs: tuple[Reloc, ...] = ()
    core_relocs: tuple[CoreReloc, ...] = ()
    func_infos: tuple[FuncInfo, ...] = ()
    line_infos: tuple[LineInfo, ...] = ()
    flags: int = 0
    autoload: bool = True
    ifindex: int = 0


@record
class ObjectSpec:
    """A compiled object: programs, maps and what it leaves to the kernel by name, and its types. `path` is for messages."""

    path: str = ""
    programs: Mapping[str, ProgramSpec] = made_by(default_factory=dict)
    maps: Mapping[str, MapSpec] = made_by(default_factory=dict)
    externs: Mapping[str, Extern] = made_by(default_factory=dict)
    btf: Btf | None = None
    license: str = ""

    def with_map(self, name: str, **changes: Any) -> "ObjectSpec":
        """The object with another size, type or flags of a map: `with_map("counts", max_entries=100)`. Raises NotFoundError, UsageError."""
        return changed(self, maps={**self.maps, name: _changed("map", name, self.maps, changes, self.path)})

    def with_program(self, name: str, *, section: str | None = None, **changes: Any) -> "ObjectSpec":
        """The object with a program changed: `autoload=False`, `attach_to="do_unlinkat"`, or taken for what `section` says.

        Raises NotFoundError, UsageError for a section that says nothing.
        """
        if section is not None:
            found = section_row(section.removeprefix("?"))
            if found is None:
                raise UsageError(f"program {name!r}: {section!r} is no section name of a program")
            row, target = found
            flags = (ProgFlag.SLEEPABLE if row.sleepable else 0) | (ProgFlag.XDP_HAS_FRAGS if row.frags else 0)
            attach = None if row.attach is None else int(row.attach)
            said = {"section": section, "type": int(row.type), "attach_type": attach, "attach_to": target, "flags": int(flags)}
            changes = said | changes
        return changed(self, programs={**self.programs, name: _changed("program", name, self.programs, changes, self.path)})

    def with_variables(self, values: Mapping[str, Value]) -> "ObjectSpec":
        """The object with other initial values of global variables, constants (`const volatile`) among them, by name.

        Raises NotFoundError, and FormatError for a value that does not fit the variable's type.
        """
        maps = dict(self.maps)
        known = {v.name: (key, v) for key, held in maps.items() for v in held.variables if v.type_id and held.initial is not None}
        for name, value in values.items():
            if name not in known or self.btf is None:
                raise NotFoundError("variable", name, where=self.path, near=near(name, known))
            key, variable = known[name]
            data = bytearray(maps[key].initial or b"")
            data[variable.offset : variable.offset + variable.size] = write_value(self.btf, variable.type_id, value)
            maps[key] = changed(maps[key], initial=bytes(data))
        return changed(self, maps=maps)


def _changed(kind: str, name: str, there: Mapping[str, T], changes: Mapping[str, Any], path: str) -> T:
    """A part of an object with some of its fields changed."""
    if name not in there:
        raise NotFoundError(kind, name, where=path, near=near(name, there))
    part: Any = there[name]
    known = set(names_of(type(part))) - {"name"}
    wrong = next((field for field in changes if field not in known), None)
    if wrong is not None:
        raise UsageError(f"{kind} {name!r} has no {wrong!r}; it has {', '.join(sorted(known))}")
    new: T = changed(part, **changes)
    return new
