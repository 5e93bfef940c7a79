"""What types must be to each other: found out for those that were not made together, as a module's and a kernel's."""

from ebpf.btf.parse import Btf
from ebpf.btf.types import Kind
from ebpf.errors import FormatError


def check(btf: Btf) -> None:
    """Insist that every type that is a function's is a prototype, and that every reference means something.

    Raises FormatError, in libbpf's words.
    """
    for id_ in btf.own:
        type_ = btf.type(id_)
        rows = [row.type_id for row in type_.members] + [row.type_id for row in type_.variables]
        missing = next((row for row in [*rows, type_.indexed_by] if row >= len(btf)), None)
        if missing is not None:
            raise _bad(btf, id_, f"invalid referenced type ID {missing}")
        if type_.kind == Kind.FUNC and btf.kind(type_.ref) != Kind.FUNC_PROTO:
            raise _bad(btf, id_, f"referenced type [{type_.ref}] is not FUNC_PROTO")


def _bad(btf: Btf, id_: int, why: str) -> FormatError:
    return FormatError(why, path=btf.path, where=f"type [{id_}]")
