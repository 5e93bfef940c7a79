"""BTF bytes to types."""

import struct
from collections.abc import Iterator

from ebpf.btf.types import MODIFIERS, SIZED, Enumerator, Kind, Member, SectionVar, Type
from ebpf.errors import FormatError

MAGIC = 0xEB9F
_HEADER = struct.Struct("<HBBIIIII")
_TYPE = struct.Struct("<III")
_U32 = struct.Struct("<I")
_VOID = Type(0, Kind.VOID, "void")
# The bound keeps many names that share one long string from filling the memory.
_LONGEST_NAME = 4096
# A chain of typedefs and modifiers longer than this is a loop.
_DEPTH = 64


class Btf:
    """Type information: types by id, names, sizes. `raw` is the blob that BTF_LOAD takes."""

    def __init__(self, raw: bytes, types: list[Type], strings: bytes) -> None:
        self.raw = raw
        self.types = types
        self.strings = strings
        self._names: dict[tuple[str, Kind], int] = {}
        for type_ in types:
            self._names.setdefault((type_.name, type_.kind), type_.id)

    @classmethod
    def parse(cls, raw: bytes, path: str = "") -> "Btf":
        """Parse a .BTF section. Raises FormatError for anything malformed."""
        return cls(raw, *_parse(raw, path))

    def __len__(self) -> int:
        return len(self.types)

    def __iter__(self) -> Iterator[Type]:
        return iter(self.types)

    def type(self, id_: int) -> Type:
        """The type with an id. Raises FormatError if there is none."""
        if not 0 <= id_ < len(self.types):
            raise FormatError(f"type id {id_} of {len(self.types)}", where="BTF")
        return self.types[id_]

    def find(self, name: str, kind: Kind) -> Type | None:
        """The first type of a kind with this name."""
        id_ = self._names.get((name, kind))
        return None if id_ is None else self.types[id_]

    def string(self, offset: int) -> str:
        """The string at an offset of the string section; what is longer than a name may be (a source line) is cut there."""
        if not 0 <= offset < len(self.strings):
            raise FormatError(f"string offset {offset} of {len(self.strings)}", where="BTF")
        return self.strings[offset : offset + _LONGEST_NAME].split(b"\0", 1)[0].decode("utf-8", "replace")

    def resolve(self, id_: int) -> Type:
        """The type behind typedefs and qualifiers."""
        for _ in range(_DEPTH):
            type_ = self.type(id_)
            if type_.kind not in MODIFIERS:
                return type_
            id_ = type_.ref
        raise FormatError(f"type {id_} refers to itself", where="BTF")

    def size_of(self, id_: int, depth: int = 0) -> int:
        """A type's size in bytes. Raises FormatError for one without a size."""
        type_ = self.resolve(id_)
        if depth > _DEPTH:
            raise FormatError(f"type {id_} contains itself", where="BTF")
        if type_.kind in SIZED:
            return type_.size
        if type_.kind == Kind.PTR:
            return 8
        if type_.kind == Kind.ARRAY:
            return type_.info * self.size_of(type_.ref, depth + 1)
        if type_.kind == Kind.VAR:
            return self.size_of(type_.ref, depth + 1)
        raise FormatError(f"{type_.kind.name.lower()} {type_.name!r} has no size", where="BTF")


def _string(strings: bytes, offset: int, path: str) -> str:
    end = strings.find(b"\0", offset, offset + _LONGEST_NAME)
    if not 0 <= offset < len(strings) or end < 0:
        raise FormatError(f"string offset {offset} of {len(strings)}", path=path, where="BTF")
    return strings[offset:end].decode("utf-8", "replace")


def _parse(raw: bytes, path: str) -> tuple[list[Type], bytes]:
    if len(raw) < _HEADER.size:
        raise FormatError(f"{len(raw)} bytes are too few for a header", path=path, where="BTF")
    magic, version, _, header, type_off, type_len, str_off, str_len = _HEADER.unpack_from(raw)
    if magic != MAGIC:
        why = "big-endian BTF is not read" if magic == 0x9FEB else f"magic {magic:#x} is not {MAGIC:#x}"
        raise FormatError(why, path=path, where="BTF")
    if version != 1 or header < _HEADER.size:
        raise FormatError(f"version {version} with a header of {header} bytes is unknown", path=path, where="BTF")
    if header + type_off + type_len > len(raw) or header + str_off + str_len > len(raw):
        raise FormatError("sections reach past the end", path=path, where="BTF")
    strings = raw[header + str_off : header + str_off + str_len]
    if str_len and (strings[0] or strings[-1]):
        raise FormatError("strings do not begin and end with NUL", path=path, where="BTF")
    data = raw[header + type_off : header + type_off + type_len]
    types = [_VOID]
    at = 0
    try:
        while at < len(data):
            type_, at = _one(data, at, len(types), strings, path)
            types.append(type_)
    except struct.error:
        raise FormatError("is cut off", path=path, where=f"BTF type {len(types)}") from None
    _check(types, path)
    return types, strings


def _one(data: bytes, at: int, id_: int, strings: bytes, path: str) -> tuple[Type, int]:
    name_off, info, size = _TYPE.unpack_from(data, at)
    at += _TYPE.size
    number, count, flag = info >> 24 & 0x1F, info & 0xFFFF, info >> 31
    try:
        kind = Kind(number)
    except ValueError:
        raise FormatError(f"kind {number} is unknown", path=path, where=f"BTF type {id_}") from None
    name = _string(strings, name_off, path) if name_off else ""

    def words(each: int) -> list[tuple[int, ...]]:
        # The count is 16 bits wide, so that a hostile one cannot ask for much.
        layout = struct.Struct(f"<{each}I")
        return [layout.unpack_from(data, at + i * layout.size) for i in range(count)]

    if kind == Kind.INT:
        (extra,) = _U32.unpack_from(data, at)
        return Type(id_, kind, name, size=size, info=extra), at + 4
    if kind == Kind.ARRAY:
        element, index, length = _TYPE.unpack_from(data, at)
        return Type(id_, kind, name, ref=element, info=length, index=index), at + 12
    if kind in (Kind.STRUCT, Kind.UNION):
        members = tuple(
            Member(_string(strings, n, path) if n else "", t, o & 0xFFFFFF if flag else o, o >> 24 if flag else 0) for n, t, o in words(3)
        )
        return Type(id_, kind, name, size=size, members=members), at + 12 * count
    if kind == Kind.ENUM:
        rows = tuple(Enumerator(_string(strings, n, path), v - (1 << 32) if flag and v >> 31 else v) for n, v in words(2))
        return Type(id_, kind, name, size=size, info=flag, enumerators=rows), at + 8 * count
    if kind == Kind.ENUM64:
        wide = tuple(
            Enumerator(_string(strings, n, path), (v := low | high << 32) - (1 << 64 if flag and v >> 63 else 0))
            for n, low, high in words(3)
        )
        return Type(id_, kind, name, size=size, info=flag, enumerators=wide), at + 12 * count
    if kind == Kind.FUNC_PROTO:
        params = tuple(Member(_string(strings, n, path) if n else "", t) for n, t in words(2))
        return Type(id_, kind, name, ref=size, members=params), at + 8 * count
    if kind == Kind.DATASEC:
        variables = tuple(SectionVar(t, o, s) for t, o, s in words(3))
        return Type(id_, kind, name, size=size, variables=variables), at + 12 * count
    if kind in (Kind.VAR, Kind.DECL_TAG):
        (extra,) = _U32.unpack_from(data, at)
        return Type(id_, kind, name, ref=size, info=extra), at + 4
    if kind == Kind.FLOAT:
        return Type(id_, kind, name, size=size), at
    if kind == Kind.FWD:
        return Type(id_, kind, name, info=flag), at
    if kind == Kind.FUNC:
        return Type(id_, kind, name, ref=size, info=count), at
    return Type(id_, kind, name, ref=size), at


def _check(types: list[Type], path: str) -> None:
    """Every reference leads to a type."""
    for type_ in types:
        refs = [type_.ref, type_.index, *(m.type_id for m in type_.members), *(v.type_id for v in type_.variables)]
        if any(not 0 <= ref < len(types) for ref in refs):
            raise FormatError("refers to a type that is not there", path=path, where=f"BTF type {type_.id}")
