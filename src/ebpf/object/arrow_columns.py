"""Columns out of rows: how a BTF type looks to readers of Arrow, and a map's bytes taken apart by it.

Formats are those of Arrow's C data interface. Numbers, enums and pointers are numbers of their size, `_Bool` is a bool, text is a
string, a struct or union has its members as children, an array is a list of fixed length; a bit-field is a number of 64 bits.
What has no type, and what Arrow has no number for, is a piece of bytes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from ebpf.btf import Btf, Codec, Kind, Member, Type
from ebpf.engine.runtime import library
from ebpf.engine.runtime.python import Room

#: Arrow's format for each letter of struct's.
FORMATS: Final[Mapping[str, str]] = {
    "B": "C",
    "b": "c",
    "H": "S",
    "h": "s",
    "I": "I",
    "i": "i",
    "Q": "L",
    "q": "l",
    "f": "f",
    "d": "g",
}
_LETTERS: Final = {(1, False): "B", (1, True): "b", (2, False): "H", (2, True): "h", (4, False): "I", (4, True): "i"} | {
    (8, False): "Q",
    (8, True): "q",
}
_FLOATS: Final = {4: "f", 8: "g"}


@dataclass(frozen=True, slots=True)
class Rows:
    """`count` pieces of `stride` bytes, end to end."""

    data: bytes
    stride: int
    count: int

    def piece(self, offset: int, size: int) -> bytes:
        """The bytes `offset` to `offset + size` of every row, end to end."""
        if self.stride == size and not offset:
            return self.data
        room = Room(size * self.count)
        library().rt_column(room.address, self.data, offset, self.stride, size, self.count)
        return room.filled(size * self.count)


@dataclass(slots=True)
class Part:
    """A column's memory: Arrow's buffers (without the one that says what is null: nothing is) and its children's."""

    count: int
    buffers: list[bytes] = field(default_factory=list)
    children: "list[Part]" = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Column:
    """A column by its Arrow format, and how it is taken out of rows."""

    name: str
    format: str
    take: Callable[[Rows], Part]
    children: "tuple[Column, ...]" = ()


def column_of(btf: Btf, type_id: int, name: str, offset: int = 0) -> Column:
    """The column for a type that lies at `offset` of every row."""
    type_ = btf.resolve(type_id)
    size = btf.size_of(type_id)
    if type_.is_bool and size == 1:
        return Column(name, "b", lambda rows: Part(rows.count, [_packed(rows.piece(offset, 1))]))
    if type_.kind in (Kind.INT, Kind.ENUM, Kind.ENUM64, Kind.PTR) and size in (1, 2, 4, 8):
        return number(name, _LETTERS[size, type_.signed and type_.kind != Kind.PTR], offset, size)
    if type_.kind == Kind.FLOAT and size in _FLOATS:
        return Column(name, _FLOATS[size], lambda rows: Part(rows.count, [rows.piece(offset, size)]))
    if type_.kind == Kind.ARRAY and type_.info:
        each = btf.resolve(type_.ref)
        if each.is_char and each.size == 1:
            return Column(name, "u", lambda rows: _texts(rows.piece(offset, size), size))
        return listed(column_of(btf, type_.ref, "item"), name, type_.info, size // type_.info, offset)
    if type_.kind in (Kind.STRUCT, Kind.UNION):
        return record(name, _members(btf, type_, offset))
    if type_.kind == Kind.DATASEC:
        return record(name, [column_of(btf, v.type_id, btf.type(v.type_id).name, offset + v.offset) for v in type_.variables])
    if type_.kind == Kind.VAR:
        return column_of(btf, type_.ref, name, offset)
    return piece(name, size, offset)


def number(name: str, letter: str, offset: int, size: int) -> Column:
    """A number by struct's letter."""
    return Column(name, FORMATS[letter], lambda rows: Part(rows.count, [rows.piece(offset, size)]))


def piece(name: str, size: int, offset: int = 0) -> Column:
    """Bytes."""
    return Column(name, f"w:{size}", lambda rows: Part(rows.count, [rows.piece(offset, size)]))


def record(name: str, children: list[Column]) -> Column:
    """A struct."""
    return Column(name, "+s", lambda rows: Part(rows.count, [], [child.take(rows) for child in children]), tuple(children))


def listed(item: Column, name: str, count: int, stride: int, offset: int = 0) -> Column:
    """A list of `count` items, one every `stride` bytes."""

    def take(rows: Rows) -> Part:
        items = Rows(rows.piece(offset, count * stride), stride, rows.count * count)
        return Part(rows.count, [], [item.take(items)])

    return Column(name, f"+w:{count}", take, (item,))


def plain(codec: Codec, name: str) -> Column:
    """The column of what has no type: a number, or bytes."""
    return number(name, codec.letter, 0, codec.size) if codec.letter else piece(name, codec.size)


def _members(btf: Btf, type_: Type, offset: int) -> list[Column]:
    out: list[Column] = []
    for member in type_.members:
        inner, at = btf.resolve(member.type_id), offset + member.bits // 8
        if member.name and member.bitfield:
            out.append(_bits(inner, member, at))
        elif member.name:
            if btf.size_of(member.type_id):
                out.append(column_of(btf, member.type_id, member.name, at))
        elif inner.kind in (Kind.STRUCT, Kind.UNION):
            out += _members(btf, inner, at)
    return out


def _bits(type_: Type, member: Member, at: int) -> Column:
    shift, width = member.bits % 8, member.bitfield
    size, mask, sign = (shift + width + 7) // 8, (1 << width) - 1, 1 << width - 1 if type_.signed else 0

    def take(rows: Rows) -> Part:
        raw = rows.piece(at, size)
        values = (int.from_bytes(raw[i : i + size], "little") >> shift & mask for i in range(0, len(raw), size))
        return Part(rows.count, [b"".join(((v ^ sign) - sign & _WORD).to_bytes(8, "little") for v in values)])

    return Column(member.name, "l" if type_.signed else "L", take)


_WORD = (1 << 64) - 1
_DIGITS = b"0" + b"1" * 255


def _packed(raw: bytes) -> bytes:
    """Bytes as bits, the first one lowest."""
    return int(b"0" + raw.translate(_DIGITS)[::-1], 2).to_bytes((len(raw) + 7) // 8, "little")


def _texts(raw: bytes, size: int) -> Part:
    """Texts of up to `size` bytes: offsets, and the texts end to end."""
    texts = [raw[at : at + size].split(b"\0", 1)[0] for at in range(0, len(raw), size)]
    if not raw.isascii():
        texts = [text.decode("utf-8", "backslashreplace").encode() for text in texts]
    offsets, end = [0], 0
    for text in texts:
        end += len(text)
        offsets.append(end)
    return Part(len(texts), [b"".join(at.to_bytes(4, "little") for at in offsets), b"".join(texts)])
