"""Programs on packets in traffic control's places: tcx, netkit, and the filters of clsact."""

import errno

from ebpf.attach.link import Attachable, Link, create, refused
from ebpf.attach.places import interface_index
from ebpf.errors import KernelError, PrivilegeError, UsageError
from ebpf.sys.calls import Anchor, LinkCreate
from ebpf.uapi import AttachType

_SIDES = {"ingress": AttachType.TCX_INGRESS, "egress": AttachType.TCX_EGRESS}
_NETKIT = {"primary": AttachType.NETKIT_PRIMARY, "peer": AttachType.NETKIT_PEER}
_BEFORE, _AFTER = 1 << 3, 1 << 4
_WHY_TCX = {
    errno.EINVAL: ("this kernel has no tcx (Linux 6.6), or the program is not SEC(tc)", "use a filter of clsact (attach.tc)"),
    errno.ERANGE: ("too many programs are there", "detach one"),
}
_WHY_NETKIT = {
    errno.EINVAL: (
        "this kernel has no netkit devices (Linux 6.7, CONFIG_NETKIT), or the program is not SEC(netkit/...)",
        "use tcx on a veth",
    ),
    errno.EACCES: ("the interface is not the primary one of its pair", "attach to the other end"),
    errno.ENXIO: ("the interface is no netkit device", "make one: ip link add nk0 type netkit"),
}
_WHY_FILTER = {
    errno.EEXIST: ("there is a filter with this priority and handle already", "choose another priority or handle"),
    errno.EINVAL: ("the program is not SEC(tc)", ""),
    errno.EOPNOTSUPP: ("this kernel has no clsact (CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_BPF)", "use tcx"),
    errno.ENOENT: ("this kernel has no clsact (CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_BPF)", "use tcx"),
}


def _side(side: str) -> AttachType:
    if side not in _SIDES:
        raise UsageError(f"packets are seen on ingress or egress, not {side!r}")
    return _SIDES[side]


def tcx(program: Attachable, interface: str, side: str = "ingress", *, before: int = 0, after: int = 0) -> Link:
    """Run a program on the packets of an interface, on the side "ingress" or "egress", by a link.

    `before` and `after` are the descriptor of a program that is there; without it goes to the end. Raises AttachError.
    """
    kind, index = _side(side), interface_index(program.kernel, interface)
    flags = _BEFORE if before else _AFTER if after else 0
    call = LinkCreate(program.fd, index, int(kind), flags, options=Anchor(before or after))
    return create(program.kernel, call, "tcx", f"{interface} {side}", _WHY_TCX)


def netkit(program: Attachable, interface: str, end: str = "primary") -> Link:
    """Run a program on the packets of a netkit device, of its "primary" or its "peer" end. Raises AttachError."""
    if end not in _NETKIT:
        raise UsageError(f"a netkit device has the ends primary and peer, not {end!r}")
    index = interface_index(program.kernel, interface)
    return create(program.kernel, LinkCreate(program.fd, index, int(_NETKIT[end])), "netkit", f"{interface} {end}", _WHY_NETKIT)


def tc(program: Attachable, interface: str, side: str = "ingress", *, priority: int = 1, handle: int = 1) -> Link:
    """Run a program on the packets of an interface by a filter of its clsact, which is made at need and removed when it is empty.

    Works on kernels without tcx. Raises AttachError: EEXIST for a priority and handle that are taken.
    """
    _side(side)
    kernel, index = program.kernel, interface_index(program.kernel, interface)
    target = f"{interface} {side}"
    try:
        made = kernel.tc_attach(index, side, program.fd, priority=priority, handle=handle, name=program.name)
    except PrivilegeError:
        raise
    except KernelError as error:
        raise refused(error, "tc", target, _WHY_FILTER) from error
    return Link("tc", target, lambda: kernel.tc_detach(index, side, priority=priority, handle=handle, clsact=made))
