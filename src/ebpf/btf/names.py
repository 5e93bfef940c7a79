"""Types and functions as C spells them."""

from ebpf.btf.parse import Btf
from ebpf.btf.types import Kind

_WORDS = {Kind.STRUCT: "struct ", Kind.UNION: "union ", Kind.ENUM: "enum ", Kind.ENUM64: "enum "}
_QUALIFIERS = {Kind.CONST: "const", Kind.VOLATILE: "volatile", Kind.RESTRICT: "restrict"}


# Types may lead to themselves: so deep, and a parameter list counts as several steps; within another it shows so many parameters.
_DEEPEST, _LIST, _MOST = 32, 12, 16


def type_name(btf: Btf, id_: int, depth: int = 0) -> str:
    """A type in the words of bpftool, pointers with their star apart: `struct xdp_md *`, `int (int)*` for a function's."""
    type_ = btf.type(id_)
    if depth > _DEEPEST:
        return "..."
    if type_.kind == Kind.VOID:
        return "void"
    if type_.kind in _QUALIFIERS:
        return f"{_QUALIFIERS[type_.kind]} {type_name(btf, type_.ref, depth + 1)}"
    if type_.kind == Kind.TYPE_TAG:
        return type_name(btf, type_.ref, depth + 1)
    if type_.kind == Kind.PTR:
        inner = type_name(btf, type_.ref, depth + 1)
        return inner + ("*" if inner.endswith(")") else " *")
    if type_.kind == Kind.ARRAY:
        return f"{type_name(btf, type_.ref, depth + 1)}[{type_.info}]"
    if type_.kind == Kind.FWD:
        return ("union " if type_.info else "struct ") + type_.name
    if type_.kind == Kind.FUNC_PROTO:
        return f"{type_name(btf, type_.ref, depth + 1)} ({_parameters(btf, id_, depth + 1)})"
    return _WORDS.get(type_.kind, "") + (type_.name or "{...}")


def _parameters(btf: Btf, proto_id: int, depth: int) -> str:
    members = btf.type(proto_id).members
    if depth and len(members) > _MOST:
        return "..."
    parts = []
    for member in members:
        name = type_name(btf, member.type_id, depth + _LIST) if member.type_id else "..."
        parts.append(f"{name} {member.name}" if member.name else name)
    return ", ".join(parts)


def prototype(btf: Btf, func_id: int) -> str:
    """A function's prototype as bpftool heads its dumps: `int hello(struct xdp_md * ctx)`."""
    func = btf.type(func_id)
    return f"{type_name(btf, btf.type(func.ref).ref)} {func.name}({_parameters(btf, func.ref, 0)})"
