"""A reduced BTF: of a kernel's types only what an object's CO-RE records reach, for kernels that tell no types themselves.

What is kept, and in what order, is as bpftool does it.
"""

import struct
from collections.abc import Callable, Iterable, Mapping

from ebpf.btf.core import Matcher, Place, Relo, Step
from ebpf.btf.parse import MAGIC, Btf
from ebpf.btf.types import COMPOSITE, EACH, ENUMS, MODIFIERS, Kind, Type

_TYPES = frozenset({Relo.TYPE_ID_TARGET, Relo.TYPE_EXISTS, Relo.TYPE_SIZE})
_ENUM_VALUES = frozenset({Relo.ENUMVAL_EXISTS, Relo.ENUMVAL_VALUE})
#: Kinds whose third word refers to a type.
_REFERS = MODIFIERS | {Kind.PTR, Kind.FUNC_PROTO}


class Minimal:
    """Collects what is reached of a kernel's types (`btf`); `build` makes a BTF of it."""

    def __init__(self, btf: Btf) -> None:
        self.btf = btf
        self._used: set[int] = set()
        self._members: dict[int, set[int]] = {}

    def add(self, local: Btf, records: Iterable[tuple[int, str, int]]) -> None:
        """Take in the records of an object: (type of `local`, access, kind). What the kernel has not is left out. Raises FormatError."""
        matcher = Matcher(local, lambda: (self.btf,))
        for record in records:
            if Relo(record[2]) != Relo.TYPE_ID_LOCAL and (place := matcher.place(*record)) is not None:
                self._add(place)

    def _add(self, place: Place) -> None:
        if place.kind == Relo.TYPE_MATCHES:
            self._mark_matched(place.root, set(), pointed=False)
        elif place.kind in _TYPES:
            self._mark(place.root, through_pointers=True)
        else:
            self._mark(place.root)
            if place.kind not in _ENUM_VALUES:
                self._mark_access(place)

    def _mark(self, id_: int, *, through_pointers: bool = False) -> None:
        """Keep a type and what it is made of; of structs nothing but that they are there."""
        todo = [id_]
        while todo:
            type_ = self.btf.type(todo.pop())
            if not type_.id or (type_.id in self._used and not through_pointers):
                continue
            known = type_.id in self._used
            self._used.add(type_.id)
            if type_.kind in MODIFIERS or (type_.kind == Kind.PTR and through_pointers and not known):
                todo.append(type_.ref)
            elif type_.kind == Kind.ARRAY:
                todo += (type_.ref, type_.indexed_by)
            elif type_.kind == Kind.FUNC_PROTO:
                todo += (type_.ref, *(each.type_id for each in type_.members))

    def _mark_access(self, place: Place) -> None:
        """Keep the members that an access goes through, those without a name too, and their types."""
        type_ = self.btf.resolve(place.root)
        for step in place.steps[1:]:
            if not step.name:
                type_ = self.btf.resolve(type_.ref)
                continue
            for holder, index in _way(self.btf, type_, step):
                self._members.setdefault(holder, set()).add(index)
                self._mark(self.btf.type(holder).members[index].type_id)
            type_ = self.btf.resolve(self.btf.type(step.type_id).members[step.index].type_id)

    def _mark_matched(self, id_: int, seen: set[int], *, pointed: bool) -> None:
        """Keep what decides whether a whole type is as it was: members by value, and what is pointed to by its name."""
        type_ = self.btf.type(id_)
        if not id_ or (id_ in seen and id_ in self._used):
            return
        seen.add(id_)
        self._used.add(id_)
        if type_.kind in COMPOSITE and not pointed:
            for index, member in enumerate(type_.members):
                self._members.setdefault(id_, set()).add(index)
                self._mark_matched(member.type_id, seen, pointed=False)
        elif type_.kind in MODIFIERS or type_.kind == Kind.PTR:
            self._mark_matched(type_.ref, seen, pointed=pointed or type_.kind == Kind.PTR)
        elif type_.kind == Kind.ARRAY:
            self._mark_matched(type_.ref, seen, pointed=pointed)
            self._mark(type_.indexed_by)
        elif type_.kind == Kind.FUNC_PROTO:
            for each in (type_.ref, *(parameter.type_id for parameter in type_.members)):
                self._mark_matched(each, seen, pointed=pointed)

    def build(self) -> bytes:
        """The BTF of what was reached, in the kernel's order."""
        kept = sorted(self._used)
        ids = {id_: number for number, id_ in enumerate(kept, start=1)} | {0: 0}
        strings: dict[str, int] = {"": 0}
        blob = bytearray(b"\0")

        def string(text: str) -> int:
            if text not in strings:
                strings[text] = len(blob)
                blob.extend(text.encode() + b"\0")
            return strings[text]

        words: list[int] = []
        for id_ in kept:
            words += self._words(self.btf.type(id_), ids, string)
        types = struct.pack(f"<{len(words)}I", *words)
        return struct.pack("<HBBIIIII", MAGIC, 1, 0, 24, 0, len(types), len(types), len(blob)) + types + bytes(blob)

    def _words(self, type_: Type, ids: Mapping[int, int], string: Callable[[str], int]) -> list[int]:
        """A type's words, with the new ids and strings, and only the members that are kept."""
        words = self.btf.words(type_.id)
        words[0] = string(type_.name)
        if type_.kind in _REFERS:
            words[2] = ids.get(type_.ref, 0)
        rows = _rows(words, type_.kind)
        if type_.kind == Kind.ARRAY:
            words[3:5] = [ids.get(type_.ref, 0), ids.get(type_.indexed_by, 0)]
        elif type_.kind in COMPOSITE:
            kept = [type_.members[index] for index in sorted(self._members.get(type_.id, ()))]
            flag = any(member.bitfield or member.bits % 8 for member in kept)
            words[1:] = [flag << 31 | type_.kind << 24 | len(kept), type_.size]
            for member in kept:
                words += [string(member.name), ids.get(member.type_id, 0), member.bitfield << 24 | member.bits]
        elif type_.kind == Kind.FUNC_PROTO:
            for at, parameter in zip(rows, type_.members, strict=True):
                words[at : at + 2] = [string(parameter.name), ids.get(parameter.type_id, 0)]
        elif type_.kind in ENUMS:
            for at, row in zip(rows, type_.enumerators, strict=True):
                words[at] = string(row.name)
        return words


def _rows(words: list[int], kind: Kind) -> range:
    """Where the rows begin that a type counts."""
    return range(3, len(words), EACH[kind] // 4) if kind in EACH else range(0)


def _way(btf: Btf, type_: Type, step: Step) -> list[tuple[int, int]]:
    """The members, as (type, number), by which a struct's member is reached: those without a name that hold it, and itself."""
    if type_.id == step.type_id:
        return [(type_.id, step.index)]
    for index, member in enumerate(type_.members):
        inner = btf.resolve(member.type_id)
        if not member.name and inner.kind in COMPOSITE:
            way = _way(btf, inner, step)
            if way:
                return [(type_.id, index), *way]
    return []
