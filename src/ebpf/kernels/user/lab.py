"""What only a laboratory kernel offers: commands whose events it sees, and replays."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ebpf.kernels.user.hooks import Launch, launch
from ebpf.kernels.user.routes import route_table
from ebpf.kernels.user.run import function, replay
from ebpf.sys.capture import Capture
from ebpf.sys.held import HeldSlot
from ebpf.sys.kernel import Command, ReplayStats, Route, Scope

if TYPE_CHECKING:
    from ebpf.kernels.user.kernel import UserKernel


class UserLab(HeldSlot[Launch]):
    """The laboratory of a user kernel."""

    system_wide = False
    #: A command's filter is inherited by its tree alone: nothing is left to filter.
    scope: Scope | None = None

    def __init__(self, kernel: "UserKernel") -> None:
        super().__init__()
        self._kernel = kernel

    def spawn(self, command: Command) -> Launch:
        """Start a command, held before its exec. One at a time."""
        self.require_free()
        self.process = launch(command, self._kernel.state.events.hooks, self._kernel.state.events.env)
        return self.process

    def function(self, prog_fd: int) -> Callable[[bytes], int]:
        """An XDP program as a function: a packet in, its verdict out; machine code, with Python's lock held."""
        return function(self._kernel, self._kernel.program_at(prog_fd, "function"))

    def replay(
        self,
        prog_fd: int,
        capture: Capture,
        *,
        repeat: int = 1,
        sinks: Mapping[int, str] | None = None,
        limit: int | None = None,
    ) -> ReplayStats:
        """Run an XDP program over every packet of a capture."""
        held = self._kernel.program_at(prog_fd, "replay")
        try:
            return replay(self._kernel, held, capture, repeat=repeat, sinks=sinks, limit=limit)
        finally:
            self._kernel.state.grace.poll()

    def set_routes(self, routes: Sequence[Route]) -> None:
        """Say what bpf_fib_lookup finds."""
        self._kernel.state.routes = route_table(routes)
