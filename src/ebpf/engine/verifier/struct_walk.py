"""Walking the types of kernel structs: what lies at an offset, which types stand for each other."""

from dataclasses import dataclass
from typing import Final

from ebpf.btf import Btf, Kind
from ebpf.btf.types import COMPOSITE, Type
from ebpf.engine.verifier.reg import PERCPU, RCU, UNTRUSTED, USER

_NUMBERS: Final = (Kind.INT, Kind.ENUM, Kind.ENUM64)
_TAGS: Final = {"user": USER, "percpu": PERCPU, "rcu": RCU}
_DEPTH: Final = 32


class NoFieldError(Exception):
    """Nothing lies there that may be used so; the text is Linux's."""


@dataclass(frozen=True, slots=True)
class Found:
    """What lies at an offset: a number, a pointer (to the struct `type_id`, or to anything else: 0), or a struct inside.

    `flags` are of the pointer that is read, `field` its name.
    """

    kind: str
    type_id: int = 0
    flags: int = 0
    field: str = ""


NUMBER: Final = "number"
POINTER: Final = "pointer"
INSIDE: Final = "struct"


def skip(btf: Btf, type_id: int) -> int:
    """The id of the type behind typedefs and qualifiers."""
    return btf.resolve(type_id).id


def is_number(row: Type) -> bool:
    """Whether a type is an integer or an enum."""
    return row.kind in _NUMBERS


def tag_of(btf: Btf, pointer: Type) -> int:
    """The flag of what a pointer points to by its tag: user memory, per-CPU, under RCU."""
    row = btf.type(pointer.ref)
    return _TAGS.get(row.name, 0) if row.kind == Kind.TYPE_TAG else 0


def _elements(btf: Btf, type_id: int) -> tuple[Type, int]:
    """The innermost element of an array of arrays, and how many there are; of anything else itself and -1."""
    row, count = btf.resolve(type_id), -1
    while row.kind == Kind.ARRAY:
        count = row.info if count < 0 else count * row.info
        row = btf.resolve(row.ref)
    return row, count


def _flexible(btf: Btf, row: Type, off: int, size: int) -> tuple[Type, int] | None:
    """An access behind a struct that ends in an array of any length: (the element, the offset in it)."""
    beyond = NoFieldError(f"access beyond struct {row.name} at off {off} size {size}")
    if not row.members:
        raise beyond
    last = row.members[-1]
    array = btf.resolve(last.type_id)
    if array.kind != Kind.ARRAY or array.info or off < last.bits // 8:
        raise beyond
    element = btf.resolve(array.ref)
    if element.kind == Kind.INT:
        return None
    if element.kind not in COMPOSITE or not element.size:
        raise beyond
    return element, (off - last.bits // 8) % element.size


def walk(btf: Btf, type_id: int, off: int, size: int, flags: int = 0) -> Found:
    """What the `size` bytes at `off` of a struct are, down to the first struct that begins there. Raises NoFieldError."""
    row = btf.resolve(type_id)
    for _ in range(_DEPTH):
        if row.kind not in COMPOSITE:
            raise NoFieldError(f"Type '{row.name}' is not a struct")
        if row.kind == Kind.UNION and len(row.members) != 1:
            flags |= UNTRUSTED
        if off + size > row.size:
            within = _flexible(btf, row, off, size)
            if within is None:
                return Found(NUMBER, flags=flags)
            row, off = within
            continue
        found = _member(btf, row, off, size, flags)
        if isinstance(found, Found):
            return found
        row, off = found
    raise NoFieldError(f"struct {row.name} doesn't have field at offset {off}")


def _member(btf: Btf, row: Type, off: int, size: int, flags: int) -> Found | tuple[Type, int]:
    """The member at an offset, or the struct inside and the offset in it."""
    for member in row.members:
        start = member.bits // 8
        if off + size <= start:
            break
        if member.bitfield:
            if off <= start and (member.bits + member.bitfield + 7) // 8 <= off + size:
                return Found(NUMBER, flags=flags)
            continue
        if off < start:
            break
        inner, count = _elements(btf, member.type_id)
        width = btf.size_of(inner.id)
        end = start + width * (1 if count < 0 else count)
        if off >= end:
            continue
        if count >= 0:
            start += (off - start) // width * width
        if inner.kind in COMPOSITE:
            return Found(INSIDE, inner.id, flags) if off == start else (inner, off - start)
        if inner.kind == Kind.PTR:
            if width != size or off != start:
                raise NoFieldError(
                    f"cannot access ptr member {member.name} with moff {start} in struct {row.name} with off {off} size {size}"
                )
            target = btf.resolve(inner.ref)
            if target.kind in COMPOSITE:
                return Found(POINTER, target.id, flags | tag_of(btf, inner), member.name)
            return Found(POINTER, 0, flags, member.name)
        if off + size > end and not flags & UNTRUSTED:
            raise NoFieldError(
                f"access beyond the end of member {member.name} (mend:{end}) in struct {row.name} with off {off} size {size}"
            )
        return Found(NUMBER, flags=flags)
    raise NoFieldError(f"struct {row.name} doesn't have field at offset {off}")


def read(btf: Btf, type_id: int, off: int, size: int, flags: int = 0) -> Found:
    """What a load of `size` bytes at `off` gives: a number or a pointer. Raises NoFieldError."""
    found = walk(btf, type_id, off, size, flags)
    while found.kind == INSIDE:
        found = walk(btf, found.type_id, 0, size, found.flags)
    return found


def stands_for(btf: Btf, type_id: int, off: int, wanted: int, *, strict: bool = False) -> bool:
    """Whether a pointer to `off` within a struct is one to the struct `wanted`: itself, or one that begins there."""
    type_id = skip(btf, type_id)
    if not off and type_id == wanted:
        return True
    if strict:
        return False
    try:
        found = walk(btf, type_id, off, 1)
        while found.kind == INSIDE:
            if found.type_id == wanted:
                return True
            found = walk(btf, found.type_id, 0, 1)
    except NoFieldError:
        return False
    return False


def of_numbers(btf: Btf, row: Type, depth: int = 0) -> bool:
    """Whether a type is a number, or a struct of nothing but numbers."""
    if is_number(row):
        return True
    if row.kind not in COMPOSITE or depth > 3:
        return False
    for member in row.members:
        inner = btf.resolve(member.type_id)
        if inner.kind == Kind.ARRAY:
            if not inner.info:
                return False
            inner = btf.resolve(inner.ref)
            if not is_number(inner):
                return False
        elif inner.kind in COMPOSITE:
            if not of_numbers(btf, inner, depth + 1):
                return False
        elif not is_number(inner):
            return False
    return True
