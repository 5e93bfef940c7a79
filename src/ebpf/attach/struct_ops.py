"""Structs of functions that the kernel calls: TCP congestion control, schedulers and the like."""

import errno

from ebpf.attach.link import Link, create, refused
from ebpf.errors import KernelError, PrivilegeError
from ebpf.object import Collection
from ebpf.sys.calls import LinkCreate, MapDelete, MapUpdate
from ebpf.uapi import AttachType, MapFlag

_ZERO = bytes(4)
_WHY = {
    errno.EEXIST: ("one of this name is registered already", "give it another name"),
    errno.EINVAL: ("the kernel does not take this struct: a function that must be there is missing, or a value is wrong", ""),
    errno.EBUSY: ("it is registered already", ""),
}


def struct_ops(collection: Collection, name: str) -> Link:
    """Register the struct of functions that C defines as `name` in SEC(".struct_ops") or (by a link) SEC(".struct_ops.link").

    Raises NotFoundError, VerifierError, AttachError.
    """
    value, held, kernel = collection.struct_ops_value(name), collection.maps[name], collection.kernel
    try:
        kernel.bpf(MapUpdate(held.fd, _ZERO, value))
    except PrivilegeError:
        raise
    except KernelError as error:
        raise refused(error, "struct_ops", name, _WHY) from error
    if held.spec.flags & MapFlag.LINK:
        return create(kernel, LinkCreate(held.fd, 0, int(AttachType.STRUCT_OPS)), "struct_ops", name, _WHY)
    return Link("struct_ops", name, lambda: kernel.bpf(MapDelete(held.fd, _ZERO)))
