"""The order of vmlinux.h: types by kind and name, so that those of two kernels can be compared."""

from ebpf.btf.parse import Btf
from ebpf.btf.types import COMPOSITE, ENUMS, Kind

_LAST = 10
_THROUGH = (Kind.TYPE_TAG, Kind.CONST, Kind.PTR, Kind.VOLATILE, Kind.RESTRICT, Kind.TYPEDEF, Kind.DECL_TAG)
_WORD = (1 << 64) - 1


def in_order(btf: Btf) -> list[int]:
    """All types by kind, then by name, so that the texts of two kernels can be compared; the order of bpftool since 7.5."""
    keys = [(_rank(btf, t.id), _sort_name(btf, t.id), t.name.encode(), t.id) for t in btf]
    groups: dict[tuple[int, bytes, bytes], int] = {}
    for rank, sort_name, own, _ in keys:
        groups[rank, sort_name, own] = groups.get((rank, sort_name, own), 0) + 1
    # A hash of names tells apart what has no name of its own: it is worth its time only there.
    full = [
        (rank, sort_name, own, _hash(btf, id_, members=True) if groups[rank, sort_name, own] > 1 and rank < _LAST else 0, id_)
        for rank, sort_name, own, id_ in keys
    ]
    full.sort()
    return [key[-1] for key in full]


def _rank(btf: Btf, id_: int) -> int:
    named = False
    for _ in range(len(btf)):
        type_ = btf.type(id_)
        named = named or bool(type_.name)
        kind = type_.kind
        if kind in ENUMS:
            return int(named)
        if kind in (Kind.INT, Kind.FLOAT):
            return 2
        if kind in COMPOSITE:
            return 3 if named else _LAST
        if kind == Kind.FUNC_PROTO:
            return 4 if named else _LAST
        if (kind not in _THROUGH and kind != Kind.ARRAY) or not named:
            return _LAST
        id_ = type_.ref
    return _LAST


def _sort_name(btf: Btf, id_: int) -> bytes:
    direct = True
    for _ in range(len(btf)):
        type_ = btf.type(id_)
        if type_.kind in ENUMS:
            first = type_.enumerators[0].name if direct and not type_.name and type_.enumerators else type_.name
            return first.encode()
        if type_.kind not in _THROUGH and type_.kind != Kind.ARRAY:
            return type_.name.encode()
        direct, id_ = False, type_.ref
    return b""


def _text_hash(text: str) -> int:
    value = 0
    for byte in text.encode():
        value = (value * 31 + byte) & _WORD
    return value


def _hash(btf: Btf, id_: int, *, members: bool, depth: int = 0) -> int:
    type_ = btf.type(id_)
    value = _text_hash(type_.name) if type_.name else 0
    if depth > 64:
        return value
    if type_.kind in ENUMS:
        for row in type_.enumerators:
            value = (value * 31 + _text_hash(row.name)) & _WORD if row.name else value
    elif type_.kind in COMPOSITE and members:
        for member in type_.members:
            value = (value * 31 + _text_hash(member.name)) & _WORD if member.name else value
            value = (value * 31 + _hash(btf, member.type_id, members=False, depth=depth + 1)) & _WORD
    elif type_.kind in _THROUGH:
        value = (value * 31 + _hash(btf, type_.ref, members=members, depth=depth + 1)) & _WORD
    elif type_.kind == Kind.ARRAY:
        value = (value * 31 + type_.info) & _WORD
        value = (value * 31 + _hash(btf, type_.ref, members=members, depth=depth + 1)) & _WORD
    return value
