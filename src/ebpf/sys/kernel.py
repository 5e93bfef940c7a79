"""The seam: what a kernel offers to the programs above it.

Everything above speaks to a `Kernel` and never asks which one it has. `Lab` is what Linux cannot offer of itself; a kernel
without it has `lab = None`, or emulates.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from ebpf.records import made_by, record
from ebpf.sys.calls import Call, R

if TYPE_CHECKING:
    from ebpf.sys.capture import Capture

#: Where a kernel tells its types.
VMLINUX = "/sys/kernel/btf/vmlinux"
#: Where a kernel that has no vmlinux tells the types of its functions, and of the few structures that it has.
FUNCTIONS = "/sys/kernel/btf/functions"


@record
class Kprobe:
    """Entry (or, with `ret`, return) of the kernel function `function`."""

    function: str
    offset: int = 0
    ret: bool = False


@record
class Tracepoint:
    """The tracepoint `category:name`."""

    category: str
    name: str


@record
class Uprobe:
    """A place in a file, as an offset from its beginning."""

    path: str
    offset: int
    ret: bool = False
    ref_ctr_offset: int = 0


@record
class PerfOutput:
    """The buffer that bpf_perf_event_output fills for one CPU."""

    wakeup_events: int = 1


@record
class Counter:
    """Something that is counted, as perf_event_open(2) has it: `type` 0 hardware, 1 software; a sample every `period` of them, or
    `frequency` times a second.
    """

    type: int
    config: int
    period: int = 0
    frequency: int = 0


@record
class Breakpoint:
    """Accesses to `length` bytes at a user address: `access` has bits for read 1, write 2, execute 4."""

    address: int
    length: int = 8
    access: int = 2


PerfSource = Kprobe | Tracepoint | Uprobe | PerfOutput | Counter | Breakpoint


@record
class XdpState:
    """What is attached to an interface: mode is "xdpgeneric", "xdpdrv" or "xdpoffload"."""

    ifindex: int
    ifname: str
    mode: str
    prog_id: int


@record
class TcState:
    """A program in a traffic control filter: `kind` is the queueing discipline with its side ("clsact/ingress"), `name` the filter's."""

    ifindex: int
    ifname: str
    kind: str
    name: str
    prog_id: int


class Buffer(Protocol):
    """Mapped memory: `view` is a writable or read-only window; close() unmaps."""

    @property
    def view(self) -> memoryview: ...
    def close(self) -> None: ...


class Kernel(Protocol):
    """A kernel that runs eBPF: Linux's, or ours."""

    @property
    def name(self) -> str:
        """ "linux" or "user", for messages only."""

    @property
    def lab(self) -> "Lab": ...

    @property
    def lasting(self) -> bool:
        """Whether pins and attachments outlive this process."""

    @property
    def possible_cpus(self) -> int:
        """How many values a per-CPU map element has."""

    def bpf(self, call: Call[R]) -> R:
        """Carry out one bpf(2) command. Raises KernelError (NotSupportedError for what is not built)."""

    def finder(self, fd: int, key: str, value: str) -> Callable[[Any], Any] | None:
        """A function that looks keys up in a map with nothing in between, for as long as the descriptor is open.

        `key` and `value` are struct's letters of numbers, or "" for bytes. It answers with the value, None if there is none, or
        NotImplemented: then ask by bpf(), which knows why. None if this kernel has no such way, or not for this map.
        """

    def close(self, fd: int) -> None:
        """Close a descriptor that this kernel gave out; what only it held goes."""

    def mmap(self, fd: int, length: int, *, writable: bool, offset: int = 0, at: int = 0) -> Buffer:
        """Map a map's memory (array with MMAPABLE, ring buffer, perf buffer: Linux's page layout).

        With `at` it begins at that address (an arena that was made for one): NotSupportedError if something else is there.
        """

    def wait(self, fds: Sequence[int], timeout_s: float | None) -> list[int]:
        """Block until one of the descriptors (ring buffer map, perf event, trace) has something to read.

        Returns those that have (none: the time is over). On a kernel with a held command this lets it go; when the command
        has ended and all is read it raises KeyboardInterrupt, once.
        """

    def descriptors(self, fds: Sequence[int]) -> list[int] | None:
        """What a poller of this process (epoll, asyncio) can wait on for these descriptors; None where only `wait` can."""

    def perf_event_open(self, source: PerfSource, *, pid: int = -1, cpu: int = 0) -> int:
        """A perf event descriptor, disabled. NotSupportedError if this kernel has no such source."""

    def perf_set_bpf(self, event_fd: int, prog_fd: int) -> None:
        """Attach a program to a perf event and enable it."""

    def perf_enable(self, event_fd: int) -> None: ...

    def xdp_attach(self, ifindex: int, prog_fd: int, flags: int = 0) -> None:
        """Attach (or with prog_fd -1 detach) an XDP program by netlink; flags are XdpFlag."""

    def xdp_query(self, ifindex: int | None = None) -> list[XdpState]:
        """What is attached where."""

    def tc_query(self, ifindex: int | None = None) -> list[TcState]:
        """What programs the filters of traffic control have."""

    def tc_attach(self, ifindex: int, side: str, prog_fd: int, *, priority: int, handle: int, name: str) -> bool:
        """Make a direct-action filter of a program on the side "ingress" or "egress"; whether a clsact had to be made for it.

        Raises KernelError: EEXIST if there is a filter with this priority and handle.
        """

    def tc_detach(self, ifindex: int, side: str, *, priority: int, handle: int, clsact: bool) -> None:
        """Remove a filter, and (`clsact`) the clsact if no other filter is left in it."""

    def socket_attach(self, sock_fd: int, prog_fd: int, *, reuseport: bool = False) -> None:
        """Make a program a socket's filter, or (`reuseport`) the one that chooses among a group's sockets; -1 takes it off."""

    def read(self, fd: int, size: int) -> bytes:
        """Read from an iterator's descriptor; b"" at the end."""

    def interfaces(self) -> Mapping[str, int]:
        """Network interfaces by name, with their index."""

    def read_file(self, path: str) -> bytes:
        """A file of this kernel's: /sys/kernel/btf/vmlinux, /proc/kallsyms, tracefs formats. FileNotFoundError if it has none.

        The types (/sys/kernel/btf/vmlinux) of a kernel that has no structures of its own are b"".
        """

    def pin_roots(self) -> list[str] | None:
        """Where pins show as files (bpffs mounts); None on a kernel whose pins are no files."""

    def pinned(self) -> list[str]:
        """The paths of all pins."""

    def mount_pins(self) -> None:
        """Make /sys/fs/bpf a place for pins. Raises OSError where that is not allowed."""

    def unpin(self, path: str) -> None:
        """Remove a pin, as unlink(2) on bpffs does. Raises KernelError (ENOENT if there is none)."""

    def syscall_function(self, syscall: str) -> str:
        """The kernel function of a system call, "execve" -> "__x64_sys_execve"."""

    def trace_open(self) -> int:
        """A descriptor of the lines that bpf_trace_printk writes from now on (consumed by this reader alone)."""

    def trace_read(self, fd: int) -> bytes:
        """What there is to read (whole lines, b"" if nothing), without blocking; `wait` blocks."""

    def shutdown(self) -> None:
        """Detach and close everything that this kernel object gave out. Idempotent."""

    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None: ...


@record
class ReplayStats:
    """What a replay did: packets by verdict number, frames that were invalid (under 14 bytes), and its time."""

    packets: int
    verdicts: Mapping[int, int]
    invalid: int
    elapsed_ns: int
    bytes: int = 0


@record
class Command:
    """A command to run under a kernel's eyes. `argv[0]` is resolved against PATH already.

    `foreground`: make it the terminal's foreground process group. `scoped`: programs attached from now on see only its tree
    (always so on the user kernel); False is Linux's own way, every process.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = made_by(default_factory=lambda: dict(os.environ))
    foreground: bool = False
    scoped: bool = True


class Process(Protocol):
    """A spawned command, held before its exec until `release`."""

    @property
    def pid(self) -> int: ...

    interrupted: bool
    """Whether the main thread was told of the command's end by KeyboardInterrupt; whoever tells it sets this."""

    @property
    def released(self) -> bool: ...
    def release(self) -> None:
        """Let it go. Idempotent. From here on no further system call can be attached on the user kernel."""

    def poll(self) -> int | None:
        """Its exit status as a shell gives it (128 + signal), or None while it runs."""

    def wait(self) -> int:
        """Wait for its end (and that of the event loop that serves its tree, if the kernel has one)."""

    def kill(self) -> None:
        """End it by SIGKILL and reap it: for a command that is still held. Idempotent."""


@record
class Scope:
    """The processes that programs attached from now on are to see: a cgroup, and how deep it lies (the root is level 0)."""

    cgroup_id: int
    level: int


@record
class Route:
    """What bpf_fib_lookup finds for addresses in `prefix` ("10.0.0.0/8", "2001:db8::/32").

    `gateway` is the next hop ("": the address itself), `source` the address to send from, `smac` and `dmac` (6 bytes each) the next
    hop's link addresses (b"": they are not known). `mtu` is the route's (a locked one, on Linux), `link_mtu` its interface's (0: the
    same); 0 fits every packet. `result`, if not 0, is all that is answered: 1 dropped, 2 unreachable, 3 forbidden.
    """

    prefix: str
    ifindex: int = 0
    gateway: str = ""
    source: str = ""
    smac: bytes = b""
    dmac: bytes = b""
    mtu: int = 0
    link_mtu: int = 0
    metric: int = 0
    result: int = 0


class Lab(Protocol):
    """What only a laboratory kernel offers; `linux` emulates what it can and refuses the rest with NotSupportedError."""

    @property
    def system_wide(self) -> bool:
        """Whether programs can see the events of all processes, not only those of a spawned command."""

    scope: Scope | None
    """What attaching has to filter by, where the kernel shows more than the command's tree."""

    def spawn(self, command: Command) -> Process:
        """Start a command held before its exec; the events of its tree reach the programs of this kernel."""

    def function(self, prog_fd: int) -> Callable[[bytes], int]:
        """An XDP program as a Python function: a packet in, the verdict out. It ends to work with the program (ValueError)."""

    def replay(
        self, prog_fd: int, capture: "Capture", *, repeat: int = 1, sinks: Mapping[int, str] | None = None, limit: int | None = None
    ) -> ReplayStats:
        """Run an XDP program over every packet of a capture; `sinks` writes each verdict's packets to a pcap file."""

    def set_routes(self, routes: Sequence[Route]) -> None:
        """Say what bpf_fib_lookup finds from now on, in place of what was said before. Raises ValueError for what is no address."""
