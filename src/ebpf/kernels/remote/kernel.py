"""The seam, spoken to a daemon."""

import errno
import os
import select
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, cast

from ebpf.errors import EbpfError, KernelError, NotSupportedError
from ebpf.kernels.remote.connection import Connection
from ebpf.kernels.remote.find import connect
from ebpf.sys import wire
from ebpf.sys.absent import LinuxOnly
from ebpf.sys.calls import Call, R
from ebpf.sys.kernel import FUNCTIONS, VMLINUX, Buffer, Command, PerfSource, Process, ReplayStats, Route, Scope, TcState, XdpState

if TYPE_CHECKING:
    from ebpf.sys.capture import Capture

# Several may wait for one ring buffer, and the first takes the wake-up of all: look again this often.
_LOOK_S = 0.25
# How long an end takes at most.
_ENDING_S = 2.0


class RemoteKernel(LinuxOnly):
    """A user kernel in another process. What it holds for us goes when we leave, but for pins and attachments."""

    name = "user"
    lasting = True

    def __init__(self, connection: Connection | None = None, *, start: bool = True) -> None:
        self._pid = os.getpid()
        self._closed = False
        self._events: dict[int, int] = {}
        self._connection, hello = self._greeted(connection, start)
        self.possible_cpus = int(hello["cpus"])
        #: What nobody was told yet of an ebpfd that ended unexpectedly, in one line; "" if none did.
        self.news = str(hello["news"])
        self._pins = str(hello["pins"])
        self.lab = RemoteLab(system_wide=bool(hello["system_wide"]))

    def _greeted(self, connection: Connection | None, start: bool) -> tuple[Connection, Any]:
        """A connection to a daemon that answers. One that is just ending still takes connections, and drops them."""
        deadline = time.monotonic() + _ENDING_S
        while True:
            self._connection = connection or Connection(*connect(start=start))
            try:
                return self._connection, self._ask("hello", wire.PROTOCOL)
            except EbpfError as error:
                self._connection.close()
                dropped = isinstance(error, KernelError) and error.errno == errno.ECONNRESET
                if connection is not None or not dropped or time.monotonic() > deadline:
                    raise
            time.sleep(0.01)

    def _call(self, method: str, *arguments: Any) -> tuple[Any, list[int]]:
        if self._closed:
            raise KernelError(errno.EBADF, method, "this kernel was shut down")
        if os.getpid() != self._pid:
            raise KernelError(errno.EBADF, method, "a connection to ebpfd does not survive fork: open a kernel in the child")
        return self._connection.call(method, *arguments)

    def _ask(self, method: str, *arguments: Any) -> Any:
        answer, fds = self._call(method, *arguments)
        for fd in fds:
            os.close(fd)
        return answer

    # -- the seam

    def bpf(self, call: Call[R]) -> R:
        """Carry out one command."""
        try:
            return cast(R, self._ask("bpf", call))
        except wire.WireError as error:
            raise NotSupportedError(f"bpf({call.cmd.name})", f"cannot be sent to ebpfd ({error})") from error

    def finder(self, fd: int, key: str, value: str) -> None:
        """None: a look-up is a call to the other side."""

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        event = self._events.pop(fd, -1)
        if event >= 0:
            os.close(event)
        self._ask("close", fd)

    def mmap(self, fd: int, length: int, *, writable: bool, offset: int = 0, at: int = 0) -> Buffer:
        """Map a map's or perf event's memory, which is shared with the daemon."""
        if at:
            raise NotSupportedError("mmap", "a map whose memory has an address of its own")
        pieces, fds = self._call("mmap", fd, length, offset)
        try:
            if len(pieces) != len(fds):
                raise KernelError(errno.EPROTO, "mmap", "ebpfd sent other descriptors than it says")
            layout = [(file, int(begin), int(size), bool(may) and writable) for file, (begin, size, may) in zip(fds, pieces, strict=True)]
            from ebpf.sys.mapped import Mapped, Stretch

            return Mapped(Stretch(layout), length)
        finally:
            for file in fds:
                os.close(file)

    def wait(self, fds: Sequence[int], timeout_s: float | None) -> list[int]:
        """Wait until a descriptor has something to read."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            ready = self._ask("ready", list(fds))
            if ready:
                return [int(fd) for fd in ready]
            left = _LOOK_S if deadline is None else min(deadline - time.monotonic(), _LOOK_S)
            if left <= 0:
                return []
            poller = select.poll()
            poller.register(self._connection.fileno(), select.POLLIN)
            events = {self._event(fd): fd for fd in fds}
            for event in events:
                if event >= 0:
                    poller.register(event, select.POLLIN)
            for number, _ in poller.poll(left * 1000):
                if number in events:
                    with suppress(BlockingIOError):
                        os.read(number, 8)

    def _event(self, fd: int) -> int:
        event = self._events.get(fd)
        if event is None:
            _, files = self._call("event", fd)
            event = self._events[fd] = files[0] if files else -1
        return event

    def perf_event_open(self, source: PerfSource, *, pid: int = -1, cpu: int = 0) -> int:
        """Open a perf event."""
        return int(self._ask("perf_event_open", source, pid, cpu))

    def perf_set_bpf(self, event_fd: int, prog_fd: int) -> None:
        """Attach a program to an event."""
        self._ask("perf_set_bpf", event_fd, prog_fd)

    def perf_enable(self, event_fd: int) -> None:
        """Enable an event."""
        self._ask("perf_enable", event_fd)

    def xdp_attach(self, ifindex: int, prog_fd: int, flags: int = 0) -> None:
        """Attach (-1: detach) an XDP program."""
        self._ask("xdp_attach", ifindex, prog_fd, int(flags))

    def xdp_query(self, ifindex: int | None = None) -> list[XdpState]:
        """What is attached where."""
        return list(self._ask("xdp_query", ifindex))

    def tc_query(self, ifindex: int | None = None) -> list[TcState]:
        """Nothing: traffic control is Linux's."""
        del ifindex
        return []

    def interfaces(self) -> Mapping[str, int]:
        """The network interfaces."""
        return dict(self._ask("interfaces"))

    def read_file(self, path: str) -> bytes:
        """This kernel has no files of its own, and no structures that programs could read."""
        if path == VMLINUX:
            return b""
        if path == FUNCTIONS:
            return bytes(self._ask("functions"))
        raise FileNotFoundError(errno.ENOENT, "the user kernel has no such file", path)

    def syscall_function(self, syscall: str) -> str:
        """The function of a system call, named as on Linux."""
        return str(self._ask("syscall_function", syscall))

    def pin_roots(self) -> list[str] | None:
        """The folder where pins are files too, as in a laboratory; None where they are no files."""
        return [self._pins] if self._pins else None

    def pinned(self) -> list[str]:
        """The paths of all pins."""
        return list(self._ask("pinned"))

    def mount_pins(self) -> None:
        """Nothing needs to be mounted."""

    def unpin(self, path: str) -> None:
        """Remove a pin, as unlink(2) on bpffs does."""
        self._ask("unpin", path)

    def trace_open(self) -> int:
        """Begin to read what bpf_trace_printk writes."""
        return int(self._ask("trace_open"))

    def trace_read(self, fd: int) -> bytes:
        """Take the lines that there are."""
        return bytes(self._ask("trace_read", fd))

    def status(self) -> dict[str, Any]:
        """What the daemon tells of itself."""
        return dict(self._ask("status"))

    def take_news(self) -> str:
        """What happened to the ebpfd before, in one line; "" if nothing did. It is told once, to whoever takes it first."""
        news, self.news = self.news, ""
        if news:
            self._ask("told")
        return news

    def stop(self) -> None:
        """Have the daemon end."""
        self._ask("stop")

    def shutdown(self) -> None:
        """Leave. Idempotent."""
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        for event in self._events.values():
            if event >= 0:
                os.close(event)
        self._events.clear()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.shutdown()


class RemoteLab:
    """What of a laboratory a client of a daemon has: none of its own."""

    scope: Scope | None = None

    def __init__(self, *, system_wide: bool) -> None:
        self.system_wide = system_wide

    def spawn(self, command: Command) -> Process:
        """Commands are spawned by the process that asks for them."""
        del command
        self._refuse("spawn")

    def function(self, prog_fd: int) -> Callable[[bytes], int]:
        """Programs are functions in the process that has their code."""
        del prog_fd
        self._refuse("a program as a function")

    def replay(
        self, prog_fd: int, capture: "Capture", *, repeat: int = 1, sinks: Mapping[int, str] | None = None, limit: int | None = None
    ) -> ReplayStats:
        """Replays run in the process that asks for them."""
        del prog_fd, capture, repeat, sinks, limit
        self._refuse("replay")

    def set_routes(self, routes: Sequence[Route]) -> None:
        """Routes belong to the process that runs tests of programs."""
        del routes
        self._refuse("set_routes")

    def _refuse(self, what: str) -> NoReturn:
        raise NotSupportedError(what, "is not done by ebpfd: open the user kernel in this process")
