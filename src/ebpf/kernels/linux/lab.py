"""The laboratory on Linux: commands held before their exec, in a cgroup of their own; replays by test runs."""

import errno
import os
import select
import signal
import struct
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ebpf.errors import KernelError, PrivilegeError, UsageError
from ebpf.kernels.linux.syscall import has_capability
from ebpf.sys.calls import ProgTestRun
from ebpf.sys.capture import Capture, header
from ebpf.sys.kernel import Command, ReplayStats, Scope

if TYPE_CHECKING:
    from ebpf.kernels.linux.kernel import LinuxKernel

_SHORTEST = 14
_DRAIN_S = 3.0


class Held:
    """A spawned command."""

    def __init__(self, pid: int, pipe: int, cgroup: Path | None, *, foreground: bool) -> None:
        self.pid = pid
        self.released = False
        self.interrupted = False
        self.ended_at = 0.0
        self._pipe = pipe
        self._cgroup = cgroup
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
            with suppress(OSError):
                self._terminal = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
                os.setpgid(self.pid, self.pid)
                _give_terminal(self._terminal, self.pid)
        with suppress(BrokenPipeError):
            os.write(self._pipe, b"g")
        os.close(self._pipe)

    def poll(self) -> int | None:
        """Its exit status as a shell gives it, None while it runs."""
        if self._status is None:
            with suppress(ChildProcessError):
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self._status = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
                    self.ended_at = time.monotonic()
                    self._back()
        return self._status

    def descriptor(self) -> int:
        """A descriptor that can be read when it has ended."""
        return self._pidfd

    def wait(self) -> int:
        """Wait for its end."""
        self.release()
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        while self.poll() is None:
            poller.poll()
        assert self._status is not None
        return self._status

    def kill(self) -> None:
        """End a held command."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            if not self.released:
                self.released = True
                os.close(self._pipe)
            with suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
            self._status = 128 + signal.SIGKILL

    def _back(self) -> None:
        if self._terminal is not None:
            _give_terminal(self._terminal, os.getpgrp())
            os.close(self._terminal)
            self._terminal = None

    def close(self) -> None:
        """Give the cgroup back; what is left in it moves to the one above."""
        self._back()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if self._cgroup is not None:
            with suppress(OSError):
                for pid in (self._cgroup / "cgroup.procs").read_text().split():
                    (self._cgroup.parent / "cgroup.procs").write_text(pid)
            with suppress(OSError):
                self._cgroup.rmdir()
            self._cgroup = None


def _give_terminal(terminal: int, group: int) -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    with suppress(OSError):
        os.tcsetpgrp(terminal, group)
    signal.signal(signal.SIGTTOU, before)


class LinuxLab:
    """Commands and replays in the Linux kernel."""

    def __init__(self, kernel: "LinuxKernel") -> None:
        self._kernel = kernel
        self.process: Held | None = None
        self.scope: Scope | None = None

    def spawn(self, command: Command) -> Held:
        """Start a command, held before its exec; programs attached from now on see only its tree, unless it is not scoped."""
        if self.process is not None and self.process.poll() is None:
            raise UsageError("one command at a time")
        cgroup, self.scope = _own_cgroup() if command.scoped else (None, None)
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if not pid:
            try:
                os.close(write_end)
                _child(command, read_end)
            finally:
                os._exit(127)
        os.close(read_end)
        if cgroup is not None:
            (cgroup / "cgroup.procs").write_text(str(pid))
        self.process = Held(pid, write_end, cgroup, foreground=command.foreground)
        return self.process

    def release(self) -> None:
        """Let a held command go."""
        if self.process is not None:
            self.process.release()

    def ended(self) -> bool:
        """Whether there was a command and it has ended."""
        return self.process is not None and self.process.released and self.process.poll() is not None

    def just_ended(self) -> bool:
        """Whether the command ended a moment ago."""
        return self.process is not None and time.monotonic() - self.process.ended_at < _DRAIN_S

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
        """Run an XDP program over every packet, each by a test run of its own."""
        capture.require_ethernet()
        files = {verdict: open(path, "wb") for verdict, path in (sinks or {}).items()}  # noqa: SIM115  # closed below
        verdicts: dict[int, int] = {}
        packets = invalid = size = 0
        begin = time.perf_counter_ns()
        try:
            for file in files.values():
                file.write(header())
            for _ in range(repeat):
                for number, packet in enumerate(capture):
                    if limit is not None and number >= limit:
                        break
                    packets += 1
                    size += len(packet.data)
                    if len(packet.data) < _SHORTEST:
                        invalid += 1
                        continue
                    try:
                        answer = self._kernel.bpf(ProgTestRun(prog_fd, packet.data, data_size_out=len(packet.data) + 512))
                    except KernelError as error:
                        if error.errno != 22:
                            raise
                        invalid += 1
                        continue
                    verdicts[answer.retval] = verdicts.get(answer.retval, 0) + 1
                    if answer.retval in files:
                        seconds, rest = divmod(packet.timestamp_ns, 10**9)
                        record = struct.pack("<IIII", seconds, rest // 1000, len(answer.data), len(answer.data))
                        files[answer.retval].write(record + answer.data)
        finally:
            for file in files.values():
                file.close()
        return ReplayStats(packets, verdicts, invalid, time.perf_counter_ns() - begin, size)

    def close(self) -> None:
        """Leave the command to itself (held: end it)."""
        if self.process is not None:
            if not self.process.released:
                self.process.kill()
            self.process.close()
            self.process = None


def _child(command: Command, pipe: int) -> None:
    """The child: wait to be let go, then exec. Never returns to Python's callers."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTTOU):
        signal.signal(number, signal.SIG_DFL)
    if not os.read(pipe, 1):
        os._exit(127)
    if command.foreground:
        with suppress(OSError):
            os.setpgid(0, 0)
    try:
        os.execve(command.argv[0], list(command.argv), dict(command.env))
    except OSError as error:
        os.write(2, f"ebpf: {command.argv[0]}: {error.strerror}\n".encode())
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


def _own_cgroup() -> tuple[Path, Scope]:
    """A fresh cgroup. Raises UsageError where none can be made."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        if not kind.startswith("cgroup2 "):
            continue
        mount = Path(fields.split()[4])
        own = next((row[3:] for row in Path("/proc/self/cgroup").read_text().splitlines() if row.startswith("0::")), "/")
        parent = mount / own.lstrip("/")
        path = parent / f"ebpf-{os.getpid()}"
        try:
            path.mkdir()
        except OSError:
            continue
        level = len([part for part in own.split("/") if part]) + 1
        return path, Scope(path.stat().st_ino, level)
    if not has_capability("CAP_BPF"):
        raise PrivilegeError(errno.EPERM, "mkdir in cgroup2", "CAP_BPF", "Linux's kernel needs root or CAP_BPF; without: --kernel user")
    raise UsageError("no cgroup v2 can be made here to tell the command's tree apart; use --system-wide")
