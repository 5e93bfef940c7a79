"""Types as rows of their fields, under the names that bpftool gives them; and as its text."""

from collections.abc import Mapping

from ebpf.btf.parse import Btf
from ebpf.btf.types import Kind, Member, Type

Field = int | str | list[dict[str, int | str]]
_NAMELESS = "(anon)"
_ENCODINGS = {0: "(none)", 1: "SIGNED", 2: "CHAR", 4: "BOOL"}
_LINKAGE = {0: "static", 1: "global", 2: "extern"}
_UNKNOWN = "(unknown)"


def fields(btf: Btf, type_: Type) -> dict[str, Field]:
    """What BTF says of a type, in order."""
    row: dict[str, Field] = {"id": type_.id, "kind": type_.kind.name, "name": type_.name or _NAMELESS}
    match type_.kind:
        case Kind.INT:
            encoding = _ENCODINGS.get(type_.info >> 24 & 0xF, "UNKN")
            return row | {"size": type_.size, "bits_offset": type_.info >> 16 & 0xFF, "nr_bits": type_.bits, "encoding": encoding}
        case Kind.ARRAY:
            return row | {"type_id": type_.ref, "index_type_id": type_.indexed_by, "nr_elems": type_.info}
        case Kind.STRUCT | Kind.UNION:
            return row | {"size": type_.size, "vlen": len(type_.members), "members": [_member(m) for m in type_.members]}
        case Kind.ENUM | Kind.ENUM64:
            values: list[dict[str, int | str]] = [{"name": e.name or _NAMELESS, "val": e.value} for e in type_.enumerators]
            sign = "SIGNED" if type_.info else "UNSIGNED"
            return row | {"encoding": sign, "size": type_.size, "vlen": len(values), "values": values}
        case Kind.FWD:
            return row | {"fwd_kind": "union" if type_.info else "struct"}
        case Kind.FUNC | Kind.VAR:
            return row | {"type_id": type_.ref, "linkage": _LINKAGE.get(type_.info, _UNKNOWN)}
        case Kind.FUNC_PROTO:
            params: list[dict[str, int | str]] = [{"name": p.name or _NAMELESS, "type_id": p.type_id} for p in type_.members]
            return row | {"ret_type_id": type_.ref, "vlen": len(params), "params": params}
        case Kind.DATASEC:
            parts: list[dict[str, int | str]] = [{"type_id": v.type_id, "offset": v.offset, "size": v.size} for v in type_.variables]
            return row | {"size": type_.size, "vlen": len(parts), "vars": parts}
        case Kind.DECL_TAG:
            component = type_.info - (1 << 32) if type_.info >> 31 else type_.info
            return row | {"type_id": type_.ref, "component_idx": component}
        case Kind.FLOAT:
            return row | {"size": type_.size}
        case _:
            return row | {"type_id": type_.ref}


def _member(member: Member) -> dict[str, int | str]:
    row: dict[str, int | str] = {"name": member.name or _NAMELESS, "type_id": member.type_id, "bits_offset": member.bits}
    return row | ({"bitfield_size": member.bitfield} if member.bitfield else {})


def text(btf: Btf, type_: Type) -> str:
    """A type's fields as a line, and one for each of its parts."""
    row = fields(btf, type_)
    head = f"[{row.pop('id')}] {row.pop('kind')} '{row.pop('name')}'"
    lines = [head + "".join(f" {key}={value}" for key, value in row.items() if not isinstance(value, list))]
    if type_.kind == Kind.VAR:
        lines[0] = lines[0].replace(" linkage=", ", linkage=")
    for key, parts in row.items():
        if isinstance(parts, list):
            lines += ["\t" + _part(btf, type_, key, part) for part in parts]
    return "\n".join(lines)


def _part(btf: Btf, type_: Type, key: str, part: Mapping[str, int | str]) -> str:
    if key == "vars":
        var = btf.type(int(part["type_id"]))
        return f"type_id={part['type_id']} offset={part['offset']} size={part['size']} ({var.kind.name} '{var.name or _NAMELESS}')"
    name, *rest = part.items()
    suffix = ("LL" if type_.info else "ULL") if type_.kind == Kind.ENUM64 else ""
    return f"'{name[1]}'" + "".join(f" {field}={value}" for field, value in rest) + suffix
