"""Programs on a cgroup: what its processes send, receive, bind, connect, open and set."""

import errno

from ebpf.attach.link import Attachable, Link, create, refused
from ebpf.attach.places import opened
from ebpf.errors import KernelError, PrivilegeError, UsageError
from ebpf.object import Program
from ebpf.sys.calls import LinkCreate, ProgAttach, ProgDetach
from ebpf.uapi import AttachType

_FLAGS = {"": 0, "override": 1, "multi": 2}
_WHY = {
    errno.EBADF: ("is no cgroup of version 2", "give a folder below the cgroup2 mount (/sys/fs/cgroup, /sys/fs/cgroup/unified)"),
    errno.EINVAL: ("the program is of another type than this", "its section says what it may be attached as"),
    errno.EPERM: ("a program of a cgroup above forbids it, or the one here allows no others", "detach that one, or attach it with multi"),
}


def cgroup(program: Attachable, path: str, kind: AttachType | None = None, *, flags: str | None = None) -> Link:
    """Run a program for the processes of a cgroup (version 2) and of those below it.

    `kind` is what it is to see, where its section does not say. By a link, beside other programs; with `flags` ("", "override" or
    "multi") the old way, without a link. Raises NotFoundError, AttachError.
    """
    if kind is None:
        attach_type = program.spec.attach_type if isinstance(program, Program) else None
        if attach_type is None:
            raise UsageError(f"program {program.name!r}: its section does not say what of a cgroup it sees: give kind (AttachType)")
        kind = AttachType(attach_type)
    name, kernel = kind.name.lower(), program.kernel
    with opened(path, "cgroup") as fd:
        if flags is None:
            return create(kernel, LinkCreate(program.fd, fd, int(kind)), name, path, _WHY)
        if flags not in _FLAGS:
            raise UsageError(f"a program is attached to a cgroup as override or multi, not {flags!r}")
        try:
            kernel.bpf(ProgAttach(fd, program.fd, int(kind), _FLAGS[flags]))
        except PrivilegeError:
            raise
        except KernelError as error:
            raise refused(error, name, path, _WHY) from error

    def undo() -> None:
        with opened(path, "cgroup") as fd:
            kernel.bpf(ProgDetach(fd, program.fd, int(kind)))

    return Link(name, path, undo)
