"""Iterators: programs that walk the kernel's tasks, maps, sockets and so on, and write what is read."""

import errno
from collections.abc import Iterator

from ebpf.attach.link import Attachable, Link, create
from ebpf.attach.places import opened
from ebpf.errors import UsageError
from ebpf.object import Map
from ebpf.sys.calls import IterCreate, IterTarget, LinkCreate
from ebpf.sys.kernel import Kernel
from ebpf.uapi import AttachType

_ORDERS = {"self": 1, "descendants_pre": 2, "descendants_post": 3, "ancestors_up": 4}
_CHUNK = 1 << 16
_WHY = {
    errno.EBADF: ("walks the elements of a map: say which", ""),
    errno.EINVAL: ("the program is no iterator, or cannot walk what was given", 'its section is SEC("iter/...")'),
    errno.EACCES: ("the program reads or writes more than the map's elements have", ""),
    errno.ESRCH: ("there is no such task", ""),
}


class IterLink(Link):
    """An attached iterator; `read()` runs it once from the beginning to the end."""

    def __init__(self, link: Link, kernel: Kernel) -> None:
        super().__init__(link.kind, link.target, link.close, kernel=kernel, fds=link.fds)
        self._seam = kernel

    def chunks(self) -> Iterator[bytes]:
        """What one run writes, piece by piece."""
        fd = self._seam.bpf(IterCreate(self.fd))
        try:
            while data := self._seam.read(fd, _CHUNK):
                yield data
        finally:
            self._seam.close(fd)

    def read(self) -> bytes:
        """All that one run writes."""
        return b"".join(self.chunks())


def iterate(program: Attachable, *, walked: Map | None = None, pid: int = 0, tid: int = 0, cgroup: str = "", order: str = "") -> IterLink:
    """Attach an iterator: over all there is, or the elements of the map `walked`, one process, one thread, or a cgroup's tree.

    `order` of a cgroup's tree is self, descendants_pre (as it is without), descendants_post or ancestors_up. Raises AttachError.
    """
    if order and (order not in _ORDERS or not cgroup):
        raise UsageError(f"a cgroup's tree is walked by {', '.join(_ORDERS)}, not {order!r}")
    if cgroup:
        with opened(cgroup, "cgroup") as fd:
            return _attach(program, IterTarget(cgroup_fd=fd, order=_ORDERS[order or "descendants_pre"]), f"cgroup {cgroup}")
    if walked is not None:
        return _attach(program, IterTarget(map_fd=walked.fd), f"map {walked.name}")
    target = f"process {pid}" if pid else f"thread {tid}" if tid else ""
    return _attach(program, IterTarget(tid=tid, pid=pid) if pid or tid else None, target)


def _attach(program: Attachable, options: IterTarget | None, target: str) -> IterLink:
    call = LinkCreate(program.fd, 0, int(AttachType.TRACE_ITER), options=options)
    return IterLink(create(program.kernel, call, "iter", target, _WHY), program.kernel)
