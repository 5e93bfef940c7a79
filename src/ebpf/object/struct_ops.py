"""Structs of functions that the kernel calls (struct_ops): from the object's own layout to this kernel's, member by member."""

import errno
from collections.abc import Callable
from typing import Any

from ebpf.btf import Btf, Kind, essential
from ebpf.errors import FormatError, NotFoundError
from ebpf.object.resolve import Resolver
from ebpf.records import changed, record
from ebpf.spec import MapSpec

_VALUE = "bpf_struct_ops_"


@record
class StructOps:
    """A struct as this kernel has it: `map` to make of it, its functions by their place in the value, and what each is loaded as.

    `members` has, by program, the number of the member that it is; `type_id` is the kernel's type of the struct.
    """

    map: MapSpec
    value_type_id: int
    module_fd: int
    type_id: int
    functions: tuple[tuple[int, str], ...]
    members: dict[str, int]

    def value(self, descriptor: Callable[[str], int]) -> bytes:
        """The value with the programs' descriptors in it."""
        out = bytearray(self.map.initial or b"")
        for at, name in self.functions:
            out[at : at + 8] = descriptor(name).to_bytes(8, "little")
        return bytes(out)


def struct_ops(name: str, spec: MapSpec, btf: Btf, resolver: Resolver) -> StructOps:
    """Lay out a struct as this kernel has it. Raises NotFoundError and FormatError for what the kernel does not have."""
    local = btf.resolve(spec.value_type_id)
    plain = essential(local.name)
    where = f"struct_ops {name!r}"
    found, value_type = resolver.find(plain, Kind.STRUCT), resolver.find(_VALUE + plain, Kind.STRUCT)
    if found is None or value_type is None:
        raise NotFoundError("struct of functions", plain, where="this kernel's types", errno=errno.ESRCH)
    kernel = value_type.module.btf if value_type.module is not None else resolver.types
    base = next((m.bits // 8 for m in kernel.type(value_type.id).members if kernel.resolve(m.type_id).id == found.id), None)
    if base is None:
        raise FormatError(f"struct {_VALUE}{plain} of this kernel is built in another way", path=resolver.spec.path, where=where)
    out = bytearray(kernel.size_of(value_type.id))
    data, slots = spec.initial or b"", dict(spec.slots)
    theirs = {member.name: (number, member) for number, member in enumerate(kernel.type(found.id).members)}
    functions: list[tuple[int, str]] = []
    members: dict[str, int] = {}
    for member in local.members:
        at, size = member.bits // 8, btf.size_of(member.type_id)
        piece = data[at : at + size]
        if member.name not in theirs:
            if any(piece) or at in slots:
                raise FormatError(f"this kernel's {plain} has no {member.name!r}", path=resolver.spec.path, where=where)
            continue
        number, there = theirs[member.name]
        to = base + there.bits // 8
        if at in slots:
            functions.append((to, slots[at]))
            members[slots[at]] = number
        elif any(piece):
            if kernel.size_of(there.type_id) != size or member.bitfield != there.bitfield:
                raise FormatError(f"{member.name!r} has another size in this kernel", path=resolver.spec.path, where=where)
            out[to : to + size] = piece
    laid_out: dict[str, Any] = {"value_size": len(out), "initial": bytes(out)}
    module = value_type.module.fd if value_type.module is not None else 0
    return StructOps(changed(spec, **laid_out), value_type.id, module, found.id, tuple(functions), members)
