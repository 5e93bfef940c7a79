"""Programs on netfilter's hooks."""

import errno

from ebpf.attach.link import Attachable, Link, create
from ebpf.errors import UsageError
from ebpf.sys.calls import LinkCreate, NetfilterHook
from ebpf.uapi import AttachType

HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}
# AF_INET and AF_INET6, as Linux numbers them on every machine.
FAMILIES = {"ip": 2, "ip6": 10}
_DEFRAGMENT = 1
_WHY = {
    errno.EBUSY: ("another program has this hook with this priority", "choose another priority"),
    errno.EINVAL: ("this kernel has no netfilter links (Linux 6.4), or the program is not SEC(netfilter)", "use tc"),
    errno.EPERM: ("priorities -2147483648 and 2147483647 are the kernel's own", "choose another priority"),
    errno.EAFNOSUPPORT: ("this kernel's netfilter has no such family", "use family ip"),
}


def netfilter(program: Attachable, hook: str, *, family: str = "ip", priority: int = 0, defragment: bool = False) -> Link:
    """Run a program at a hook of netfilter (prerouting, input, forward, output, postrouting) of this network namespace.

    Small priorities run first; `defragment` puts fragments together before. Raises AttachError.
    """
    if hook not in HOOKS or family not in FAMILIES:
        raise UsageError(f"netfilter has the hooks {', '.join(HOOKS)} of ip and ip6, not {hook!r} of {family!r}")
    options = NetfilterHook(FAMILIES[family], HOOKS[hook], priority, _DEFRAGMENT if defragment else 0)
    call = LinkCreate(program.fd, 0, int(AttachType.NETFILTER), options=options)
    return create(program.kernel, call, "netfilter", f"{family} {hook} priority {priority}", _WHY)
