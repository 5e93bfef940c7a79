"""ctypes for BTF types: what BCC's tables give and take."""

import ctypes
from typing import Any

from ebpf.btf import Btf, Kind, Type
from ebpf.errors import NotSupportedError

_UNSIGNED = {1: ctypes.c_ubyte, 2: ctypes.c_ushort, 4: ctypes.c_uint, 8: ctypes.c_ulonglong}
_SIGNED = {1: ctypes.c_byte, 2: ctypes.c_short, 4: ctypes.c_int, 8: ctypes.c_longlong}


def ctypes_of(btf: Btf, type_id: int, cache: dict[int, Any] | None = None) -> Any:
    """The ctypes type of a BTF type: structs get the members' names, char arrays read as bytes."""
    cache = {} if cache is None else cache
    if type_id in cache:
        return cache[type_id]
    type_ = btf.resolve(type_id)
    made = _make(btf, type_, cache)
    cache[type_id] = made
    return made


def _make(btf: Btf, type_: Type, cache: dict[int, Any]) -> Any:
    if type_.kind == Kind.INT:
        if type_.is_bool:
            return ctypes.c_bool
        if type_.size == 16:
            return ctypes.c_ubyte * 16
        # A lone char is a number of its own in BCC; arrays of them are text.
        return ctypes.c_char if type_.name == "char" and type_.size == 1 else (_SIGNED if type_.signed else _UNSIGNED)[type_.size]
    if type_.kind in (Kind.ENUM, Kind.ENUM64):
        return (_SIGNED if type_.signed else _UNSIGNED)[type_.size]
    if type_.kind == Kind.PTR:
        return ctypes.c_ulonglong
    if type_.kind == Kind.ARRAY:
        return ctypes_of(btf, type_.ref, cache) * type_.info
    if type_.kind in (Kind.STRUCT, Kind.UNION):
        return _struct(btf, type_, cache)
    raise NotSupportedError(f"type {type_.name or type_.kind.name.lower()}", "has no equivalent in ctypes")


def _struct(btf: Btf, type_: Type, cache: dict[int, Any]) -> Any:
    """A packed struct with every gap spelled out, so that its layout is the C compiler's."""
    base = ctypes.Structure if type_.kind == Kind.STRUCT else ctypes.Union
    fields: list[tuple[Any, ...]] = []
    anonymous: list[str] = []
    at = 0
    for place, member in enumerate(type_.members):
        if member.bitfield:
            raise NotSupportedError(f"struct {type_.name}", f"bit field {member.name!r} is not read yet")
        inner = ctypes_of(btf, member.type_id, cache)
        name = member.name or f"_anonymous_{place}"
        if not member.name:
            anonymous.append(name)
        offset = member.bits // 8
        if base is ctypes.Structure and offset > at:
            fields.append((f"__pad_{place}", ctypes.c_char * (offset - at)))
        fields.append((name, inner))
        at = offset + ctypes.sizeof(inner)
    if base is ctypes.Structure and at < type_.size:
        fields.append(("__pad_end", ctypes.c_char * (type_.size - at)))
    body: dict[str, Any] = {"_pack_": 1, "_layout_": "ms"} if base is ctypes.Structure else {}
    if anonymous:
        body["_anonymous_"] = anonymous
    body["_fields_"] = fields
    return type(type_.name or "struct", (base,), body)
