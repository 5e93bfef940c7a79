"""A command that is held before its exec, as every kernel's laboratory has it: letting go, its end, and the terminal."""

import os
import select
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, NoReturn, TypeVar

from ebpf.errors import UsageError
from ebpf.sys.kernel import Command

# Two of three starts need nothing else of `signal`, nor `threading`: they are imported by who does.
_SIGKILL = 9


def fork_held(command: Command, child: Callable[[Command, int], NoReturn]) -> tuple[int, int]:
    """Fork; the child runs `child(command, pipe)` and never returns. The answer is its pid and the pipe to let it go by."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if not pid:
        try:
            os.close(write_end)
            import signal

            # What Python ignores would stay ignored after the exec.
            for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTTOU):
                signal.signal(number, signal.SIG_DFL)
            child(command, read_end)
        finally:
            os._exit(127)
    os.close(read_end)
    return pid, write_end


def own_group(command: Command) -> None:
    """In the child: be the terminal's foreground group, if the command is to be it."""
    if command.foreground:
        with suppress(OSError):
            os.setpgid(0, 0)


class HeldCommand:
    """A forked command. `ended_at` is when its end was seen (monotonic seconds)."""

    def __init__(self, pid: int, pipe: int, *, foreground: bool) -> None:
        self.pid = pid
        self.released = False
        self.interrupted = False
        #: Whether somebody waited for its end and has it.
        self.collected = False
        self.ended_at = 0.0
        self._pipe = pipe
        self._pidfd = os.pidfd_open(pid)
        self._status: int | None = None
        self._foreground = foreground
        self._terminal: int | None = None

    def release(self) -> None:
        """Let it go. Idempotent."""
        if self.released:
            return
        self.released = True
        if self._foreground:
            self._to_foreground()
        self._let_go()

    def _let_go(self) -> None:
        """What a kernel does at the release; at least `_send` something."""
        self._send(b"g")

    def _send(self, data: bytes) -> None:
        # It may have been killed while it was held: wait() tells.
        with suppress(BrokenPipeError):
            os.write(self._pipe, data)
        self._drop_pipe()

    def _drop_pipe(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    def _reap(self) -> int | None:
        """The command's wait status, once it has ended."""
        with suppress(ChildProcessError):
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return status
        return None

    def poll(self) -> int | None:
        """The exit status as a shell gives it, None while the command runs."""
        if self._status is None:
            status = self._reap()
            if status is not None:
                self._status = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
                self.ended_at = time.monotonic()
                self._to_background()
        return self._status

    def descriptor(self) -> int:
        """A descriptor that can be read when the command has ended."""
        return self._pidfd

    def wait(self) -> int:
        """Wait for the command's end; lets it go first."""
        self.release()
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        while self.poll() is None:
            # Whoever else reaps it tells a little later than the descriptor does.
            poller.poll(20)
        assert self._status is not None
        self.collected = True
        return self._status

    def kill(self) -> None:
        """End a held command. Idempotent."""
        if self.poll() is not None:
            return
        with suppress(ProcessLookupError):
            os.kill(self.pid, _SIGKILL)
        self.released = True
        self._drop_pipe()
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        self._status = 128 + _SIGKILL

    def close(self) -> None:
        """Give back what is ours; the command goes on without us. Idempotent."""
        self._to_background()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _to_foreground(self) -> None:
        try:
            self._terminal = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return
        with suppress(OSError):
            os.setpgid(self.pid, self.pid)
        _give_terminal(self._terminal, self.pid)

    def _to_background(self) -> None:
        if self._terminal is not None:
            _give_terminal(self._terminal, os.getpgrp())
            os.close(self._terminal)
            self._terminal = None


def _give_terminal(terminal: int, group: int) -> None:
    import signal
    import threading

    # Who is in the background may not change the terminal's group, unless it ignores the signal for that.
    if threading.current_thread() is not threading.main_thread():
        return
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    with suppress(OSError):
        os.tcsetpgrp(terminal, group)
    signal.signal(signal.SIGTTOU, before)


H = TypeVar("H", bound=HeldCommand)


class HeldSlot(Generic[H]):
    """The one command that a laboratory runs at a time, as its kernel's wait() needs it."""

    def __init__(self) -> None:
        self.process: H | None = None

    def require_free(self) -> None:
        """Insist that no other command runs."""
        if self.process is not None and self.process.poll() is None:
            raise UsageError("a kernel runs one command at a time")

    def release(self) -> None:
        """Let a held command go."""
        if self.process is not None:
            self.process.release()

    def ended(self) -> bool:
        """Whether there was a command and it has ended."""
        return self.process is not None and self.process.released and self.process.poll() is not None

    def told(self) -> bool:
        """Whether the main thread was told of the command's end."""
        return self.process is not None and self.process.interrupted

    def interrupt(self) -> bool:
        """Whether the main thread is still to be told of the command's end; from now on it has been."""
        if self.process is None or self.process.interrupted:
            return False
        self.process.interrupted = True
        return True

    def descriptors(self) -> list[int]:
        """What can be read when the command has ended, also when that was a moment ago."""
        return [self.process.descriptor()] if self.process is not None and self.process.descriptor() >= 0 else []

    def close(self) -> None:
        """Leave the command to itself (held: end it)."""
        if self.process is not None:
            if not self.process.released:
                self.process.kill()
            self.process.close()
            self.process = None
