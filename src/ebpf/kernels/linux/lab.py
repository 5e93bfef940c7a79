"""The laboratory on Linux: commands held before their exec, in a cgroup of their own; replays by test runs."""

import errno
import os
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from ebpf.errors import KernelError, NotSupportedError, PrivilegeError, UsageError
from ebpf.kernels.linux.syscall import has_capability
from ebpf.sys.calls import ProgTestRun
from ebpf.sys.held import HeldCommand, HeldSlot, fork_held, own_group
from ebpf.sys.kernel import Command, ReplayStats, Route, Scope

if TYPE_CHECKING:
    from ebpf.kernels.linux.kernel import LinuxKernel
    from ebpf.sys.capture import Capture

_SHORTEST = 14
_DRAIN_S = 3.0


class Held(HeldCommand):
    """A spawned command, in a cgroup of its own where it is scoped."""

    def __init__(self, pid: int, pipe: int, cgroup: str | None, *, foreground: bool) -> None:
        super().__init__(pid, pipe, foreground=foreground)
        self._cgroup = cgroup

    def close(self) -> None:
        """Give the cgroup back; what is left in it moves to the one above."""
        super().close()
        if self._cgroup is not None:
            with suppress(OSError):
                for pid in _read(f"{self._cgroup}/cgroup.procs").split():
                    _write(f"{os.path.dirname(self._cgroup)}/cgroup.procs", pid)
            with suppress(OSError):
                os.rmdir(self._cgroup)
            self._cgroup = None


class LinuxLab(HeldSlot[Held]):
    """Commands and replays in the Linux kernel."""

    system_wide = True

    def __init__(self, kernel: "LinuxKernel") -> None:
        super().__init__()
        self._kernel = kernel
        self.scope: Scope | None = None

    def spawn(self, command: Command) -> Held:
        """Start a command, held before its exec; programs attached from now on see only its tree, unless it is not scoped."""
        self.require_free()
        cgroup, self.scope = _own_cgroup() if command.scoped else (None, None)
        pid, pipe = fork_held(command, _child)
        self.process = Held(pid, pipe, cgroup, foreground=command.foreground)
        if cgroup is not None:
            _write(f"{cgroup}/cgroup.procs", str(pid))
        return self.process

    def just_ended(self) -> bool:
        """Whether the command ended a moment ago."""
        return self.process is not None and time.monotonic() - self.process.ended_at < _DRAIN_S

    def set_routes(self, routes: Sequence[Route]) -> None:
        """Linux has routes of its own."""
        raise NotSupportedError("set_routes", "Linux finds the routes of its network name space: add them with `ip route`")

    def function(self, prog_fd: int) -> Callable[[bytes], int]:
        """An XDP program as a function: each call is a test run."""
        return lambda packet: self._kernel.bpf(ProgTestRun(prog_fd, packet)).retval

    def replay(
        self,
        prog_fd: int,
        capture: "Capture",
        *,
        repeat: int = 1,
        sinks: Mapping[int, str] | None = None,
        limit: int | None = None,
    ) -> ReplayStats:
        """Run an XDP program over every packet, each by a test run of its own."""
        from ebpf.sys.capture import header

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


def _child(command: Command, pipe: int) -> NoReturn:
    """The child: wait to be let go, then exec. Never returns to Python's callers."""
    if not os.read(pipe, 1):
        os._exit(127)
    own_group(command)
    try:
        os.execve(command.argv[0], list(command.argv), dict(command.env))
    except OSError as error:
        os.write(2, f"ebpf: {command.argv[0]}: {error.strerror}\n".encode())
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _own_cgroup() -> tuple[str, Scope]:
    """A fresh cgroup. Raises UsageError where none can be made."""
    for line in _read("/proc/self/mountinfo").splitlines():
        fields, _, kind = line.partition(" - ")
        if not kind.startswith("cgroup2 "):
            continue
        mount = fields.split()[4]
        own = next((row[3:] for row in _read("/proc/self/cgroup").splitlines() if row.startswith("0::")), "/")
        path = f"{os.path.join(mount, own.lstrip('/')).rstrip('/')}/ebpf-{os.getpid()}"
        try:
            os.mkdir(path)
        except OSError:
            continue
        level = len([part for part in own.split("/") if part]) + 1
        return path, Scope(os.stat(path).st_ino, level)
    if not has_capability("CAP_BPF"):
        raise PrivilegeError(errno.EPERM, "mkdir in cgroup2", "CAP_BPF", "Linux's kernel needs root or CAP_BPF; without: --kernel user")
    raise UsageError("no cgroup v2 can be made here to tell the command's tree apart; use --system-wide")
