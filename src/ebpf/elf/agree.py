"""Whether two objects mean the same by a global name: what one declares and another defines, or both define."""

from ebpf.btf import Btf, Kind, Type
from ebpf.btf.types import COMPOSITE, ENUMS

_STATIC, _DEPTH, _MAPS = 0, 64, ".maps"
_NAMED = COMPOSITE | ENUMS | {Kind.FWD}


def disagreement(name: str, left: Btf | None, right: Btf | None) -> str:
    """Why the types of a global function or variable do not go together; "" if they do, or if an object does not tell one.

    As libbpf's linker has it: names of structs, their members and their offsets, sizes of numbers, kinds of what is pointed to;
    not the lengths of arrays, the signs of numbers, nor the names of parameters.
    """
    if left is None or right is None:
        return ""
    one, two = _global(name, left), _global(name, right)
    if one is None or two is None:
        return ""
    if one.kind != two.kind:
        return f"is a {_word(one)} elsewhere, and a {_word(two)} here"
    return _differ(left, one.ref, right, two.ref, exact=True, depth=0)


def _global(name: str, btf: Btf) -> Type | None:
    """The type of a global name. Maps are none: their definitions are read, and their types only spell them."""
    for kind in (Kind.FUNC, Kind.VAR):
        found = btf.find(name, kind)
        if found is not None and found.info != _STATIC:
            maps = btf.find(_MAPS, Kind.DATASEC)
            return None if maps is not None and any(row.type_id == found.id for row in maps.variables) else found
    return None


def _word(type_: Type) -> str:
    return {Kind.FUNC: "function", Kind.VAR: "variable", Kind.FWD: "declaration"}.get(type_.kind, type_.kind.name.lower())


def _differ(left: Btf, one_id: int, right: Btf, two_id: int, *, exact: bool, depth: int) -> str:
    one, two = left.resolve(one_id), right.resolve(two_id)
    if depth > _DEPTH:
        return "has a type that is too deep"
    if one.kind in _NAMED and two.kind in _NAMED and one.name != two.name:
        return f"is of type {one.name or 'without a name'!r} elsewhere, and of type {two.name or 'without a name'!r} here"
    if not exact and Kind.FWD in (one.kind, two.kind):
        # A FWD's own number says that it declares a union.
        kinds = {(Kind.UNION if t.info else Kind.STRUCT) if t.kind == Kind.FWD else t.kind for t in (one, two)}
        return "" if len(kinds) == 1 else f"leads to a struct and to a union, or to neither: {one.name!r}"
    if one.kind != two.kind:
        return f"is of kind {_word(one)} elsewhere, and of kind {_word(two)} here"
    if one.kind in (Kind.INT, Kind.FLOAT, *ENUMS) and one.size != two.size:
        return f"has {one.size} bytes elsewhere, and {two.size} here"
    pairs: list[tuple[int, int]] = []
    if (one.kind in COMPOSITE and exact) or one.kind == Kind.FUNC_PROTO:
        what = "parameters" if one.kind == Kind.FUNC_PROTO else "members"
        if len(one.members) != len(two.members):
            return f"has {len(one.members)} {what} elsewhere, and {len(two.members)} here"
        for mine, other in zip(one.members, two.members, strict=True):
            if one.kind != Kind.FUNC_PROTO and (mine.name, mine.bits) != (other.name, other.bits):
                return f"has member {mine.name!r} at bit {mine.bits} elsewhere, and {other.name!r} at {other.bits} here"
            pairs.append((mine.type_id, other.type_id))
    if one.kind in (Kind.PTR, Kind.ARRAY, Kind.FUNC_PROTO):
        pairs.append((one.ref, two.ref))
    exact = exact and one.kind != Kind.PTR
    found = (_differ(left, a, right, b, exact=exact, depth=depth + 1) for a, b in pairs)
    return next((why for why in found if why), "")
