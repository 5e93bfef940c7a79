"""What a kernel of ours has not got: the parts of the seam that only Linux's own network stack and files can answer."""

from collections.abc import Sequence
from typing import NoReturn

from ebpf.errors import NotSupportedError

_HINT = "Use --kernel linux"


def _refuse(what: str, why: str) -> NoReturn:
    raise NotSupportedError(what, why, hint=_HINT)


class LinuxOnly:
    """A kernel whose programs get no filters of traffic control, no sockets of other processes, and no iterators."""

    def descriptors(self, fds: Sequence[int]) -> list[int] | None:
        """Nothing: its descriptors are numbers of its own."""
        return None

    def tc_attach(self, ifindex: int, side: str, prog_fd: int, *, priority: int, handle: int, name: str) -> bool:
        """Refused."""
        _refuse("tc filter", "the user kernel has no traffic control")

    def tc_detach(self, ifindex: int, side: str, *, priority: int, handle: int, clsact: bool) -> None:
        """Refused."""
        _refuse("tc filter", "the user kernel has no traffic control")

    def socket_attach(self, sock_fd: int, prog_fd: int, *, reuseport: bool = False) -> None:
        """Refused."""
        _refuse("socket filter", "the user kernel does not see what sockets receive")

    def read(self, fd: int, size: int) -> bytes:
        """Refused."""
        _refuse("iterator", "the user kernel has no structures of its own to walk")
