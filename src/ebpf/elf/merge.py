"""Types and records of several objects as those of one."""

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ebpf.btf import Kind, Type
from ebpf.elf.write import Out

if TYPE_CHECKING:
    from ebpf.elf.static import Input

_EXTERN = 2
_MAGIC, _HEADER, _EXT_HEADER = 0xEB9F, 24, 32
#: Kinds whose third word refers to a type.
_REFERS = frozenset(
    {
        Kind.PTR,
        Kind.TYPEDEF,
        Kind.VOLATILE,
        Kind.CONST,
        Kind.RESTRICT,
        Kind.FUNC,
        Kind.FUNC_PROTO,
        Kind.VAR,
        Kind.DECL_TAG,
        Kind.TYPE_TAG,
    }
)
#: Of what follows: how many words each part has, which are strings, which are types.
_PARTS: dict[Kind, tuple[int, tuple[int, ...], tuple[int, ...]]] = {
    Kind.ARRAY: (3, (), (0, 1)),
    Kind.STRUCT: (3, (0,), (1,)),
    Kind.UNION: (3, (0,), (1,)),
    Kind.ENUM: (2, (0,), ()),
    Kind.ENUM64: (3, (0,), ()),
    Kind.FUNC_PROTO: (2, (0,), (1,)),
}


class Merged:
    """The types of the whole: `raw`, and for each input what its ids and strings became."""

    def __init__(self, raw: bytes, ids: "list[dict[int, int]]", strings: list[int], names: Mapping[str, int]) -> None:
        self.raw = raw
        self.ids = ids
        self.strings = strings
        self.names = names


def merge_types(inputs: "Sequence[Input]", sections: Mapping[str, Out]) -> Merged | None:
    """The types of all objects; None if none has any."""
    if all(each.btf is None for each in inputs):
        return None
    blob = bytearray(b"\0")
    bases: list[int] = []
    for each in inputs:
        bases.append(len(blob))
        blob += each.btf.all_strings() if each.btf is not None else b""
    names: dict[str, int] = {}

    def string(text: str) -> int:
        if text not in names:
            names[text] = len(blob)
            blob.extend(text.encode() + b"\0")
        return names[text]

    ids = _number(inputs)
    words: list[int] = []
    for each, mine, base in zip(inputs, ids, bases, strict=True):
        for type_ in _own(each):
            if type_.kind != Kind.DATASEC and not _resolved(inputs, each, type_):
                assert each.btf is not None
                words += _rewritten(list(each.btf.words(type_.id)), type_.kind, mine, base)
    for name, rows in _data_sections(inputs, ids).items():
        size = sections[name].size if name in sections else 0
        words += [string(name), Kind.DATASEC << 24 | len(rows), size]
        for row in sorted(rows, key=lambda r: (r[1], r[0])):
            words += row
    # The names of sections that records belong to.
    for name in sections:
        string(name)
    types = struct.pack(f"<{len(words)}I", *words)
    head = struct.pack("<HBBIIIII", _MAGIC, 1, 0, _HEADER, 0, len(types), len(types), len(blob))
    return Merged(head + types + bytes(blob), ids, bases, names)


def _own(each: "Input") -> Iterator[Type]:
    """The types of an object, without the first, which is void."""
    return (type_ for type_ in each.btf or () if type_.id)


def _defined(each: "Input") -> set[str]:
    """The names of global functions and variables that an object defines, and that were not lost to another's."""
    return {s.name for s in each.elf.symbols if s.section and s.binding and s.name} - each.lost


def _holder(inputs: "Sequence[Input]", each: "Input", type_: Type) -> "Input | None":
    """The object whose function or variable a type stands for: its definer, or who was the first to leave it to the kernel."""
    for other in inputs:
        if other is not each and other.btf is not None and type_.name in _defined(other):
            return other
    for other in inputs:
        if other is each:
            return None
        found = other.btf.find(type_.name, type_.kind) if other.btf is not None else None
        if found is not None and found.info == _EXTERN:
            return other
    return None


def _resolved(inputs: "Sequence[Input]", each: "Input", type_: Type) -> bool:
    """Whether a type stands for what another object has."""
    if type_.kind not in (Kind.FUNC, Kind.VAR) or not type_.name:
        return False
    wanted = type_.info == _EXTERN or type_.name in each.lost
    return wanted and _holder(inputs, each, type_) is not None


def _number(inputs: "Sequence[Input]") -> "list[dict[int, int]]":
    """The new id of each type of each object."""
    ids: list[dict[int, int]] = []
    count = 0
    for each in inputs:
        mine = {0: 0}
        for type_ in _own(each):
            if type_.kind != Kind.DATASEC and not _resolved(inputs, each, type_):
                count += 1
                mine[type_.id] = count
        ids.append(mine)
    for each, mine in zip(inputs, ids, strict=True):
        for type_ in _own(each):
            if type_.id not in mine and type_.kind != Kind.DATASEC:
                other = _holder(inputs, each, type_)
                assert other is not None
                assert other.btf is not None
                there = other.btf.find(type_.name, type_.kind)
                mine[type_.id] = ids[list(inputs).index(other)].get(there.id, 0) if there is not None else 0
    return ids


def _rewritten(words: list[int], kind: Kind, ids: Mapping[int, int], base: int) -> list[int]:
    """A type's words with new strings and ids."""
    out = list(words)
    out[0] = out[0] + base if out[0] else 0
    if kind in _REFERS:
        out[2] = ids.get(out[2], 0)
    size, strings, types = _PARTS.get(kind, (0, (), ()))
    for at in range(3, len(out), size) if size else ():
        for place in strings:
            out[at + place] = out[at + place] + base if out[at + place] else 0
        for place in types:
            out[at + place] = ids.get(out[at + place], 0)
    return out


def _data_sections(inputs: "Sequence[Input]", ids: "list[dict[int, int]]") -> dict[str, list[tuple[int, int, int]]]:
    """By section: its variables as (id, offset, size)."""
    out: dict[str, list[tuple[int, int, int]]] = {}
    for each, mine in zip(inputs, ids, strict=True):
        bases = {each.elf.sections[index].name: base for index, base in each.bases.items()}
        for type_ in _own(each):
            if type_.kind != Kind.DATASEC or type_.name in each.left_out:
                continue
            assert each.btf is not None
            rows = out.setdefault(type_.name, [])
            for row in type_.variables:
                held = each.btf.type(row.type_id)
                if _resolved(inputs, each, held):
                    continue
                rows.append((mine[row.type_id], row.offset + bases.get(type_.name, 0), row.size))
    return out


def merge_ext(inputs: "Sequence[Input]", types: Merged, sections: Mapping[str, Out]) -> bytes:
    """The records of functions, lines and CO-RE of all objects."""
    tables = [
        _table(inputs, types, sections, "funcs", 2, (1,), ()),
        _table(inputs, types, sections, "lines", 4, (), (1, 2)),
        _table(inputs, types, sections, "core", 4, (1,), (2,)),
    ]
    if not any(tables):
        return b""
    places, at = [], 0
    for table in tables:
        places += [at, len(table)]
        at += len(table)
    return struct.pack("<HBBI6I", _MAGIC, 1, 0, _EXT_HEADER, *places) + b"".join(tables)


def _table(
    inputs: "Sequence[Input]",
    types: Merged,
    sections: Mapping[str, Out],
    which: str,
    size: int,
    of_types: tuple[int, ...],
    of_strings: tuple[int, ...],
) -> bytes:
    blocks: dict[str, list[list[int]]] = {}
    for each, ids, strings in zip(inputs, types.ids, types.strings, strict=True):
        bases = {each.elf.sections[index].name: base for index, base in each.bases.items()}
        for name, records in getattr(each.ext, which).items():
            for record in records if name in bases else ():
                row = list(record[:size])
                row[0] += bases[name]
                for place in of_types:
                    row[place] = ids.get(row[place], 0)
                for place in of_strings:
                    row[place] = row[place] + strings if row[place] else 0
                blocks.setdefault(name, []).append(row)
    if not blocks:
        return b""
    out = struct.pack("<I", 4 * size)
    for name, rows in blocks.items():
        out += struct.pack("<II", types.names[name], len(rows))
        out += b"".join(struct.pack(f"<{size}I", *row) for row in sorted(rows, key=lambda r: r[0]))
    return out
