"""CO-RE: what a relocation record of a compiled program means among the types of the kernel that it is loaded into.

Pure: types in, numbers out; `object` puts them into instructions. Names are compared without their flavour
(`task_struct___old` is `task_struct`), members by name wherever they lie, and all candidates must agree.
"""

from collections.abc import Callable, Iterable
from enum import IntEnum

from ebpf.btf.index import essential
from ebpf.btf.parse import Btf
from ebpf.btf.types import COMPOSITE, ENUMS, Kind, Member, Type
from ebpf.errors import FormatError
from ebpf.records import record


class Relo(IntEnum):
    """What a record asks for (enum bpf_core_relo_kind)."""

    FIELD_BYTE_OFFSET = 0
    FIELD_BYTE_SIZE = 1
    FIELD_EXISTS = 2
    FIELD_SIGNED = 3
    FIELD_LSHIFT_U64 = 4
    FIELD_RSHIFT_U64 = 5
    TYPE_ID_LOCAL = 6
    TYPE_ID_TARGET = 7
    TYPE_EXISTS = 8
    TYPE_SIZE = 9
    ENUMVAL_EXISTS = 10
    ENUMVAL_VALUE = 11
    TYPE_MATCHES = 12


_TYPES = frozenset({Relo.TYPE_ID_LOCAL, Relo.TYPE_ID_TARGET, Relo.TYPE_EXISTS, Relo.TYPE_SIZE, Relo.TYPE_MATCHES})
_ENUM_VALUES = frozenset({Relo.ENUMVAL_EXISTS, Relo.ENUMVAL_VALUE})
#: Without a match these are answered with 0; all others poison the instruction.
_OPTIONAL = frozenset({Relo.FIELD_EXISTS, *_TYPES, Relo.ENUMVAL_EXISTS})
_DEEPEST, _LONGEST = 32, 64
_U64 = (1 << 64) - 1


@record
class Step:
    """A step of an access: member or element `index` of a type; `name` is empty for an element."""

    type_id: int
    index: int
    name: str = ""


class Place:
    """Where an access leads in one BTF: `steps` by which, and how many `bits` from the beginning."""

    __slots__ = ("bits", "btf", "kind", "root", "steps")

    def __init__(self, btf: Btf, root: int, kind: Relo) -> None:
        self.btf, self.root, self.kind = btf, root, kind
        self.steps: list[Step] = []
        self.bits = 0

    def describe(self) -> str:
        """The access as C writes it, in brackets the id and offset."""
        root = self.btf.type(self.root)
        path = "".join(f".{s.name}" if s.name else f"[{s.index}]" for i, s in enumerate(self.steps) if i or self.kind not in _ENUM_VALUES)
        words = {Kind.STRUCT: "struct ", Kind.UNION: "union ", Kind.ENUM: "enum ", Kind.ENUM64: "enum "}
        name = f"{words.get(root.kind, '')}{root.name or '(anonymous)'}"
        if self.kind in _ENUM_VALUES:
            return f"{name}::{self.steps[0].name}"
        return name + (path[3:] if path.startswith("[0].") else path)


@record
class Answer:
    """What to put into the instruction: `old` is what must stand there if `checked`, `new` what replaces it.

    `poisoned`: nothing fits, the instruction must never run. A load or store is `old_size` bytes wide and becomes `new_size`
    (0: as it is); `resizable` says whether that keeps its meaning.
    """

    old: int
    new: int
    checked: bool = True
    poisoned: bool = False
    old_size: int = 0
    new_size: int = 0
    resizable: bool = True


class Matcher:
    """Answers the relocations of an object (`local`) by the types of a kernel (`targets`: the kernel, then its modules)."""

    def __init__(self, local: Btf, targets: Callable[[], Iterable[Btf]]) -> None:
        self.local = local
        self._targets = targets
        self._candidates: dict[int, list[tuple[Btf, int]]] = {}
        self._answers: dict[tuple[int, str, int], Answer] = {}

    def answer(self, type_id: int, access: str, kind: int) -> Answer:
        """What a record means. Raises FormatError for a record without sense and for candidates that disagree."""
        key = type_id, access, kind
        found = self._answers.get(key)
        if found is None:
            found = self._answers[key] = self._find(*key)
        return found

    def describe(self, type_id: int, access: str, kind: int) -> str:
        """The access of a record as C writes it."""
        return _parse(self.local, type_id, access, _relo(kind)).describe()

    def place(self, type_id: int, access: str, kind: int) -> Place | None:
        """Where the access of a record leads in the first target that has it. Raises FormatError for a record without sense."""
        local = _parse(self.local, type_id, access, _relo(kind))
        places = (_match(local, btf, id_) for btf, id_ in self._named(type_id)) if self.local.name(type_id) else ()
        return next((place for place in places if place is not None), None)

    def _find(self, type_id: int, access: str, kind: int) -> Answer:
        relo = _relo(kind)
        place = _parse(self.local, type_id, access, relo)
        if relo == Relo.TYPE_ID_LOCAL:
            return Answer(type_id, type_id, checked=False)
        if not self.local.name(type_id):
            raise FormatError("a relocation of a type that has no name", where=place.describe())
        first: tuple[Place, Answer] | None = None
        for btf, id_ in self._named(type_id):
            target = _match(place, btf, id_)
            if target is None:
                continue
            answer = _compare(place, target)
            if first is None:
                first = target, answer
            elif target.bits != first[0].bits or (answer.poisoned, answer.new) != (first[1].poisoned, first[1].new):
                why = f"is ambiguous: it would be {first[1].new} by type {first[0].root}, and {answer.new} by type {target.root}"
                raise FormatError(why, where=place.describe())
        return first[1] if first is not None else _compare(place, None)

    def _named(self, type_id: int) -> list[tuple[Btf, int]]:
        found = self._candidates.get(type_id)
        if found is None:
            kind, name = self.local.kind(type_id), essential(self.local.name(type_id))
            found = []
            for btf in self._targets():
                found += [(btf, id_) for id_ in btf.named(name) if _same_kind(kind, btf.kind(id_))]
                if found:
                    # What the kernel itself has is not looked for in its modules.
                    break
            self._candidates[type_id] = found
        return found


def _relo(kind: int) -> Relo:
    try:
        return Relo(kind)
    except ValueError:
        raise FormatError(f"relocation kind {kind} is not known", where="CO-RE") from None


def _same_kind(left: int, right: int) -> bool:
    return left == right or (left in ENUMS and right in ENUMS)


def _parse(btf: Btf, type_id: int, access: str, kind: Relo) -> Place:
    """A record's access string, walked through the object's own types."""

    def bad(why: str) -> FormatError:
        return FormatError(f"access {access!r} of type {type_id} {why}", where="CO-RE")

    parts = access.split(":")
    if len(parts) > _LONGEST or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise bad("is no list of numbers")
    indices = [int(part) for part in parts]
    place = Place(btf, type_id, kind)
    if kind in _TYPES:
        if indices != [0]:
            raise bad("is not 0, as a type's is")
        return place
    type_ = btf.resolve(type_id)
    if kind in _ENUM_VALUES:
        if type_.kind not in ENUMS or len(indices) != 1 or indices[0] >= len(type_.enumerators):
            raise bad("is no enumerator")
        place.steps.append(Step(type_.id, indices[0], type_.enumerators[indices[0]].name))
        return place
    place.steps.append(Step(type_.id, indices[0]))
    place.bits = indices[0] * btf.size_of(type_.id) * 8
    for index in indices[1:]:
        if type_.kind in COMPOSITE:
            if index >= len(type_.members):
                raise bad(f"names member {index} of {len(type_.members)}")
            member = type_.members[index]
            place.bits += member.bits
            if member.name:
                place.steps.append(Step(type_.id, index, member.name))
            type_ = btf.resolve(member.type_id)
        elif type_.kind == Kind.ARRAY:
            if index >= type_.info and not _flexible(btf, place.steps[-1], type_):
                raise bad(f"names element {index} of {type_.info}")
            type_ = btf.resolve(type_.ref)
            place.steps.append(Step(type_.id, index))
            place.bits += index * btf.size_of(type_.id) * 8
        else:
            raise bad(f"goes into a {type_.kind.name.lower()}")
    return place


def _flexible(btf: Btf, step: Step, array: Type) -> bool:
    """Whether an array is the last member of a struct and has no length of its own."""
    return bool(step.name) and not array.info and step.index == len(btf.type(step.type_id).members) - 1


# -- does a target fit


def _match(local: Place, btf: Btf, id_: int) -> Place | None:
    """The same access through a target's types; None if it does not lead there."""
    place = Place(btf, id_, local.kind)
    if local.kind in _TYPES:
        test = _matches if local.kind == Relo.TYPE_MATCHES else compatible
        return place if test(local.btf, local.root, btf, id_) else None
    type_ = btf.resolve(id_)
    if local.kind in _ENUM_VALUES:
        wanted = essential(local.steps[0].name)
        for index, row in enumerate(type_.enumerators):
            if essential(row.name) == wanted:
                place.steps.append(Step(type_.id, index, row.name))
                return place
        return None
    for number, step in enumerate(local.steps):
        if step.name:
            member = local.btf.type(step.type_id).members[step.index]
            found = _member(local.btf, member, btf, type_, _DEEPEST)
            if found is None:
                return None
            steps, bits, next_id = found
            place.steps.append(steps)
            place.bits += bits
            type_ = btf.resolve(next_id)
            continue
        if number:
            # The first step counts elements of the root type itself, later ones those of an array.
            if type_.kind != Kind.ARRAY or (step.index >= type_.info and not _flexible(btf, place.steps[-1], type_)):
                return None
            type_ = btf.resolve(type_.ref)
        place.steps.append(Step(type_.id, step.index))
        place.bits += step.index * btf.size_of(type_.id) * 8
    return place


def _member(local: Btf, wanted: Member, btf: Btf, type_: Type, depth: int) -> tuple[Step, int, int] | None:
    """The member of a target by name, looked for in unnamed members too: the step, its bits within `type_`, and its type."""
    if type_.kind not in COMPOSITE or not depth:
        return None
    for index, member in enumerate(type_.members):
        if not member.name:
            found = _member(local, wanted, btf, btf.resolve(member.type_id), depth - 1)
            if found is not None:
                return found[0], member.bits + found[1], found[2]
        elif member.name == wanted.name:
            if not _fields_agree(local, wanted.type_id, btf, member.type_id):
                return None
            return Step(type_.id, index, member.name), member.bits, member.type_id
    return None


def _fields_agree(local: Btf, local_id: int, btf: Btf, id_: int) -> bool:
    """Whether two members' types are near enough: numbers of any size, any pointers, enums and declarations by name."""
    for _ in range(_DEEPEST):
        left, right = local.resolve(local_id), btf.resolve(id_)
        if left.kind in COMPOSITE and right.kind in COMPOSITE:
            return True
        if not _same_kind(left.kind, right.kind):
            return False
        if left.kind in (Kind.PTR, Kind.FLOAT):
            return True
        if left.kind in (Kind.FWD, *ENUMS):
            names = essential(left.name), essential(right.name)
            return not all(names) or names[0] == names[1]
        if left.kind == Kind.INT:
            return not left.bit_offset and not right.bit_offset
        if left.kind != Kind.ARRAY:
            return False
        local_id, id_ = left.ref, right.ref
    return False


def compatible(local: Btf, local_id: int, btf: Btf, id_: int, depth: int = _DEEPEST) -> bool:
    """Whether two types of one name are the same kind of thing (TYPE_EXISTS, TYPE_SIZE, TYPE_ID_TARGET)."""
    if not _same_kind(local.kind(local_id), btf.kind(id_)):
        return False
    while depth:
        depth -= 1
        left, right = local.resolve(local_id), btf.resolve(id_)
        if not _same_kind(left.kind, right.kind):
            return False
        if left.kind in (Kind.VOID, Kind.FWD, *COMPOSITE, *ENUMS):
            return True
        if left.kind == Kind.INT:
            return not left.bit_offset and not right.bit_offset
        if left.kind == Kind.FUNC_PROTO:
            if len(left.members) != len(right.members):
                return False
            pairs = zip(left.members, right.members, strict=True)
            if not all(compatible(local, local.resolve(a.type_id).id, btf, btf.resolve(b.type_id).id, depth) for a, b in pairs):
                return False
        elif left.kind not in (Kind.PTR, Kind.ARRAY):
            return False
        local_id, id_ = left.ref, right.ref
    return False


def _matches(local: Btf, local_id: int, btf: Btf, id_: int, depth: int = _DEEPEST, *, pointed: bool = False) -> bool:
    """Whether all that the local type has is found in the target with the same types (TYPE_MATCHES)."""
    while depth:
        left, right = local.resolve(local_id), btf.resolve(id_)
        if essential(left.name) != essential(right.name):
            return False
        if left.kind == Kind.FWD or (pointed and left.kind in COMPOSITE):
            return _forward_matches(left, right, pointed=pointed)
        if left.kind in ENUMS:
            return _same_kind(left.kind, right.kind) and _enums_match(left, right)
        if left.kind != right.kind:
            return False
        if left.kind == Kind.VOID:
            return True
        if left.kind in COMPOSITE:
            return _members_match(local, left, btf, right, depth)
        if left.kind == Kind.INT:
            return (left.size, left.signed) == (right.size, right.signed)
        if left.kind == Kind.PTR:
            pointed = True
        elif left.kind == Kind.ARRAY:
            if left.info != right.info:
                return False
        elif left.kind == Kind.FUNC_PROTO:
            if len(left.members) != len(right.members):
                return False
            for a, b in zip(left.members, right.members, strict=True):
                if not _matches(local, a.type_id, btf, b.type_id, depth - 1, pointed=pointed):
                    return False
        else:
            return False
        local_id, id_ = left.ref, right.ref
    raise FormatError("types are nested too deeply", where="CO-RE")


def _forward_matches(left: Type, right: Type, *, pointed: bool) -> bool:
    """A struct or union that is only pointed to, or only declared, is matched by its word and name."""
    if not pointed:
        return left.kind == right.kind and bool(left.info) == bool(right.info)
    unions = [bool(t.info) if t.kind == Kind.FWD else t.kind == Kind.UNION for t in (left, right)]
    return right.kind in (Kind.FWD, *COMPOSITE) and unions[0] == unions[1]


def _enums_match(left: Type, right: Type) -> bool:
    there = {essential(row.name) for row in right.enumerators}
    return len(left.enumerators) <= len(right.enumerators) and all(essential(row.name) in there for row in left.enumerators)


def _members_match(local: Btf, left: Type, btf: Btf, right: Type, depth: int) -> bool:
    if len(left.members) > len(right.members):
        return False
    there: dict[str, list[Member]] = {}
    for member in right.members:
        there.setdefault(essential(member.name), []).append(member)
    return all(
        any(_matches(local, m.type_id, btf, other.type_id, depth - 1) for other in there.get(essential(m.name), ())) for m in left.members
    )


# -- what it then says


@record
class _Number:
    """A number with what a load of it needs to know; None stands for one that cannot be given."""

    value: int
    checked: bool = True
    size: int = 0
    type_: Type | None = None


def _compare(local: Place, target: Place | None) -> Answer:
    old, new = _number(local), _number(target) if target is not None else _without(local.kind)
    assert old is not None
    if new is None:
        return Answer(old.value, 0, checked=False, poisoned=True)
    resizable = True
    if old.size != new.size and old.type_ is not None and new.type_ is not None:
        # A kernel of 32 bits has smaller pointers, and unsigned numbers stay what they are.
        kinds = old.type_.kind, new.type_.kind
        unsigned = kinds == (Kind.INT, Kind.INT) and not old.type_.signed and not new.type_.signed
        resizable = kinds == (Kind.PTR, Kind.PTR) or unsigned
    return Answer(old.value, new.value, old.checked, False, old.size, new.size, resizable)


def _without(kind: Relo) -> _Number | None:
    return _Number(0) if kind in _OPTIONAL else None


def _number(place: Place) -> _Number | None:
    kind = place.kind
    if kind in _TYPES:
        if kind == Relo.TYPE_ID_TARGET:
            return _Number(place.root, checked=False)
        return _Number(place.btf.size_of(place.root) if kind == Relo.TYPE_SIZE else 1)
    if kind in _ENUM_VALUES:
        step = place.steps[0]
        row = place.btf.type(step.type_id).enumerators[step.index]
        return _Number(_enum_value(place.btf.type(step.type_id), row.value) if kind == Relo.ENUMVAL_VALUE else 1)
    return _field(place)


def _enum_value(type_: Type, value: int) -> int:
    """An enumerator as 64 bits: 32-bit ones are signed whatever their flag says."""
    if type_.kind == Kind.ENUM:
        value = (value & 0xFFFFFFFF) - (1 << 32 if value >> 31 & 1 else 0)
    return value & _U64


def _field(place: Place) -> _Number | None:
    kind, btf, step = place.kind, place.btf, place.steps[-1]
    if kind == Relo.FIELD_EXISTS:
        return _Number(1)
    if not step.name:
        size = btf.size_of(step.type_id)
        if kind == Relo.FIELD_BYTE_OFFSET:
            return _Number(place.bits // 8, True, size, btf.type(step.type_id))
        if kind == Relo.FIELD_BYTE_SIZE:
            return _Number(size)
        raise FormatError(f"{kind.name.lower()} of an array's element", where=place.describe())
    member = btf.type(step.type_id).members[step.index]
    type_ = btf.resolve(member.type_id)
    whole = not member.bitfield
    if whole:
        size, at = btf.size_of(type_.id), place.bits // 8
        width = size * 8
    else:
        size, width = max(type_.size, 1), member.bitfield
        at = place.bits // 8 // size * size
        while place.bits + width - at * 8 > size * 8:
            # The smallest aligned number that holds all bits of the field.
            if size >= 8:
                raise FormatError("a bit-field that no load of 64 bits can hold", where=place.describe())
            size *= 2
            at = place.bits // 8 // size * size
    if kind == Relo.FIELD_BYTE_OFFSET:
        if not whole:
            return _Number(at, checked=False)
        element = type_
        while element.kind == Kind.ARRAY:
            element = btf.resolve(element.ref)
        return _Number(at, True, btf.size_of(element.id), element)
    if kind == Relo.FIELD_BYTE_SIZE:
        return _Number(size, checked=whole)
    if kind == Relo.FIELD_SIGNED:
        return _Number(int(type_.kind in (Kind.INT, *ENUMS) and type_.signed))
    if kind == Relo.FIELD_LSHIFT_U64:
        return _Number(64 - (place.bits + width - at * 8), checked=whole)
    return _Number(64 - width)
