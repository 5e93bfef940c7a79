"""Types that are said several times, said once: which type stands for which.

As libbpf does it: numbers, enums and declarations by what they say; then structs by their whole graph, in which a declaration is as good
as the struct; then what refers to others, by what it refers to. Variables and sections are left as they are.
"""

from collections.abc import Callable

from ebpf.btf.parse import Btf
from ebpf.btf.types import COMPOSITE, ENUMS, MODIFIERS, Kind, Type
from ebpf.errors import FormatError

_PLAIN = ENUMS | {Kind.INT, Kind.FLOAT, Kind.FWD}
_REFERS = MODIFIERS | {Kind.PTR, Kind.FUNC}


def canonical(btf: Btf) -> list[int]:
    """For each id the id of the type that stands for it (its own, if it stays). Raises FormatError for types without end."""
    try:
        return _Dedup(btf).run()
    except RecursionError:
        raise FormatError("types are nested too deep", path=btf.path, where="BTF") from None


class _Dedup:
    """What stands for what so far: `_map` has None for a type that was not looked at."""

    def __init__(self, btf: Btf) -> None:
        self.types = btf.types
        self._map: list[int | None] = [t.id if t.kind in (Kind.VOID, Kind.VAR, Kind.DATASEC) else None for t in self.types]
        self._known: dict[object, list[int]] = {}
        # While two graphs are compared: the type of the one that each type of the other would be.
        self._taken_for: dict[int, int] = {}
        self._busy: set[int] = set()

    def run(self) -> list[int]:
        for type_ in self.types:
            if type_.kind in _PLAIN:
                self._plain(type_)
        for type_ in self.types:
            if type_.kind in COMPOSITE and self._map[type_.id] is None:
                self._composite(type_)
        # What is left refers to others; the keys of the rounds before are not theirs.
        self._known.clear()
        for type_ in self.types:
            self._referring(type_.id)
        return [self._find(type_.id) for type_ in self.types]

    def _find(self, id_: int) -> int:
        """What stands for a type, as far as that is known."""
        while (found := self._map[id_]) is not None and found != id_:
            id_ = found
        return id_

    # -- what says all by itself

    def _plain(self, type_: Type) -> None:
        known = self._known.setdefault((type_.kind, type_.name, type_.size), [])
        self._map[type_.id] = type_.id
        for id_ in known:
            other = self.types[id_]
            if _says_the_same(type_, other) or (_compatible(type_, other) and not type_.enumerators):
                self._map[type_.id] = id_
                return
            if _compatible(type_, other):
                # An enum that was only declared so far.
                self._map[id_] = type_.id
        known.append(type_.id)

    # -- structs

    def _composite(self, type_: Type) -> None:
        known = self._known.setdefault(_outline(type_), [])
        for id_ in known:
            self._taken_for.clear()
            if self._alike(type_.id, id_):
                self._agree()
                self._map[type_.id] = id_
                return
        self._map[type_.id] = type_.id
        known.append(type_.id)

    def _alike(self, left: int, right: int) -> bool:
        """Whether two graphs are the same: what was taken for another once is taken for it everywhere."""
        if self._find(left) == self._find(right):
            return True
        if self.types[right].kind == Kind.FWD:
            right = self._find(right)
        taken = self._taken_for.get(right)
        if taken is not None:
            return taken == left or self._identical(taken, left)
        self._taken_for[right] = left
        one, other = self.types[left], self.types[right]
        if one.name != other.name:
            return False
        if one.kind != other.kind:
            return _declares(one, other) or _declares(other, one)
        return _CHECKS[one.kind](self, one, other) if one.kind in _CHECKS else False

    def _identical(self, left: int, right: int) -> bool:
        """Whether a compiler said one array or struct twice within one object."""
        one, other = self.types[left], self.types[right]
        if one.kind != other.kind:
            return False
        if one.kind == Kind.ARRAY:
            return (one.name, one.ref, one.indexed_by, one.info) == (other.name, other.ref, other.indexed_by, other.info)
        if one.kind in COMPOSITE:
            same = _outline(one) == _outline(other)
            return same and [m.type_id for m in one.members] == [m.type_id for m in other.members]
        return False

    def _agree(self) -> None:
        """Two graphs are the same: declarations on either side are the structs of the other, and structs those that stay."""
        for right, left in self._taken_for.items():
            one, other = self.types[self._find(left)], self.types[self._find(right)]
            if one.kind != Kind.FWD and other.kind == Kind.FWD:
                self._map[other.id] = one.id
            elif one.kind == Kind.FWD and other.kind != Kind.FWD:
                self._map[one.id] = other.id
            if one.kind in COMPOSITE and other.kind != Kind.FWD and self._map[other.id] is not None and self._map[one.id] is None:
                self._map[one.id] = other.id

    # -- what refers to others

    def _referring(self, id_: int) -> int:
        """What stands for a type, found by what stands for those that it refers to."""
        if self._map[id_] is not None:
            return self._find(id_)
        if id_ in self._busy:
            raise FormatError(f"type {id_} refers to itself", where="BTF")
        self._busy.add(id_)
        type_ = self.types[id_]
        if type_.kind == Kind.ARRAY:
            refers: tuple[int, ...] = (self._referring(type_.ref), self._referring(type_.indexed_by))
        else:
            refers = (self._referring(type_.ref), *(self._referring(each.type_id) for each in type_.members))
        names = tuple(each.name for each in type_.members)
        key = (type_.kind, type_.name, type_.info, names, refers)
        known = self._known.setdefault(key, [id_])
        self._map[id_] = known[0]
        return known[0]


def _outline(type_: Type) -> tuple[object, ...]:
    """What a struct says without the types of its members."""
    return type_.kind, type_.name, type_.size, tuple((m.name, m.bits, m.bitfield) for m in type_.members)


def _says_the_same(one: Type, other: Type) -> bool:
    return (one.kind, one.name, one.size, one.info, one.enumerators) == (other.kind, other.name, other.size, other.info, other.enumerators)


def _compatible(one: Type, other: Type) -> bool:
    """Whether of two enums one is only declared."""
    if one.kind != other.kind or one.kind not in ENUMS or one.name != other.name or one.size != other.size:
        return False
    return not one.enumerators or not other.enumerators


def _declares(one: Type, other: Type) -> bool:
    """Whether `one` is the declaration of a struct or union such as `other`."""
    return one.kind == Kind.FWD and other.kind == (Kind.UNION if one.info else Kind.STRUCT)


def _same_plain(of: _Dedup, one: Type, other: Type) -> bool:
    return _says_the_same(one, other) or _compatible(one, other)


def _same_ref(of: _Dedup, one: Type, other: Type) -> bool:
    return one.info == other.info and of._alike(one.ref, other.ref)


def _same_array(of: _Dedup, one: Type, other: Type) -> bool:
    return one.info == other.info and of._alike(one.indexed_by, other.indexed_by) and of._alike(one.ref, other.ref)


def _same_members(of: _Dedup, one: Type, other: Type) -> bool:
    pairs = zip(one.members, other.members, strict=True)
    return _outline(one) == _outline(other) and all(of._alike(a.type_id, b.type_id) for a, b in pairs)


def _same_function(of: _Dedup, one: Type, other: Type) -> bool:
    if [each.name for each in one.members] != [each.name for each in other.members] or not of._alike(one.ref, other.ref):
        return False
    return all(of._alike(a.type_id, b.type_id) for a, b in zip(one.members, other.members, strict=True))


_CHECKS: dict[Kind, Callable[[_Dedup, Type, Type], bool]] = {
    **dict.fromkeys(_PLAIN, _same_plain),
    **dict.fromkeys(_REFERS, _same_ref),
    **dict.fromkeys(COMPOSITE, _same_members),
    Kind.ARRAY: _same_array,
    Kind.FUNC_PROTO: _same_function,
}
