"""Classes for C's types: structs as dataclasses, enums as IntEnums, and what turns bytes into their objects and back.

`values.py` has the same values as plain dicts and numbers; here a type is looked at once, and then read many times.
"""

import struct
from collections.abc import Callable, Mapping
from enum import IntEnum
from keyword import iskeyword
from typing import Any

from ebpf.btf.parse import Btf
from ebpf.btf.types import COMPOSITE, ENUMS, Kind, Member, Type
from ebpf.btf.values import FLOATS, NUMBERS, encode_number
from ebpf.errors import FormatError
from ebpf.records import record

_LETTERS: Mapping[tuple[int, bool], str] = {(1, False): "B", (2, False): "H", (4, False): "I", (8, False): "Q"}
_SIGNED: Mapping[int, str] = {1: "b", 2: "h", 4: "i", 8: "q"}
_DEPTH = 32


@record
class Codec:
    """How values of a type are read and written. Both raise FormatError for what does not fit.

    `letter` is struct's for a plain number that needs nothing else ("" for all other types).
    """

    size: int
    read: Callable[[bytes], Any]
    write: Callable[[Any], bytes]
    letter: str = ""
    #: Of a struct, union or enum: its class.
    cls: type | None = None
    #: Whether values are nothing but bytes, or a whole number with a letter.
    plain: bool = False


def raw_codec(size: int) -> Codec:
    """Bytes as they are; what is written must be `size` of them."""

    def write(value: Any) -> bytes:
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise FormatError(f"{value!r} is no bytes, and there is no type to write it by")
        if len(value) != size:
            raise FormatError(f"{len(value)} bytes, where {size} are wanted")
        return bytes(value)

    return Codec(size, bytes, write, plain=True)


def number_codec(size: int, *, signed: bool = False) -> Codec:
    """A number of 1, 2, 4 or 8 bytes; the letter is struct's."""
    layout = struct.Struct("<" + (_SIGNED[size] if signed else _LETTERS[size, False]))

    def read(data: bytes) -> int:
        return int.from_bytes(data, "little", signed=signed)

    def write(value: Any) -> bytes:
        try:
            return layout.pack(value)
        except struct.error:
            return encode_number(None, value, size * 8).to_bytes(size, "little")

    return Codec(size, read, write, layout.format[1:], plain=True)


class Classes:
    """The classes of one BTF, made when they are asked for; the same type always gives the same class."""

    def __init__(self, btf: Btf) -> None:
        self.btf = btf
        self._made: dict[int, Codec] = {}

    def codec(self, type_id: int, depth: int = 0) -> Codec:
        """How values of a type are read and written. Raises FormatError for a type that has none, or contains itself."""
        type_ = self.btf.resolve(type_id)
        made = self._made.get(type_.id)
        if made is None:
            if depth > _DEPTH:
                raise FormatError(f"{type_.kind.name.lower()} {type_.name!r} is nested too deeply", where="BTF")
            made = self._made[type_.id] = self._make(type_, depth)
        return made

    def find(self, name: str) -> type:
        """The class of a struct, union or enum by name. Raises FormatError if there is none."""
        for kind in (Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.ENUM64, Kind.TYPEDEF):
            found = self.btf.find(name, kind)
            cls = self.codec(found.id).cls if found is not None else None
            if cls is not None:
                return cls
        raise FormatError(f"there is no struct, union or enum {name!r}", where="BTF")

    def decode(self, cls: type, data: bytes) -> Any:
        """An object of one of these classes from bytes, of which more than it needs are left. Raises FormatError for too few."""
        codec = next((codec for codec in self._made.values() if codec.cls is cls), None)
        if codec is None:
            raise FormatError(f"{cls.__name__} is no class of these types", where="BTF")
        if len(data) < codec.size:
            raise FormatError(f"{len(data)} bytes are too few for a {cls.__name__} of {codec.size}", where="BTF")
        return codec.read(bytes(data[: codec.size]))

    def _make(self, type_: Type, depth: int) -> Codec:
        size = self.btf.size_of(type_.id)
        if type_.kind in ENUMS and type_.enumerators:
            return _enum(type_, size)
        if type_.kind in NUMBERS:
            return _number(type_, size)
        if type_.kind == Kind.FLOAT and size in FLOATS:
            return _float(size)
        if type_.kind == Kind.ARRAY:
            return self._array(type_, size, depth)
        if type_.kind in COMPOSITE:
            return self._struct(type_, depth)
        if type_.kind == Kind.DATASEC:
            parts = [(self.btf.type(v.type_id).name, self.codec(v.type_id, depth + 1), 8 * v.offset, 0) for v in type_.variables]
            return _record(type_.name, size, parts)
        if type_.kind == Kind.VAR:
            return self.codec(type_.ref, depth + 1)
        raise FormatError(f"a value of {type_.kind.name.lower()} {type_.name!r} cannot be read", where="BTF")

    def _array(self, type_: Type, size: int, depth: int) -> Codec:
        each = self.btf.resolve(type_.ref)
        if each.is_char and each.size == 1:
            return _text(size)
        inner = self.codec(type_.ref, depth + 1)
        if not inner.size:
            raise FormatError(f"an array of {type_.info} elements without a size", where="BTF")

        def read(data: bytes) -> tuple[Any, ...]:
            return tuple(inner.read(data[at : at + inner.size]) for at in range(0, size, inner.size))

        def write(value: Any) -> bytes:
            if not isinstance(value, (list, tuple)) or len(value) > type_.info:
                raise FormatError(f"{value!r} is no list of up to {type_.info} elements")
            return b"".join(inner.write(v) for v in value).ljust(size, b"\0")

        return Codec(size, read, write)

    def _struct(self, type_: Type, depth: int) -> Codec:
        return _record(type_.name or type_.kind.name.lower(), type_.size, self._members(type_, 0, depth))

    def _members(self, type_: Type, bit: int, depth: int) -> list[tuple[str, Codec, int, int]]:
        """Name, codec, first bit and width (0: no bit-field) of each member; those of anonymous members are among them."""
        out: list[tuple[str, Codec, int, int]] = []
        for member in type_.members:
            inner, at = self.btf.resolve(member.type_id), bit + member.bits
            if member.name:
                codec = _bits(inner, member) if member.bitfield else self.codec(member.type_id, depth + 1)
                out.append((member.name, codec, at, member.bitfield))
            elif inner.kind in COMPOSITE:
                if depth > _DEPTH:
                    raise FormatError(f"struct {type_.name!r} is nested too deeply", where="BTF")
                out += self._members(inner, at, depth + 1)
        return out


def _number(type_: Type, size: int) -> Codec:
    if type_.is_bool:
        return Codec(size, lambda data: any(data), lambda value: encode_number(type_, value, 8 * size).to_bytes(size, "little"))
    if size in _SIGNED:
        return number_codec(size, signed=type_.signed)

    def read(data: bytes) -> int:
        return int.from_bytes(data, "little", signed=type_.signed)

    return Codec(size, read, lambda value: encode_number(type_, value, 8 * size).to_bytes(size, "little"))


def _enum(type_: Type, size: int) -> Codec:
    """A value that has no name stays a number; names are taken for values when one is written."""
    try:
        cls = IntEnum(type_.name or "enum", {e.name: e.value for e in type_.enumerators})  # type: ignore[misc]  # names come with the data
    except (ValueError, TypeError):
        # A name that IntEnum keeps for itself ("mro"): its values are plain numbers.
        return _number(type_, size)
    members: dict[int, Any] = {int(member): member for member in cls}

    def read(data: bytes) -> Any:
        value = int.from_bytes(data, "little", signed=type_.signed)
        return members.get(value, value)

    return Codec(size, read, lambda value: encode_number(type_, value, 8 * size).to_bytes(size, "little"), cls=cls)


def _float(size: int) -> Codec:
    layout = struct.Struct(FLOATS[size])

    def write(value: Any) -> bytes:
        try:
            return layout.pack(value)
        except (struct.error, OverflowError) as error:
            raise FormatError(f"{value!r} is no number of {size} bytes") from error

    return Codec(size, lambda data: layout.unpack(data)[0], write, layout.format[1:])


def _text(size: int) -> Codec:
    """Text up to the first NUL."""

    def read(data: bytes) -> str:
        return data.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")

    def write(value: Any) -> bytes:
        if not isinstance(value, (str, bytes)):
            raise FormatError(f"{value!r} is no text")
        raw = value.encode() if isinstance(value, str) else value
        if len(raw) > size:
            raise FormatError(f"{len(raw)} bytes do not fit an array of {size}")
        return raw.ljust(size, b"\0")

    return Codec(size, read, write)


def _bits(type_: Type, member: Member) -> Codec:
    """A bit-field: reads and writes whole bytes that hold its bits from the lowest on."""
    width = member.bitfield
    size = (width + 7) // 8

    def read(data: bytes) -> int | bool:
        value = int.from_bytes(data, "little") & ((1 << width) - 1)
        if type_.is_bool:
            return bool(value)
        return value - (1 << width) if type_.signed and value >> (width - 1) else value

    return Codec(size, read, lambda value: encode_number(type_, value, width).to_bytes(size, "little"))


def _attribute(name: str) -> str:
    """A member's name, as Python can have it: one that is a word of Python's gets a line under it."""
    if not name.isidentifier():
        raise FormatError(f"{name!r} is no name for a member", where="BTF")
    return f"{name}_" if iskeyword(name) else name


def _record(name: str, size: int, parts: list[tuple[str, Codec, int, int]]) -> Codec:
    """A struct, union or section of variables: each part is a name, its codec, its first bit and its width (0: no bit-field)."""
    fields = [_attribute(each) for each, _, _, _ in parts]
    if len(set(fields)) < len(fields):
        raise FormatError(f"struct {name!r} has two members of one name", where="BTF")
    if any(bit + (width or 8 * codec.size) > 8 * size for _, codec, bit, width in parts):
        raise FormatError(f"struct {name!r} has members beyond its end", where="BTF")
    from dataclasses import make_dataclass

    cls = make_dataclass(
        name if name.isidentifier() and not iskeyword(name) else "struct", [(f, Any, None) for f in fields], unsafe_hash=True
    )
    cls.__doc__ = f"A value of {name}. Members that are None are zero when it is written, or what others of their union say."
    rows = list(zip(fields, (p[1] for p in parts), (p[2] for p in parts), (p[3] for p in parts)))

    def read(data: bytes) -> Any:
        whole = int.from_bytes(data, "little") if any(row[3] for row in rows) else 0
        return cls(
            *(
                codec.read((whole >> bit & ((1 << width) - 1)).to_bytes(codec.size, "little"))
                if width
                else codec.read(data[bit // 8 : bit // 8 + codec.size])
                for _, codec, bit, width in rows
            )
        )

    def write(value: Any) -> bytes:
        whole = taken = 0
        for field, part in _given(cls, fields, value):
            _, codec, bit, width = rows[fields.index(field)]
            if part is None:
                continue
            mask = (1 << (width or 8 * codec.size)) - 1 << bit
            number = int.from_bytes(codec.write(part), "little") << bit
            if (whole ^ number) & mask & taken:
                raise FormatError(f"{name}: {field!r} contradicts what is in the same place: set the others to None")
            whole, taken = whole | number, taken | mask
        return whole.to_bytes(size, "little")

    return Codec(size, _flat(cls, size, parts) or read, write, cls=cls)


def _flat(cls: type, size: int, parts: list[tuple[str, Codec, int, int]]) -> Callable[[bytes], Any] | None:
    """A faster way to read a struct that has nothing but numbers, one after the other."""
    layout, at = "<", 0
    for _, codec, bit, width in parts:
        gap = bit // 8 - at
        if width or not codec.letter or gap < 0:
            return None
        layout += f"{gap}x{codec.letter}" if gap else codec.letter
        at += gap + codec.size
    unpack = struct.Struct(layout + f"{size - at}x").unpack
    return lambda data: cls(*unpack(data))


def _given(cls: type, fields: list[str], value: Any) -> list[tuple[str, Any]]:
    """What of a struct was given: an object of its class, or a dict in which what is missing is zero."""
    if isinstance(value, cls):
        return [(field, getattr(value, field)) for field in fields]
    if not isinstance(value, Mapping):
        raise FormatError(f"{value!r} is no {cls.__name__}: give one, or a dict")
    given = [(key, _attribute(key) if isinstance(key, str) else "", part) for key, part in value.items()]
    for key, field, _ in given:
        if field not in fields and key not in fields:
            raise FormatError(f"{cls.__name__} has no member {key!r}")
    return [(field if field in fields else key, part) for key, field, part in given]
