"""What only a laboratory kernel offers: commands whose events it sees, and replays."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ebpf.errors import UsageError
from ebpf.kernels.user.hooks import Launch, launch
from ebpf.kernels.user.run import replay
from ebpf.sys.capture import Capture
from ebpf.sys.kernel import Command, ReplayStats, Scope

if TYPE_CHECKING:
    from ebpf.kernels.user.kernel import UserKernel


class UserLab:
    """The laboratory of a user kernel."""

    def __init__(self, kernel: "UserKernel") -> None:
        self._kernel = kernel
        self.process: Launch | None = None
        self.scope: Scope | None = None

    def spawn(self, command: Command) -> Launch:
        """Start a command, held before its exec. One at a time."""
        if self.process is not None and self.process.poll() is None:
            raise UsageError("a user kernel runs one command at a time")
        self.process = launch(command, self._kernel.events.hooks, self._kernel.events.env)
        return self.process

    def release(self) -> None:
        """Let a held command go."""
        if self.process is not None and not self.process.released:
            self.process.release()

    def ended(self) -> bool:
        """Whether there was a command and it has ended."""
        return self.process is not None and self.process.released and self.process.poll() is not None

    def interrupt(self) -> bool:
        """Whether the main thread is still to be told of the command's end; from now on it has been."""
        if self.process is None or self.process.interrupted:
            return False
        self.process.interrupted = True
        return True

    def descriptors(self) -> list[int]:
        """What can be read when the command ends."""
        return [self.process.descriptor()] if self.process is not None and self.process.poll() is None else []

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
        return replay(self._kernel, held, capture, repeat=repeat, sinks=sinks, limit=limit)

    def close(self) -> None:
        """Leave the command to itself (held: end it)."""
        if self.process is not None:
            if not self.process.released:
                self.process.kill()
            self.process.close()
            self.process = None
