"""What a user kernel may have around it, in a laboratory: processes that run already, and network interfaces."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from ebpf.kernels.user.hooks import Hooks
from ebpf.kernels.user.objects import ProgramObject
from ebpf.sys.kernel import XdpState


class Running(Protocol):
    """Processes that can be observed while they run."""

    def update(self, hooks: Hooks) -> None:
        """The set of hooked system calls has changed: begin to observe when the first comes, let all go when the last went."""

    def close(self) -> None:
        """Let all go. Idempotent."""


class Wires(Protocol):
    """Network interfaces that programs can be attached to."""

    def interfaces(self) -> Mapping[str, int]:
        """The interfaces by name, with their index."""

    def attach(self, ifindex: int, program: ProgramObject, flags: int) -> "ProgramObject | None":
        """Run a program on each packet that an interface receives; the answer is the program that it replaces.

        `flags` are XdpFlag. KernelError EBUSY where one is attached and UPDATE_IF_NOEXIST was asked for.
        """

    def detach(self, ifindex: int, flags: int) -> "ProgramObject | None":
        """Take the program off an interface and return it; None if there was none."""

    def filter(self, ifindex: int, side: int, programs: Sequence[ProgramObject]) -> None:
        """Run programs one after the other on what comes in at an interface (side 0), or goes out of it (1).

        KernelError ENODEV where there is no such interface. The programs that were there before do not run any more.
        """

    def query(self) -> list[XdpState]:
        """What is attached where."""

    def close(self) -> None:
        """Detach everything. Idempotent."""
