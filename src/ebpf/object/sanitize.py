"""Types for kernels that do not know all of them: what a kernel refuses is asked for kind by kind, and written in older kinds.

Ids, sizes and offsets stay what they are, so that maps and records of functions go on to refer to the same types.
"""

import struct

from ebpf.btf import Btf, Editor, Kind
from ebpf.errors import KernelError, PrivilegeError
from ebpf.sys.calls import BtfLoad
from ebpf.sys.kernel import Kernel

_MAGIC, _HEADER = 0xEB9F, 24
_BOOL32, _SIGNED32 = 1 << 24 | 8, 1 << 24 | 32
_INT = (1, Kind.INT << 24, 4, _SIGNED32)
#: For each kind that has not always been: types that have one, as words; the string at 1 is "x".
_SAMPLES: dict[Kind, tuple[tuple[int, ...], ...]] = {
    Kind.FUNC_PROTO: (_INT, (0, Kind.FUNC_PROTO << 24 | 1, 0, 1, 1)),
    Kind.FUNC: (_INT, (0, Kind.FUNC_PROTO << 24 | 1, 0, 1, 1), (1, Kind.FUNC << 24, 2)),
    Kind.VAR: (_INT, (1, Kind.VAR << 24, 1, 0)),
    Kind.DATASEC: (_INT, (1, Kind.VAR << 24, 1, 0), (1, Kind.DATASEC << 24 | 1, 4, 2, 0, 4)),
    Kind.FLOAT: ((1, Kind.FLOAT << 24, 4),),
    Kind.DECL_TAG: (_INT, (1, Kind.VAR << 24, 1, 0), (1, Kind.DECL_TAG << 24, 2, 0xFFFFFFFF)),
    Kind.TYPE_TAG: (_INT, (1, Kind.TYPE_TAG << 24, 1), (0, Kind.PTR << 24, 2)),
    Kind.ENUM64: ((1, Kind.ENUM64 << 24 | 1, 8, 1, 0, 0),),
}
#: A global function, which is younger than functions.
_GLOBAL = (_INT, (0, Kind.FUNC_PROTO << 24 | 1, 0, 1, 1), (1, Kind.FUNC << 24 | 1, 2))


def _accepts(kernel: Kernel, types: tuple[tuple[int, ...], ...]) -> bool:
    words = [word for each in types for word in each]
    strings = b"\0x\0"
    head = struct.pack("<HBBIIIII", _MAGIC, 1, 0, _HEADER, 0, 4 * len(words), 4 * len(words), len(strings))
    try:
        kernel.close(kernel.bpf(BtfLoad(head + struct.pack(f"<{len(words)}I", *words) + strings)))
    except KernelError:
        return False
    return True


def sanitized(kernel: Kernel, btf: Btf) -> tuple[int, bool] | None:
    """A descriptor of the types as this kernel takes them, and whether it knows functions; None where it takes none, or not these."""
    lacks = {kind for kind, types in _SAMPLES.items() if not _accepts(kernel, types)}
    static = Kind.FUNC in lacks or not _accepts(kernel, _GLOBAL)
    if Kind.FUNC_PROTO in lacks and Kind.DATASEC in lacks and not _accepts(kernel, (_INT,)):
        return None
    try:
        return kernel.bpf(BtfLoad(older(btf, lacks, static=static).raw)), Kind.FUNC not in lacks
    except PrivilegeError:
        raise
    except KernelError:
        return None


def older(btf: Btf, lacks: "set[Kind]", *, static: bool) -> Btf:
    """The types without kinds that a kernel lacks (`static`: without global functions)."""
    editor = Editor(btf)
    for type_ in btf:
        if type_.kind in lacks:
            _REWRITE[type_.kind](editor, btf, type_.id)
        elif type_.kind == Kind.FUNC and static:
            editor.set(type_.id, 1, Kind.FUNC << 24)
    return editor.build()


def _to_int(editor: Editor, btf: Btf, id_: int) -> None:
    # One byte large: variables and tags on declarations have one word more, as integers have.
    editor.set(id_, 1, Kind.INT << 24)
    editor.set(id_, 2, 1)
    editor.set(id_, 3, _BOOL32)


def _to_struct(editor: Editor, btf: Btf, id_: int) -> None:
    # (type, offset, size) in bytes becomes (name, type, offset in bits).
    type_ = btf.type(id_)
    editor.set(id_, 0, editor.string(type_.name.replace(".", "_").replace("?", "_")))
    editor.set(id_, 1, Kind.STRUCT << 24 | len(type_.variables))
    for number, row in enumerate(type_.variables):
        name, held = btf.name(row.type_id), btf.type(row.type_id)
        # A variable that is an int of one byte by now does not say any more what it holds.
        editor.set(id_, 3 + 3 * number, editor.string(name) if name else 0)
        editor.set(id_, 4 + 3 * number, held.ref if held.kind == Kind.VAR else row.type_id)
        editor.set(id_, 5 + 3 * number, row.offset * 8)


def _to_enum(editor: Editor, btf: Btf, id_: int) -> None:
    # A parameter (name, type) becomes an enumerator (name, value).
    editor.set(id_, 1, Kind.ENUM << 24 | len(btf.type(id_).members))
    editor.set(id_, 2, 4)


def _to_typedef(editor: Editor, btf: Btf, id_: int) -> None:
    editor.set(id_, 1, Kind.TYPEDEF << 24)


def _to_empty_struct(editor: Editor, btf: Btf, id_: int) -> None:
    editor.set(id_, 0, 0)
    editor.set(id_, 1, Kind.STRUCT << 24)


def _to_const(editor: Editor, btf: Btf, id_: int) -> None:
    editor.set(id_, 0, 0)
    editor.set(id_, 1, Kind.CONST << 24)


def _to_union(editor: Editor, btf: Btf, id_: int) -> None:
    # An enumerator (name, low, high) becomes a member (name, type, offset), of an int of eight bytes.
    type_ = btf.type(id_)
    number = next((t.id for t in btf if t.kind == Kind.INT and t.size == type_.size), 0) or editor.add(
        Kind.INT, "", type_.size, 8 * type_.size
    )
    editor.set(id_, 1, Kind.UNION << 24 | len(type_.enumerators))
    for place in range(len(type_.enumerators)):
        editor.set(id_, 4 + 3 * place, number)
        editor.set(id_, 5 + 3 * place, 0)


_REWRITE = {
    Kind.VAR: _to_int,
    Kind.DECL_TAG: _to_int,
    Kind.DATASEC: _to_struct,
    Kind.FUNC_PROTO: _to_enum,
    Kind.FUNC: _to_typedef,
    Kind.FLOAT: _to_empty_struct,
    Kind.TYPE_TAG: _to_const,
    Kind.ENUM64: _to_union,
}
