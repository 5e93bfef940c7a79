"""Fields of a map's value that belong to the kernel: locks, timers, lists, and pointers to kernel objects.

Sources: Documentation/bpf (map_hash, kptrs, linked lists), libbpf's names of the types and type tags.
"""

from typing import Final

from ebpf.btf.parse import Btf
from ebpf.btf.types import COMPOSITE, Kind

_STRUCTS: Final = frozenset(
    {
        "bpf_spin_lock",
        "bpf_res_spin_lock",
        "bpf_timer",
        "bpf_wq",
        "bpf_task_work",
        "bpf_list_head",
        "bpf_list_node",
        "bpf_rb_root",
        "bpf_rb_node",
        "bpf_refcount",
    }
)
_TAGS: Final = frozenset({"kptr", "kptr_untrusted", "percpu_kptr", "uptr"})
_DEPTH: Final = 8
_ELEMENTS: Final = 64


def kernel_fields(btf: Btf, type_id: int) -> tuple[tuple[int, str, int], ...]:
    """The fields of a type that only helpers may touch: (offset, the struct's name or `kptr`, bytes), by offset.

    Raises FormatError where the types are damaged.
    """
    out: list[tuple[int, str, int]] = []
    _walk(btf, type_id, 0, out, _DEPTH)
    return tuple(sorted(out))


def _walk(btf: Btf, type_id: int, at: int, out: list[tuple[int, str, int]], depth: int) -> None:
    row = btf.resolve(type_id)
    if depth == 0:
        return
    if row.kind == Kind.STRUCT and row.name in _STRUCTS:
        out.append((at, row.name, row.size))
    elif row.kind in COMPOSITE:
        for member in row.members:
            if not member.bitfield:
                _walk(btf, member.type_id, at + member.bits // 8, out, depth - 1)
    elif row.kind == Kind.ARRAY:
        size = btf.size_of(row.ref)
        for index in range(min(row.info, _ELEMENTS)):
            before = len(out)
            _walk(btf, row.ref, at + index * size, out, depth - 1)
            if len(out) == before:
                break
    elif row.kind == Kind.DATASEC:
        for variable in row.variables:
            _walk(btf, variable.type_id, at + variable.offset, out, depth - 1)
    elif row.kind == Kind.VAR:
        _walk(btf, row.ref, at, out, depth)
    elif row.kind == Kind.PTR:
        target = btf.type(row.ref)
        if target.kind == Kind.TYPE_TAG and target.name in _TAGS:
            out.append((at, "kptr", 8))
