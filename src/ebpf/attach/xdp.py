"""XDP programs on the packets of a network interface: by netlink, or by a link."""

import errno

from ebpf.attach.link import Attachable, Link, create, refused
from ebpf.attach.places import interface_index
from ebpf.errors import KernelError, PrivilegeError, UsageError
from ebpf.sys.calls import LinkCreate
from ebpf.uapi import AttachType, XdpFlag

MODES = {"": XdpFlag(0), "generic": XdpFlag.SKB_MODE, "driver": XdpFlag.DRV_MODE, "native": XdpFlag.DRV_MODE, "offload": XdpFlag.HW_MODE}
_WHY = {
    errno.EBUSY: ("the interface has an XDP program already", "detach that one first (ebpf net detach xdp dev IF), or replace it"),
    errno.EEXIST: ("the interface has an XDP program already", "detach that one first (ebpf net detach xdp dev IF), or replace it"),
    errno.EOPNOTSUPP: ("the interface's driver cannot do that", "use mode generic"),
    errno.ERANGE: ("the interface's MTU is too large for XDP in its driver", "use mode generic, a smaller MTU, or SEC(xdp.frags)"),
}


def xdp(program: Attachable, interface: str, *, mode: str = "", replace: bool = False, link: bool = False) -> Link:
    """Run an XDP program on every packet that an interface receives.

    `mode` is "" (the best there is), "generic", "driver" (or "native") or "offload". With `link` a link of the kernel's holds it,
    which can be pinned and updated. Raises NotFoundError for an unknown interface, AttachError: EBUSY when it has a program
    already and not `replace`, EOPNOTSUPP for a driver that cannot.
    """
    kernel = program.kernel
    index = interface_index(kernel, interface)
    if mode not in MODES:
        raise UsageError(f"XDP has no mode {mode!r}; it has generic, driver and offload")
    target = f"{interface} ({mode})" if mode else interface
    if link:
        return create(kernel, LinkCreate(program.fd, index, int(AttachType.XDP), int(MODES[mode])), "xdp", target, _WHY)
    flags = MODES[mode] | (XdpFlag(0) if replace else XdpFlag.UPDATE_IF_NOEXIST)
    try:
        kernel.xdp_attach(index, program.fd, int(flags))
    except PrivilegeError:
        raise
    except KernelError as error:
        raise refused(error, "xdp", target, _WHY) from error
    return Link("xdp", interface, lambda: kernel.xdp_attach(index, -1, int(MODES[mode])))
