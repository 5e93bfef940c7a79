"""The text of a Python module for one object, and of the stub that tells type checkers what is in it."""

import base64
import re
import textwrap
import zlib
from collections.abc import Iterator
from keyword import iskeyword

from ebpf.btf import Btf, Kind, Type
from ebpf.spec import MapSpec, ObjectSpec

_HEAD = '''"""{title}: made by `ebpf gen python`, and made anew when the object changes.

    with {cls}() as it:
        it.attach()
"""

import base64
import zlib

from ebpf.attach.skeleton import Skeleton
from ebpf.btf import Classes
from ebpf.elf import read_object
from ebpf.kernels import open_kernel

OBJECT = zlib.decompress(
    base64.b85decode(
{data}
    )
)
SPEC = read_object(OBJECT, {path!r})
TYPES = Classes(SPEC.btf) if SPEC.btf is not None else None
{classes}

class {cls}(Skeleton):
    """The object {title}, in `kernel` or in one that is opened (Linux's where it is permitted, else ours)."""

    def __init__(self, kernel=None):
        super().__init__(kernel or open_kernel(), SPEC, TYPES, own=kernel is None)


def decode(cls, data):
    """An object of one of this module's classes from bytes (of a ring buffer's record, say)."""
    return TYPES.decode(cls, data)
'''
_STUB = """from collections.abc import Iterator
from enum import IntEnum
from typing import Any, TypeVar

from dataclasses import dataclass
from ebpf.attach.skeleton import Skeleton
from ebpf.btf import Classes
from ebpf.object import Map, Program
from ebpf.spec import ObjectSpec
from ebpf.sys.kernel import Kernel

OBJECT: bytes
SPEC: ObjectSpec
TYPES: Classes | None
_T = TypeVar("_T")

{classes}{maps}
class _Maps:
{map_rows}

class _Programs:
{program_rows}

class _Variables:
{variable_rows}

class {cls}(Skeleton):
    maps: _Maps
    programs: _Programs
    variables: _Variables
    def __init__(self, kernel: Kernel | None = None) -> None: ...

def decode(cls: type[_T], data: bytes) -> _T: ...
"""


def class_name(path_name: str) -> str:
    """The class of an object: exec_snoop -> ExecSnoop."""
    return "".join(part.capitalize() for part in re.split(r"[^A-Za-z0-9]+", path_name) if part) or "Object"


def texts(spec: ObjectSpec, data: bytes, name: str) -> tuple[str, str]:
    """The module and its stub."""
    writer = _Writer(spec)
    cls = class_name(name)
    while cls in writer.classes:
        cls += "Object"
    packed = base64.b85encode(zlib.compress(data, 9)).decode()
    rows = "\n".join(f"        {line!r}" for line in textwrap.wrap(packed, 110))
    found = "".join(f"{each} = TYPES.find({plain!r})\n" for each, plain in writer.classes.items())
    module = _HEAD.format(title=name, cls=cls, data=rows, path=f"{name}.bpf.o", classes=found)
    return module, writer.stub(cls)


class _Writer:
    """Collects the types that maps and variables need."""

    def __init__(self, spec: ObjectSpec) -> None:
        self.spec = spec
        #: Python's name of each class, and C's.
        self.classes: dict[str, str] = {}
        self._texts: dict[str, str] = {}
        for held in spec.maps.values():
            for type_id in (held.key_type_id, held.value_type_id):
                if spec.btf is not None and type_id and not held.variables:
                    self.annotation(spec.btf, type_id)
        for variable in self._variables():
            if spec.btf is not None:
                self.annotation(spec.btf, variable[1])

    def _variables(self) -> Iterator[tuple[str, int]]:
        for held in self.spec.maps.values():
            yield from ((v.name, v.type_id) for v in held.variables if v.type_id and v.name.isidentifier() and not iskeyword(v.name))

    def annotation(self, btf: Btf, type_id: int, depth: int = 0) -> str:
        """How Python calls a type."""
        type_ = btf.resolve(type_id)
        if type_.kind == Kind.INT:
            return "bool" if type_.is_bool else "int"
        if type_.kind == Kind.FLOAT:
            return "float"
        if type_.kind == Kind.PTR:
            # What a variable points to is worth having: `const struct event *unused` names the events of a ring buffer.
            target = btf.resolve(type_.ref) if type_.ref else None
            if depth == 0 and target is not None and target.kind == Kind.STRUCT and target.name:
                self.annotation(btf, target.id, depth + 1)
            return "int"
        if type_.kind == Kind.ARRAY:
            each = btf.resolve(type_.ref)
            if each.is_char and each.size == 1:
                return "str"
            return f"tuple[{self.annotation(btf, type_.ref, depth + 1)}, ...]"
        if type_.kind in (Kind.ENUM, Kind.ENUM64):
            return self._enum(type_)
        if type_.kind in (Kind.STRUCT, Kind.UNION):
            return self._record(btf, type_, depth)
        return "Any"

    def _class(self, type_: Type) -> str:
        plain = type_.name
        if not plain.isidentifier() or iskeyword(plain):
            return ""
        name = class_name(plain)
        if self.classes.get(name, plain) != plain:
            name = plain
        return name

    def _enum(self, type_: Type) -> str:
        name = self._class(type_)
        if not name:
            return "int"
        if name not in self.classes:
            self.classes[name] = type_.name
            rows = [f"    {e.name} = {e.value}" for e in type_.enumerators if e.name.isidentifier() and not iskeyword(e.name)]
            self._texts[name] = f"class {name}(IntEnum):\n" + ("\n".join(rows) or "    pass")
        return name

    def _record(self, btf: Btf, type_: Type, depth: int) -> str:
        name = self._class(type_)
        if not name or depth > 16:
            return "Any"
        if name not in self.classes:
            self.classes[name] = type_.name
            # Its own place first: what it holds may hold it by pointer.
            self._texts[name] = ""
            rows = [f"    {field}: {kind} | None = ..." for field, kind in self._members(btf, type_, depth)]
            del self._texts[name]
            self._texts[name] = f"@dataclass(unsafe_hash=True)\nclass {name}:\n" + ("\n".join(rows) or "    pass")
        return name

    def _members(self, btf: Btf, type_: Type, depth: int) -> Iterator[tuple[str, str]]:
        for member in type_.members:
            if member.name:
                yield member.name + ("_" if iskeyword(member.name) else ""), self.annotation(btf, member.type_id, depth + 1)
            else:
                yield from self._members(btf, btf.resolve(member.type_id), depth + 1)

    def _map_class(self, name: str, held: MapSpec) -> str:
        btf = self.spec.btf
        if btf is None or not held.key_type_id or not held.value_type_id:
            return ""
        key, value = self.annotation(btf, held.key_type_id, 1), self.annotation(btf, held.value_type_id, 1)
        return (
            f"class _{class_name(name)}Map(Map):\n    def __getitem__(self, key: {key}) -> {value}: ...\n"
            f"    def __setitem__(self, key: {key}, value: {value}) -> None: ...\n"
            f"    def __delitem__(self, key: {key}) -> None: ...\n    def __iter__(self) -> Iterator[{key}]: ...\n\n"
        )

    def stub(self, cls: str) -> str:
        """The stub's text."""
        maps, rows = "", []
        for name, held in self.spec.maps.items():
            if name.isidentifier() and not iskeyword(name):
                own = self._map_class(name, held)
                maps += own
                rows.append(f"    {name}: {f'_{class_name(name)}Map' if own else 'Map'}")
        variables = []
        for name, type_id in self._variables():
            assert self.spec.btf is not None
            variables.append(f"    {name}: {self.annotation(self.spec.btf, type_id)}")
        return _STUB.format(
            classes="".join(text + "\n\n" for text in self._texts.values()),
            maps=maps,
            map_rows="\n".join(rows) or "    pass",
            program_rows="\n".join(f"    {name}: Program" for name in self.spec.programs if name.isidentifier()) or "    pass",
            variable_rows="\n".join(variables) or "    pass",
            cls=cls,
        )
