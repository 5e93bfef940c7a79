"""Values by their types: bytes to Python's numbers, lists and dicts, and back."""

import struct
from collections.abc import Mapping

from ebpf.btf.parse import Btf
from ebpf.btf.types import COMPOSITE, Kind, Member, Type
from ebpf.errors import FormatError

Value = None | bool | int | float | str | list["Value"] | dict[str, "Value"]

#: Kinds whose values are whole numbers, and struct's layouts of floating ones by their size.
NUMBERS = frozenset({Kind.INT, Kind.ENUM, Kind.ENUM64, Kind.PTR})
FLOATS: Mapping[int, str] = {4: "<f", 8: "<d"}
# Types that contain themselves many times over could otherwise ask for any number of values.
_MOST_VALUES = 100_000


class Address(int):
    """A pointer's value, as `show_value` marks it."""


class Hex(str):
    """A number in hexadecimal, as `show_value` marks it."""

    __slots__ = ()


def read_value(btf: Btf, type_id: int, data: bytes) -> Value:
    """Decode `data` (at least the type's size) by a type: structs as dicts, arrays as lists, char arrays as text.

    The members of an anonymous struct or union belong to the one around it.

    Raises:
        FormatError: too few bytes, or a type that has no values.
    """
    return _Reader(btf, data).value(type_id, 0)


def show_value(btf: Btf, type_id: int, data: bytes) -> Value:
    """Decode as bpftool shows values: enums by name, bit-fields and 128-bit numbers as `Hex`, pointers as `Address`.

    A char array is text if it is printable and ends with NUL, else a list; an anonymous member is named "".
    """
    return _Shown(btf, data).value(type_id, 0)


class _Reader:
    def __init__(self, btf: Btf, data: bytes) -> None:
        self.btf = btf
        self.data = data
        self._left = _MOST_VALUES + 8 * len(data)

    def value(self, type_id: int, at: int) -> Value:
        """The value of a type that begins at byte `at`."""
        type_ = self.btf.resolve(type_id)
        self._left -= 1
        if self._left < 0:
            raise FormatError(f"{type_.kind.name.lower()} {type_.name!r} holds too many values", where="BTF")
        if type_.kind in NUMBERS:
            return self.number(type_, self._bytes(at, self.btf.size_of(type_.id)))
        if type_.kind == Kind.FLOAT:
            raw, layout = self._bytes(at, type_.size), FLOATS.get(type_.size)
            return float(struct.unpack(layout, raw)[0]) if layout else raw.hex()
        if type_.kind == Kind.ARRAY:
            return self._array(type_, at)
        if type_.kind in COMPOSITE:
            return self._struct(type_, at)
        if type_.kind == Kind.DATASEC:
            return {self.btf.type(v.type_id).name: self.value(self.btf.type(v.type_id).ref, at + v.offset) for v in type_.variables}
        if type_.kind == Kind.VAR:
            return self.value(type_.ref, at)
        raise FormatError(f"a value of {type_.kind.name.lower()} {type_.name!r} cannot be read", where="BTF")

    def number(self, type_: Type, raw: bytes) -> Value:
        """An integer, enum or pointer."""
        value = int.from_bytes(raw, "little", signed=type_.signed)
        return bool(value) if type_.is_bool else value

    def text(self, raw: bytes) -> Value:
        """An array of characters."""
        return raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")

    def bits(self, type_: Type, width: int, value: int) -> Value:
        """A bit-field of `width` bits."""
        return value - (1 << width) if type_.signed and value >> (width - 1) else value

    def merge(self, out: dict[str, Value], name: str, value: Value) -> None:
        """Put a member among the others of its struct."""
        if not name and isinstance(value, dict):
            out.update(value)
        else:
            out[name] = value

    def _bytes(self, at: int, size: int) -> bytes:
        if at + size > len(self.data):
            raise FormatError(f"{size} bytes at {at} are wanted, of {len(self.data)}", where="BTF")
        return self.data[at : at + size]

    def _array(self, type_: Type, at: int) -> Value:
        size = self.btf.size_of(type_.ref)
        if size == 1 and self.btf.resolve(type_.ref).is_char:
            return self.text(self._bytes(at, type_.info))
        if size * type_.info > len(self.data) - at or (not size and type_.info > 1):
            raise FormatError(f"an array of {type_.info} times {size} bytes in {len(self.data) - at}", where="BTF")
        return [self.value(type_.ref, at + i * size) for i in range(type_.info)]

    def _struct(self, type_: Type, at: int) -> Value:
        out: dict[str, Value] = {}
        for member in type_.members:
            begin = at + member.bits // 8
            # A member of no size at the struct's own beginning could be the struct itself.
            if self.btf.resolve(member.type_id) is type_:
                raise FormatError(f"struct {type_.name!r} contains itself", where="BTF")
            try:
                if member.bitfield:
                    raw = self._bytes(begin, (member.bits % 8 + member.bitfield + 7) // 8)
                    value = int.from_bytes(raw, "little") >> member.bits % 8 & ((1 << member.bitfield) - 1)
                    out[member.name] = self.bits(self.btf.resolve(member.type_id), member.bitfield, value)
                else:
                    self.merge(out, member.name, self.value(member.type_id, begin))
            except RecursionError:
                raise FormatError(f"struct {type_.name!r} is nested too deeply", where="BTF") from None
        return out


class _Shown(_Reader):
    def number(self, type_: Type, raw: bytes) -> Value:
        if type_.kind == Kind.PTR:
            return Address(int.from_bytes(raw, "little"))
        if type_.kind == Kind.INT:
            value = super().number(type_, raw)
            return value if len(raw) <= 8 else Hex(f"{int.from_bytes(raw, 'little'):#x}")
        bits = 8 * len(raw)
        number = int.from_bytes(raw, "little", signed=True)
        # A name's value may be written either way, as -1 or as 0xffffffff.
        return next((e.name for e in type_.enumerators if (e.value - number) % (1 << bits) == 0), number)

    def text(self, raw: bytes) -> Value:
        text, end, _ = raw.partition(b"\0")
        if end and all(0x20 <= c < 0x7F for c in text):
            return text.decode()
        return list(struct.unpack(f"{len(raw)}b", raw))

    def bits(self, type_: Type, width: int, value: int) -> Value:
        return Hex(f"{value:#x}")

    def merge(self, out: dict[str, Value], name: str, value: Value) -> None:
        held = out.get(name)
        if not name and isinstance(held, dict) and isinstance(value, dict):
            # bpftool repeats the key ""; readers of JSON would lose all but one.
            held.update(value)
        else:
            out[name] = value


def write_value(btf: Btf, type_id: int, value: Value) -> bytes:
    """Encode a value by a type; a struct takes a dict (what is missing is zero). Raises FormatError when it does not fit."""
    type_ = btf.resolve(type_id)
    size = btf.size_of(type_id)
    if type_.kind in NUMBERS:
        return encode_number(type_, value, size * 8).to_bytes(size, "little")
    if type_.kind == Kind.FLOAT and isinstance(value, (int, float)) and size in FLOATS:
        return struct.pack(FLOATS[size], value)
    if type_.kind == Kind.ARRAY and isinstance(value, (str, list)):
        raw = value.encode() if isinstance(value, str) else b"".join(write_value(btf, type_.ref, v) for v in value)
        if len(raw) > size:
            raise FormatError(f"{len(raw)} bytes do not fit an array of {size}", where="BTF")
        return raw.ljust(size, b"\0")
    if type_.kind in COMPOSITE and isinstance(value, dict):
        return _struct(btf, type_, value)
    raise FormatError(f"{value!r} is no {type_.kind.name.lower()} {type_.name}".rstrip(), where="BTF")


def encode_number(type_: Type | None, value: Value, bits: int) -> int:
    """The value as an unsigned number of `bits` bits; of an enum also by name. Raises FormatError when it does not fit."""
    if isinstance(value, str) and type_ is not None and type_.enumerators:
        named = {e.name: e.value for e in type_.enumerators}
        if value not in named:
            raise FormatError(f"{type_.name or 'the enum'} has no {value!r}", where="BTF")
        value = named[value]
    if not isinstance(value, int):
        raise FormatError(f"{value!r} is not a number", where="BTF")
    if not -(1 << (bits - 1)) <= value < 1 << bits:
        raise FormatError(f"{value} does not fit {bits} bits", where="BTF")
    return value & ((1 << bits) - 1)


def _struct(btf: Btf, type_: Type, value: dict[str, Value]) -> bytes:
    places = dict(_members(btf, type_, 0, 0))
    whole = 0
    for name, part in value.items():
        if name not in places:
            raise FormatError(f"{type_.name or 'the struct'} has no member {name!r}", where="BTF")
        member, bit = places[name]
        if member.bitfield:
            whole |= encode_number(btf.resolve(member.type_id), part, member.bitfield) << bit
        else:
            whole |= int.from_bytes(write_value(btf, member.type_id, part), "little") << bit
    if whole >> 8 * type_.size:
        raise FormatError(f"{type_.name or 'the struct'} has members beyond its end", where="BTF")
    return whole.to_bytes(type_.size, "little")


def _members(btf: Btf, type_: Type, bit: int, depth: int) -> list[tuple[str, tuple[Member, int]]]:
    """The members by name with their first bit, those of anonymous structs and unions among them."""
    out: list[tuple[str, tuple[Member, int]]] = []
    for member in type_.members:
        inner = btf.resolve(member.type_id)
        if not member.name and inner.members and depth < 16:
            out += _members(btf, inner, bit + member.bits, depth + 1)
        else:
            out.append((member.name, (member, bit + member.bits)))
    return out
