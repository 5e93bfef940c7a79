"""Programs on the packets of a network interface."""

from difflib import get_close_matches

from ebpf.attach.link import Link
from ebpf.errors import NotFoundError
from ebpf.object import Program
from ebpf.uapi import XdpFlag

MODES = {"": XdpFlag(0), "generic": XdpFlag.SKB_MODE, "driver": XdpFlag.DRV_MODE, "offload": XdpFlag.HW_MODE}


def xdp(program: Program, interface: str, *, mode: str = "", replace: bool = False) -> Link:
    """Run an XDP program on every packet that an interface receives.

    `mode` is "" (the best there is), "generic", "driver" or "offload". Raises NotFoundError for an unknown interface,
    KernelError EBUSY when it has a program already and not `replace`.
    """
    kernel = program.kernel
    known = kernel.interfaces()
    if interface not in known:
        raise NotFoundError("interface", interface, near=get_close_matches(interface, known, n=2) or sorted(known)[:4])
    flags = MODES[mode] | (XdpFlag(0) if replace else XdpFlag.UPDATE_IF_NOEXIST)
    index = known[interface]
    kernel.xdp_attach(index, program.fd, int(flags))
    return Link("xdp", interface, lambda: kernel.xdp_attach(index, -1, int(MODES[mode])))
