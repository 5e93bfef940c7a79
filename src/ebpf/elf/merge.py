"""Types and records of several objects as those of one."""

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from ebpf.btf import Btf, Kind, Type
from ebpf.btf.dedup import canonical
from ebpf.elf.write import Out

if TYPE_CHECKING:
    from ebpf.elf.static import Input

_STATIC, _EXTERN = 0, 2
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
    Kind.DATASEC: (3, (), (0,)),
}


class Merged:
    """The types of the whole, and for each input what its ids became."""

    def __init__(self, rows: "Sequence[tuple[Kind, list[int]]]", ids: "list[dict[int, int]]", strings: "_Strings") -> None:
        self._rows = rows
        self.ids = ids
        self.strings = strings

    @property
    def raw(self) -> bytes:
        """The section's bytes, with the strings that were added until now."""
        return _file(self._rows, self.strings)


class _Strings:
    """A section of strings, each once."""

    def __init__(self) -> None:
        self.blob = bytearray(b"\0")
        self._known = {b"": 0}

    def add(self, text: bytes) -> int:
        """The offset of a string, which is added if it is new."""
        if text not in self._known:
            self._known[text] = len(self.blob)
            self.blob += text + b"\0"
        return self._known[text]

    def move(self, each: "Input", offset: int) -> int:
        """The offset of a string of an input."""
        assert each.btf is not None
        return self.add(each.btf.all_strings()[offset:].partition(b"\0")[0]) if offset else 0


def merge_types(inputs: "Sequence[Input]", sections: Mapping[str, Out]) -> Merged | None:
    """The types of all objects, each once; None if none has any."""
    if all(each.btf is None for each in inputs):
        return None
    ids = _number(inputs)
    strings = _Strings()
    rows: list[tuple[Kind, list[int]]] = []
    for each, mine in zip(inputs, ids, strict=True):
        names = _parameters(inputs, each)
        for type_ in _own(each):
            if _stays(inputs, each, type_):
                assert each.btf is not None
                words = _rewritten(each.btf.words(type_.id), type_.kind, mine, partial(strings.move, each))
                for at, name in zip(range(3, len(words), 2), names.get(type_.id, ()), strict=False):
                    words[at] = words[at] or strings.add(name.encode())
                rows.append((type_.kind, _completed(inputs, ids, type_, words)))
    for name, variables in _data_sections(inputs, ids).items():
        size = sections[name].size if name in sections else 0
        words = [strings.add(name.encode()), Kind.DATASEC << 24 | len(variables), size]
        rows.append((Kind.DATASEC, words + [word for row in sorted(variables, key=lambda r: (r[1], r[0])) for word in row]))
    # The names of sections that records belong to.
    for name in sections:
        strings.add(name.encode())
    stands = canonical(Btf.parse(_file(rows, strings)))
    numbers = {id_: number for number, id_ in enumerate((id_ for id_, own in enumerate(stands) if id_ == own), start=0)}
    final = {id_: numbers[own] for id_, own in enumerate(stands)}
    kept = [(kind, _rewritten(words, kind, final)) for id_, (kind, words) in enumerate(rows, start=1) if stands[id_] == id_]
    return Merged(kept, [{id_: final[new] for id_, new in mine.items()} for mine in ids], strings)


def _file(rows: Sequence[tuple[Kind, list[int]]], strings: _Strings) -> bytes:
    """Types as a section has them."""
    types = b"".join(struct.pack(f"<{len(words)}I", *words) for _, words in rows)
    head = struct.pack("<HBBIIIII", _MAGIC, 1, 0, _HEADER, 0, len(types), len(types), len(strings.blob))
    return head + types + bytes(strings.blob)


def _own(each: "Input") -> Iterator[Type]:
    """The types of an object, without the first, which is void."""
    return (type_ for type_ in each.btf or () if type_.id)


def _defined(each: "Input") -> set[str]:
    """The names of global functions and variables that an object defines, and that were not lost to another's."""
    return {s.name for s in each.elf.symbols if s.section and s.binding and s.name} - each.lost


def _holder(inputs: "Sequence[Input]", each: "Input", type_: Type) -> "Input | None":
    """The object whose type stands for this global function or variable: the first that has one, by declaration or definition."""
    if type_.kind not in (Kind.FUNC, Kind.VAR) or not type_.name or type_.info == _STATIC:
        return None
    for other in inputs:
        if other is each:
            return None
        if _global(other, type_) is not None:
            return other
    return None


def _global(each: "Input", like: Type) -> Type | None:
    """An object's own type of a global function or variable."""
    found = each.btf.find(like.name, like.kind) if each.btf is not None else None
    return found if found is not None and found.info != _STATIC else None


def _left_out(each: "Input", type_: Type) -> bool:
    """Whether a variable lies in a section that another object has already (the licence)."""
    if type_.kind != Kind.VAR or each.btf is None:
        return False
    sections = (each.btf.find(name, Kind.DATASEC) for name in each.left_out)
    return any(row.type_id == type_.id for section in sections if section is not None for row in section.variables)


def _stays(inputs: "Sequence[Input]", each: "Input", type_: Type) -> bool:
    """Whether a type of an object is one of the whole."""
    return type_.kind != Kind.DATASEC and _holder(inputs, each, type_) is None and not _left_out(each, type_)


def _completed(inputs: "Sequence[Input]", ids: "list[dict[int, int]]", type_: Type, words: list[int]) -> list[int]:
    """The words of a declared function or variable, as the object that defines it has it; they are those of the whole already."""
    for each, mine in zip(inputs, ids, strict=True):
        found = _global(each, type_) if type_.kind in (Kind.FUNC, Kind.VAR) and type_.info == _EXTERN else None
        if found is not None and found.info != _EXTERN and found.name in _defined(each):
            if type_.kind == Kind.FUNC:
                return [words[0], Kind.FUNC << 24 | found.info, words[2]]
            return [words[0], words[1], mine[found.ref], found.info]
    return words


def _parameters(inputs: "Sequence[Input]", each: "Input") -> dict[int, list[str]]:
    """The parameters' names of functions that an object declares and a later one defines, by the declared prototype."""
    out = {}
    for function in _own(each):
        if function.kind != Kind.FUNC or function.info != _EXTERN or _holder(inputs, each, function) is not None:
            continue
        for other in inputs:
            found = _global(other, function)
            if found is not None and other.btf is not None and found.info != _EXTERN:
                out[function.ref] = [parameter.name for parameter in other.btf.type(found.ref).members]
    return out


def _number(inputs: "Sequence[Input]") -> "list[dict[int, int]]":
    """The new id of each type of each object."""
    ids: list[dict[int, int]] = []
    count = 0
    for each in inputs:
        mine = {0: 0}
        for type_ in _own(each):
            if _stays(inputs, each, type_):
                count += 1
                mine[type_.id] = count
        ids.append(mine)
    for each, mine in zip(inputs, ids, strict=True):
        for type_ in _own(each):
            other = _holder(inputs, each, type_)
            there = _global(other, type_) if other is not None else None
            if other is not None and there is not None:
                mine[type_.id] = ids[list(inputs).index(other)].get(there.id, 0)
    return ids


def _rewritten(words: list[int], kind: Kind, ids: Mapping[int, int], string: Callable[[int], int] = int) -> list[int]:
    """A type's words with new ids, and the strings that `string` has for theirs."""
    out = list(words)
    out[0] = string(out[0])
    if kind in _REFERS:
        out[2] = ids.get(out[2], 0)
    size, strings, types = _PARTS.get(kind, (0, (), ()))
    for at in range(3, len(out), size) if size else ():
        for place in strings:
            out[at + place] = string(out[at + place])
        for place in types:
            out[at + place] = ids.get(out[at + place], 0)
    return out


def _data_sections(inputs: "Sequence[Input]", ids: "list[dict[int, int]]") -> dict[str, list[tuple[int, int, int]]]:
    """By section: its variables as (id, offset, size)."""
    out: dict[str, list[tuple[int, int, int]]] = {}
    for each in inputs:
        # In the order of the sections; those that stand for what the kernel has are behind each object's own.
        own = [type_.name for type_ in _own(each) if type_.kind == Kind.DATASEC and type_.name not in each.left_out]
        places = {section.name: number for number, section in enumerate(each.elf.sections)}
        for name in sorted(own, key=lambda n: places.get(n, len(places))):
            out.setdefault(name, [])
    for each, mine in zip(inputs, ids, strict=True):
        bases = {each.elf.sections[index].name: base for index, base in each.bases.items()}
        for type_ in _own(each):
            if type_.kind != Kind.DATASEC or type_.name in each.left_out:
                continue
            assert each.btf is not None
            rows = out[type_.name]
            for row in type_.variables:
                held = each.btf.type(row.type_id)
                if held.info == _EXTERN and any(held.name in _defined(other) for other in inputs):
                    continue
                if held.name in each.lost or (held.info == _EXTERN and _holder(inputs, each, held) is not None):
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
    for each, ids in zip(inputs, types.ids, strict=True):
        bases = {each.elf.sections[index].name: base for index, base in each.bases.items()}
        for name, records in getattr(each.ext, which).items():
            for record in records if name in bases else ():
                row = list(record[:size])
                row[0] += bases[name]
                for place in of_types:
                    row[place] = ids.get(row[place], 0)
                for place in of_strings:
                    row[place] = types.strings.move(each, row[place])
                blocks.setdefault(name, []).append(row)
    if not blocks:
        return b""
    out = struct.pack("<I", 4 * size)
    for name, rows in blocks.items():
        out += struct.pack("<II", types.strings.add(name.encode()), len(rows))
        out += b"".join(struct.pack(f"<{size}I", *row) for row in sorted(rows, key=lambda r: r[0]))
    return out
