"""BTF's types as frozen data. Source: Documentation/bpf/btf.rst and linux/btf.h."""

from collections.abc import Mapping
from enum import IntEnum
from typing import Final, NamedTuple


class Kind(IntEnum):
    """Kinds of BTF type."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


COMPOSITE = frozenset({Kind.STRUCT, Kind.UNION})
ENUMS = frozenset({Kind.ENUM, Kind.ENUM64})
MODIFIERS = frozenset({Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG})
SIZED = frozenset({Kind.INT, Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.ENUM64, Kind.FLOAT, Kind.DATASEC})

# How many bytes a type has behind its first twelve, and then for each of the rows that it counts.
EXTRA: Final[Mapping[int, int]] = {Kind.INT: 4, Kind.ARRAY: 12, Kind.VAR: 4, Kind.DECL_TAG: 4}
EACH: Final[Mapping[int, int]] = {
    Kind.STRUCT: 12,
    Kind.UNION: 12,
    Kind.ENUM: 8,
    Kind.ENUM64: 12,
    Kind.FUNC_PROTO: 8,
    Kind.DATASEC: 12,
}


class Member(NamedTuple):
    """A member of a struct or union (`bits` is its offset in bits, `bitfield` its width or 0) or a parameter."""

    name: str
    type_id: int
    bits: int = 0
    bitfield: int = 0


class Enumerator(NamedTuple):
    """A name with its value."""

    name: str
    value: int


class SectionVar(NamedTuple):
    """A variable of a DATASEC: its VAR, and where it lies."""

    type_id: int
    offset: int
    size: int


class Type(NamedTuple):
    """One BTF type. `ref` is what it refers to (PTR, TYPEDEF ..., VAR, FUNC, ARRAY's element, FUNC_PROTO's result).

    `size` is in bytes where the kind has one; `info` is the kind's own number: INT's bits and encoding word, ARRAY's length,
    VAR's and FUNC's linkage, DECL_TAG's component, FWD's and ENUM's flag. `indexed_by` is the type of an ARRAY's index.
    """

    id: int
    kind: Kind
    name: str
    size: int = 0
    ref: int = 0
    info: int = 0
    members: tuple[Member, ...] = ()
    enumerators: tuple[Enumerator, ...] = ()
    variables: tuple[SectionVar, ...] = ()
    indexed_by: int = 0

    @property
    def bits(self) -> int:
        """An INT's width in bits."""
        return self.info & 0xFF

    @property
    def bit_offset(self) -> int:
        """An INT's first bit within its bytes: only compilers of long ago give one."""
        return self.info >> 16 & 0xFF

    @property
    def signed(self) -> bool:
        """Whether an INT or ENUM is signed."""
        if self.kind == Kind.INT:
            return bool(self.info >> 24 & 1)
        return bool(self.info)

    @property
    def is_char(self) -> bool:
        """Whether an INT is a character by its encoding or its name."""
        return self.kind == Kind.INT and (bool(self.info >> 24 & 2) or self.name == "char")

    @property
    def is_bool(self) -> bool:
        """Whether an INT is a _Bool."""
        return self.kind == Kind.INT and bool(self.info >> 24 & 4)
