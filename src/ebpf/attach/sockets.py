"""Programs on sockets: filters, choosers of a port's group, maps of sockets, look-ups and dissectors of a network namespace."""

import errno

from ebpf.attach.link import Attachable, Link, create, refused
from ebpf.attach.places import opened
from ebpf.errors import KernelError, PrivilegeError, UsageError
from ebpf.object import Map, Program
from ebpf.sys.calls import LinkCreate, ProgAttach, ProgDetach
from ebpf.uapi import AttachType

_OWN = "/proc/self/ns/net"
_WHY_NETNS = {
    errno.EEXIST: ("there is a program already (one in the initial namespace is for all)", "detach that one first"),
    errno.E2BIG: ("there is a program already, or too many", "detach one first"),
    errno.EINVAL: ("this kernel has no such link (Linux 5.8), or the program is of another type", ""),
}
_WHY_MAP = {
    errno.EBUSY: ("the map has such a program already", "detach that one first"),
    errno.EOPNOTSUPP: ("the map holds no sockets", "attach to a sockmap or sockhash"),
    errno.EINVAL: ("the program is of another type than this, or the map holds no sockets", ""),
}


def socket_filter(program: Attachable, sock_fd: int) -> Link:
    """Make a program the filter of a socket of this process (`sock.fileno()`): what it answers is how many bytes are kept.

    Raises KernelError EINVAL for a program of another type.
    """
    kernel = program.kernel
    kernel.socket_attach(sock_fd, program.fd)
    return Link("socket", f"descriptor {sock_fd}", lambda: kernel.socket_attach(sock_fd, -1))


def reuseport(program: Attachable, sock_fd: int) -> Link:
    """Let a program choose which socket of those that share a port (SO_REUSEPORT) gets what comes; the socket must be bound.

    Raises KernelError EINVAL for a socket that shares its port with none.
    """
    kernel = program.kernel
    kernel.socket_attach(sock_fd, program.fd, reuseport=True)
    return Link("sk_reuseport", f"descriptor {sock_fd}", lambda: kernel.socket_attach(sock_fd, -1, reuseport=True))


def sk_lookup(program: Attachable, namespace: str = _OWN) -> Link:
    """Let a program choose the socket that gets a new connection or datagram in a network namespace (a path; this process's own)."""
    return _namespace(program, AttachType.SK_LOOKUP, "sk_lookup", namespace)


def flow_dissector(program: Attachable, namespace: str = _OWN) -> Link:
    """Let a program take packets apart for a network namespace (a path; this process's own)."""
    return _namespace(program, AttachType.FLOW_DISSECTOR, "flow_dissector", namespace)


def _namespace(program: Attachable, kind: AttachType, name: str, path: str) -> Link:
    with opened(path, "network namespace") as fd:
        return create(program.kernel, LinkCreate(program.fd, fd, int(kind)), name, path, _WHY_NETNS)


def sockmap(program: Attachable, sockets: Map, kind: AttachType | None = None, *, link: bool = False) -> Link:
    """Run an sk_msg or sk_skb program for the sockets that are put into a map from now on. Attach before sockets are put in.

    With `link` a link of the kernel's holds it (Linux 6.10). Raises AttachError.
    """
    if kind is None:
        attach_type = program.spec.attach_type if isinstance(program, Program) else None
        if attach_type is None:
            raise UsageError(f"program {program.name!r}: its section does not say what of the sockets it sees: give kind (AttachType)")
        kind = AttachType(attach_type)
    kernel, name = program.kernel, kind.name.lower()
    if link:
        return create(kernel, LinkCreate(program.fd, sockets.fd, int(kind)), name, f"map {sockets.name}", _WHY_MAP)
    try:
        kernel.bpf(ProgAttach(sockets.fd, program.fd, int(kind)))
    except PrivilegeError:
        raise
    except KernelError as error:
        raise refused(error, name, f"map {sockets.name}", _WHY_MAP) from error
    return Link(name, f"map {sockets.name}", lambda: kernel.bpf(ProgDetach(sockets.fd, program.fd, int(kind))))
