"""An attachment that is held: closing it detaches."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

from ebpf.errors import AttachError, KernelError, PrivilegeError, UsageError
from ebpf.sys.calls import GetLinkInfo, LinkCreate, LinkDetach, LinkInfo, LinkUpdate, ObjPin
from ebpf.sys.kernel import Kernel


class Attachable(Protocol):
    """What can be attached: a program of an object, or one that is only a descriptor."""

    @property
    def kernel(self) -> Kernel: ...
    @property
    def fd(self) -> int: ...
    @property
    def name(self) -> str: ...


class Link:
    """A program's attachment to `target`. Close it to detach, or use it in a with statement; closing twice does nothing.

    `fds` are the kernel's links that make it up: one that has exactly one can be pinned, updated and asked about.
    """

    def __init__(self, kind: str, target: str, undo: Callable[[], None], *, kernel: Kernel | None = None, fds: Sequence[int] = ()) -> None:
        self.kind = kind
        self.target = target
        self.fds = tuple(fds)
        self._kernel = kernel
        self._undo: Callable[[], None] | None = undo

    def describe(self) -> str:
        """What is attached where, in a few words."""
        return f"{self.kind} {self.target}"

    def _own(self) -> tuple[Kernel, int]:
        if self._kernel is None or len(self.fds) != 1:
            raise UsageError(f"{self.describe()}: is held by this process alone, not by a link of the kernel's")
        return self._kernel, self.fds[0]

    @property
    def fd(self) -> int:
        """The link's descriptor. Raises UsageError for an attachment that is no link of the kernel's, or several."""
        return self._own()[1]

    def info(self) -> LinkInfo:
        """What the kernel says of it."""
        kernel, fd = self._own()
        return kernel.bpf(GetLinkInfo(fd))

    def pin(self, path: str) -> None:
        """Give the link a path: it then outlives this process. Raises UsageError, KernelError."""
        kernel, fd = self._own()
        kernel.bpf(ObjPin(path, fd))

    def update(self, program: Attachable) -> None:
        """Put another program in, with no moment in between. Raises KernelError EINVAL for kinds of link that cannot."""
        kernel, fd = self._own()
        kernel.bpf(LinkUpdate(fd, program.fd))

    def detach(self) -> None:
        """Detach now, even if the link is pinned; what is left of it does nothing."""
        kernel, fd = self._own()
        kernel.bpf(LinkDetach(fd))

    def close(self) -> None:
        """Detach (a pinned link stays). Idempotent."""
        undo, self._undo = self._undo, None
        if undo is not None:
            undo()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def held(kernel: Kernel, kind: str, target: str, fd: int) -> Link:
    """A link of the kernel's by its descriptor."""
    return Link(kind, target, lambda: kernel.close(fd), kernel=kernel, fds=(fd,))


def create(kernel: Kernel, call: LinkCreate, kind: str, target: str, why: dict[int, tuple[str, str]] | None = None) -> Link:
    """Make a link. A refusal is an AttachError with the reason that `why` has for its errno, and what to do instead."""
    try:
        return held(kernel, kind, target, kernel.bpf(call))
    except PrivilegeError:
        raise
    except KernelError as error:
        raise refused(error, kind, target, why) from error


def refused(error: KernelError, kind: str, target: str, why: dict[int, tuple[str, str]] | None = None) -> AttachError:
    """The kernel's refusal to attach, in words."""
    reason, hint = (why or {}).get(error.errno, (str(error), ""))
    out = AttachError(f"{kind} {target}".rstrip(), reason, hint=hint or None)
    out.errno = error.errno
    return out
