"""The user kernel: a kernel that lives in this process. What it does is in files of their own; here they are one thing."""

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, cast

from ebpf.engine.runtime.abi import Env
from ebpf.engine.runtime.python import close_finder
from ebpf.errors import KernelError, NotSupportedError
from ebpf.kernels.user import waiting, window
from ebpf.kernels.user.commands import COMMANDS
from ebpf.kernels.user.events import PerfEvent, syscall_function
from ebpf.kernels.user.jobs import Job, job
from ebpf.kernels.user.lab import UserLab
from ebpf.kernels.user.objects import READ, WRITE, Account, MapObject, Object, ProgramObject, Table
from ebpf.kernels.user.state import State
from ebpf.kernels.user.trace import TraceReader
from ebpf.kernels.user.types import kernel_types
from ebpf.sys.absent import LinuxOnly
from ebpf.sys.calls import Call, R
from ebpf.sys.kernel import FUNCTIONS, VMLINUX, Buffer, PerfSource, TcState, XdpState


class UserKernel(LinuxOnly):
    """A kernel in user space. Close it with shutdown(), or use it in a with statement.

    Several can share a `state`: each is then one client, with descriptors of its own.
    """

    name = "user"
    lasting = False

    def __init__(self, state: State | None = None, account: Account | None = None) -> None:
        self._owner = state is None
        self.state = state or State()
        self.possible_cpus = self.state.possible_cpus
        self.table = Table(self.state.registry, account)
        self.lab = UserLab(self)
        self._closed = False
        self._finders: dict[int, list[Callable[[Any], Any]]] = {}
        #: The surroundings that this client's test runs run in now.
        self.runs: dict[int, Env] = {}
        self.leaving = False
        #: Whether clients are this process itself, so that descriptors of the system mean the same to them and to us.
        self.local = True

    # -- bpf(2)

    def bpf(self, call: Call[R]) -> R:
        """Carry out one command."""
        self.alive(f"bpf({call.cmd.name})")
        handler = COMMANDS.get(type(call))
        if handler is None:
            raise NotSupportedError(f"bpf({call.cmd.name})", "is not built in the user kernel yet", hint="Run with --kernel linux")
        return cast(R, handler(self, call))

    def alive(self, call: str) -> None:
        """Refuse a call of a kernel that is closed."""
        if self._closed:
            raise KernelError(errno.EBADF, call, "this kernel was shut down")
        self.state.alive(call)

    def map_at(self, fd: int, call: str, need: int = 0) -> MapObject:
        """The map behind a descriptor, which must permit to READ or WRITE it if that is needed."""
        held = self.table.get(fd, MapObject, call)
        if need and not self.table.may(fd, need):
            raise KernelError(errno.EPERM, call, f"the descriptor is {'write' if need == READ else 'read'}-only")
        if need and held.map.BY_DESCRIPTOR and not self.local:
            raise NotSupportedError("a descriptor as a key", "ebpfd does not see its clients' descriptors")
        if need == WRITE and held.map.frozen:
            raise KernelError(errno.EPERM, call, "the map is frozen")
        return held

    def program_at(self, fd: int, call: str) -> ProgramObject:
        """The program behind a descriptor."""
        return self.table.get(fd, ProgramObject, call)

    def job(self, call: Call[Any]) -> Job | None:
        """The work of a call that takes long, to be done beside others'; None for a call that does not."""
        return job(self, call)

    def pin_roots(self) -> list[str] | None:
        """Pins are no files here."""
        return None

    def pinned(self) -> list[str]:
        """The paths of all pins."""
        return sorted(self.state.pins)

    def mount_pins(self) -> None:
        """Nothing needs to be mounted."""

    def unpin(self, path: str) -> None:
        """Remove a pin, as unlink(2) on bpffs does."""
        self.state.unpin(path)

    def stop_runs(self, *, leaving: bool = False) -> None:
        """End this client's test runs soon; `leaving`: those too that have not begun. For any thread."""
        self.leaving = self.leaving or leaving
        for env in list(self.runs.values()):
            env.stop = 1

    # -- descriptors and memory

    def finder(self, fd: int, key: str, value: str) -> Callable[[Any], Any] | None:
        """A function that looks keys up in a map; it ends with the descriptor."""
        held = self.map_at(fd, "map_lookup_elem", READ)
        made = held.map.finder(key, value)
        if made is not None:
            self._finders.setdefault(fd, []).append(made)
        return made

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        self._end_finders(fd)
        self.table.close(fd)

    def _end_finders(self, fd: int) -> None:
        for finder in self._finders.pop(fd, ()):
            close_finder(finder)

    def mmap(self, fd: int, length: int, *, writable: bool, offset: int = 0, at: int = 0) -> Buffer:
        """Map a map's or perf event's memory."""
        if at:
            raise NotSupportedError("mmap", "a map whose memory has an address of its own")
        return window.mmap(self, fd, length, writable=writable, offset=offset)

    def files(self, fd: int, length: int, offset: int) -> list[tuple[int, int, int, bool]]:
        """What mmap would map, as pieces of files for another process: (fd, offset, length, writable)."""
        return window.files(self, fd, length, offset)

    def ready(self, fds: Sequence[int]) -> list[int]:
        """Which of the descriptors have something to read; the others will write their event descriptor when they do."""
        return waiting.ready(self, fds)

    def wait(self, fds: Sequence[int], timeout_s: float | None) -> list[int]:
        """Wait until a descriptor has something to read; lets a held command go first."""
        return waiting.wait(self, fds, timeout_s)

    def event_file(self, fd: int) -> int:
        """The descriptor that tells when there is something to read (-1: none ever)."""
        return self.table.get(fd, Object, "poll").event_fd

    # -- events

    def perf_event_open(self, source: PerfSource, *, pid: int = -1, cpu: int = 0) -> int:
        """Open a perf event: a system call's function or tracepoint, or an output buffer."""
        self.alive("perf_event_open")
        return self.table.add(self.state.events.open(source, pid=pid, cpu=cpu))

    def perf_set_bpf(self, event_fd: int, prog_fd: int) -> None:
        """Attach a program to an event."""
        self.require_processes()
        event = self.table.get(event_fd, PerfEvent, "ioctl(PERF_EVENT_IOC_SET_BPF)")
        self.state.events.attach(event, self.program_at(prog_fd, "ioctl(PERF_EVENT_IOC_SET_BPF)"), self.lab.process)

    def require_processes(self) -> None:
        """Insist that there are processes to hook: a kernel that clients share sees some only in a laboratory."""
        if not self.local and self.state.running is None:
            raise NotSupportedError(
                "attach",
                "ebpfd sees no processes: system calls are hooked in a laboratory, or for one command",
                hint="Open one with `ebpf lab`, or run `ebpf run SCRIPT -- COMMAND`",
            )

    def perf_enable(self, event_fd: int) -> None:
        """Enable an event (they are enabled when a program is attached)."""
        self.table.get(event_fd, PerfEvent, "ioctl(PERF_EVENT_IOC_ENABLE)")

    def xdp_attach(self, ifindex: int, prog_fd: int, flags: int = 0) -> None:
        """Attach (-1: detach) an XDP program to an interface of the laboratory."""
        program = self.program_at(prog_fd, "net attach xdp") if prog_fd >= 0 else None
        self.state.interfaces.xdp(ifindex, program, flags)

    def xdp_query(self, ifindex: int | None = None) -> list[XdpState]:
        """What is attached to the laboratory's interfaces."""
        wires = self.state.wires
        return [s for s in wires.query() if ifindex in (None, s.ifindex)] if wires is not None else []

    def tc_query(self, ifindex: int | None = None) -> list[TcState]:
        """Nothing: traffic control is Linux's."""
        del ifindex
        return []

    def interfaces(self) -> Mapping[str, int]:
        """The network interfaces."""
        if self.state.wires is not None:
            return self.state.wires.interfaces()
        import socket

        return {name: index for index, name in socket.if_nameindex()}

    def read_file(self, path: str) -> bytes:
        """This kernel has no files of its own, and no structures that programs could read."""
        if path == VMLINUX:
            return b""
        if path == FUNCTIONS:
            return kernel_types().raw
        raise FileNotFoundError(errno.ENOENT, "the user kernel has no such file", path)

    def syscall_function(self, syscall: str) -> str:
        """The function of a system call, named as on Linux."""
        return syscall_function(syscall)

    # -- trace

    def trace_open(self) -> int:
        """Begin to read what bpf_trace_printk writes."""
        self.alive("open trace_pipe")
        return self.table.add(TraceReader(self.state.trace))

    def trace_read(self, fd: int) -> bytes:
        """Take the lines that there are."""
        return self.table.get(fd, TraceReader, "read trace_pipe").take()

    # -- end

    def shutdown(self) -> None:
        """Close all descriptors and let a command go on without us; whoever owns the state detaches everything."""
        if self._closed or os.getpid() != self.state.pid:
            return
        self.lab.close()
        self._closed = True
        for fd in list(self._finders):
            self._end_finders(fd)
        self.table.close_all()
        if self._owner:
            self.state.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.shutdown()
