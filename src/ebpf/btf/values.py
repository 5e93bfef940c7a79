"""Values by their types: bytes to Python's numbers, lists and dicts, and back."""

from ebpf.btf.parse import Btf
from ebpf.btf.types import Kind, Type
from ebpf.errors import FormatError

Value = None | bool | int | float | str | list["Value"] | dict[str, "Value"]


def read_value(btf: Btf, type_id: int, data: bytes) -> Value:
    """Decode `data` (at least the type's size) by a type: structs as dicts, arrays as lists, char arrays as text."""
    type_ = btf.resolve(type_id)
    match type_.kind:
        case Kind.INT:
            return _int(type_, data)
        case Kind.ENUM | Kind.ENUM64:
            return int.from_bytes(data[: type_.size], "little", signed=type_.signed)
        case Kind.PTR:
            return int.from_bytes(data[:8], "little")
        case Kind.FLOAT:
            import struct

            layout = {4: "<f", 8: "<d"}.get(type_.size)
            return float(struct.unpack_from(layout, data)[0]) if layout else data[: type_.size].hex()
        case Kind.ARRAY:
            element = btf.resolve(type_.ref)
            size = btf.size_of(type_.ref)
            if element.is_char and size == 1:
                return _text(data[: type_.info])
            return [read_value(btf, type_.ref, data[i * size : (i + 1) * size]) for i in range(type_.info)]
        case Kind.STRUCT | Kind.UNION:
            return _struct(btf, type_, data)
        case Kind.DATASEC:
            return {
                btf.type(v.type_id).name: read_value(btf, btf.type(v.type_id).ref, data[v.offset : v.offset + v.size])
                for v in type_.variables
            }
        case Kind.VAR:
            return read_value(btf, type_.ref, data)
    raise FormatError(f"a value of {type_.kind.name.lower()} {type_.name!r} cannot be read", where="BTF")


def _int(type_: Type, data: bytes) -> bool | int:
    number = int.from_bytes(data[: type_.size], "little", signed=type_.signed and type_.bits == type_.size * 8)
    return bool(number) if type_.is_bool else number


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def _struct(btf: Btf, type_: Type, data: bytes) -> dict[str, Value]:
    out: dict[str, Value] = {}
    for member in type_.members:
        if member.bitfield:
            whole = int.from_bytes(data[member.bits // 8 : (member.bits + member.bitfield + 7) // 8], "little")
            bits = whole >> (member.bits % 8) & ((1 << member.bitfield) - 1)
            inner = btf.resolve(member.type_id)
            out[member.name] = bits - (1 << member.bitfield) if inner.signed and bits >> (member.bitfield - 1) else bits
            continue
        value = read_value(btf, member.type_id, data[member.bits // 8 :])
        if not member.name and isinstance(value, dict):
            # The members of an anonymous struct or union belong to the one around it.
            out.update(value)
        else:
            out[member.name] = value
    return out


def write_value(btf: Btf, type_id: int, value: Value) -> bytes:
    """Encode a value by a type; a struct takes a dict (what is missing is zero). Raises FormatError when it does not fit."""
    type_ = btf.resolve(type_id)
    size = btf.size_of(type_id)
    if type_.kind in (Kind.INT, Kind.ENUM, Kind.ENUM64, Kind.PTR):
        if isinstance(value, str) and type_.enumerators:
            named = {e.name: e.value for e in type_.enumerators}
            if value not in named:
                raise FormatError(f"{type_.name or 'the enum'} has no {value!r}", where="BTF")
            value = named[value]
        if not isinstance(value, int):
            raise FormatError(f"{value!r} is not a number", where="BTF")
        if not -(1 << (size * 8 - 1)) <= value < 1 << (size * 8):
            raise FormatError(f"{value} does not fit {size * 8} bits", where="BTF")
        return (value & ((1 << size * 8) - 1)).to_bytes(size, "little")
    if type_.kind == Kind.ARRAY and isinstance(value, (str, list)):
        raw = value.encode() if isinstance(value, str) else b"".join(write_value(btf, type_.ref, v) for v in value)
        if len(raw) > size:
            raise FormatError(f"{len(raw)} bytes do not fit an array of {size}", where="BTF")
        return raw.ljust(size, b"\0")
    if type_.kind in (Kind.STRUCT, Kind.UNION) and isinstance(value, dict):
        out = bytearray(size)
        names = {m.name: m for m in type_.members if not m.bitfield}
        for name, part in value.items():
            if name not in names:
                raise FormatError(f"{type_.name or 'the struct'} has no member {name!r}", where="BTF")
            raw = write_value(btf, names[name].type_id, part)
            at = names[name].bits // 8
            out[at : at + len(raw)] = raw
        return bytes(out)
    raise FormatError(f"{value!r} is no {type_.kind.name.lower()} {type_.name}".rstrip(), where="BTF")
