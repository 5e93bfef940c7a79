"""Linux's kernel behind the seam."""

import errno
import mmap as mapping
import os
import select
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from ebpf.errors import KernelError, NotSupportedError
from ebpf.kernels.linux.codec import BY_TOKEN, COMMANDS
from ebpf.kernels.linux.links import LINK_COMMANDS
from ebpf.kernels.linux.syscall import attach_to_socket, mount_bpffs, numbers, syscall_function
from ebpf.sys.calls import Call, R
from ebpf.sys.kernel import Buffer, PerfSource, TcState, XdpState


class Mapped:
    """Memory of a descriptor, mapped."""

    def __init__(self, memory: mapping.mmap) -> None:
        self._memory = memory
        self.view = memoryview(memory)

    def close(self) -> None:
        """Unmap. Views that are still held keep it. Idempotent."""
        self.view.release()
        with suppress(BufferError):
            self._memory.close()


if TYPE_CHECKING:
    from ebpf.kernels.linux.lab import LinuxLab
    from ebpf.kernels.linux.tracefs import TraceInstance


class LinuxKernel:
    """The running kernel. What it gave out and is still open at shutdown() is closed.

    `token` is the path of a bpffs that lends the use of bpf(2) to this user namespace; LIBBPF_BPF_TOKEN_PATH names one as well.
    """

    name = "linux"
    lasting = True

    def __init__(self, *, token: str = "") -> None:
        numbers()
        self.possible_cpus = _possible_cpus()
        self._open: set[int] = set()
        self._traces: dict[int, TraceInstance] = {}
        self._opened = 0
        self._pid = os.getpid()
        self._token = 0
        if path := token or os.environ.get("LIBBPF_BPF_TOKEN_PATH"):
            from ebpf.kernels.linux.token import open_token

            self._token = open_token(path)
            self._open.add(self._token)

    @cached_property
    def lab(self) -> "LinuxLab":
        """What a laboratory is where it can be one."""
        from ebpf.kernels.linux.lab import LinuxLab

        return LinuxLab(self)

    # -- bpf(2)

    def bpf(self, call: Call[R]) -> R:
        """Carry out one command."""
        handler: Callable[..., Any] | None = COMMANDS.get(type(call)) or LINK_COMMANDS.get(type(call))
        if handler is None:
            raise NotSupportedError(f"bpf({call.cmd.name})", "is not built yet")
        answer: Any = handler(call, self._token) if self._token and type(call) in BY_TOKEN else handler(call)
        if type(call).__name__ in _GIVES_FD:
            self._open.add(answer.fd if hasattr(answer, "fd") else answer)
        return cast(R, answer)

    def finder(self, fd: int, key: str, value: str) -> None:
        """None: a look-up is a call to the other side."""

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        trace = self._traces.pop(fd, None)
        if trace is not None:
            trace.close()
            return
        self._open.discard(fd)
        try:
            os.close(fd)
        except OSError as error:
            raise KernelError(error.errno or errno.EBADF, "close", f"descriptor {fd}") from error

    def mmap(self, fd: int, length: int, *, writable: bool, offset: int = 0, at: int = 0) -> Buffer:
        """Map a map's or perf event's memory."""
        if at:
            from ebpf.sys import mapped

            return mapped.Mapped(mapped.Stretch([(fd, offset, length, writable)], at), length)
        access = mapping.PROT_READ | (mapping.PROT_WRITE if writable else 0)
        try:
            return Mapped(mapping.mmap(fd, length, flags=mapping.MAP_SHARED, prot=access, offset=offset))
        except OSError as error:
            raise KernelError(error.errno or errno.EINVAL, "mmap") from error

    def wait(self, fds: Sequence[int], timeout_s: float | None) -> list[int]:
        """Wait until a descriptor has something to read; lets a held command go first."""
        self.lab.release()
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            over = self.lab.ended()
            poller = select.poll()
            for fd in fds:
                poller.register(fd, select.POLLIN)
            for fd in [] if over else self.lab.descriptors():
                poller.register(fd, select.POLLIN)
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            # Lines of a trace reach its pipe a little after the event: the mark comes behind what the command's end left.
            waiting = over and self._unflushed(fds)
            budget = 0.05 if waiting else 0.0 if over and not self.lab.told() else left
            ready = [fd for fd, _ in poller.poll(None if budget is None else budget * 1000) if fd in fds]
            if ready:
                return ready
            if over and not waiting and self.lab.interrupt():
                raise KeyboardInterrupt
            if deadline is not None and time.monotonic() >= deadline:
                return []

    def _unflushed(self, fds: Sequence[int]) -> bool:
        """Whether lines of a trace may still be under way (for a while: a trace that is full takes no mark)."""
        traces = [self._traces[fd] for fd in fds if fd in self._traces]
        for trace in traces:
            trace.flush()
        return self.lab.just_ended() and not all(trace.flushed for trace in traces)

    # -- events

    def descriptors(self, fds: Sequence[int]) -> list[int] | None:
        """They are what they are."""
        return list(fds)

    def perf_event_open(self, source: PerfSource, *, pid: int = -1, cpu: int = 0) -> int:
        """Open a perf event."""
        from ebpf.kernels.linux import perf

        fd = perf.open_event(source, pid=pid, cpu=cpu)
        self._open.add(fd)
        return fd

    def perf_set_bpf(self, event_fd: int, prog_fd: int) -> None:
        """Attach a program to an event."""
        from ebpf.kernels.linux import perf

        perf.set_bpf(event_fd, prog_fd)

    def perf_enable(self, event_fd: int) -> None:
        """Enable an event."""
        from ebpf.kernels.linux import perf

        perf.enable(event_fd)

    def xdp_attach(self, ifindex: int, prog_fd: int, flags: int = 0) -> None:
        """Attach (-1: detach) an XDP program."""
        from ebpf.kernels.linux import netlink

        netlink.xdp_attach(ifindex, prog_fd, flags)

    def xdp_query(self, ifindex: int | None = None) -> list[XdpState]:
        """What is attached where."""
        from ebpf.kernels.linux import netlink

        return netlink.xdp_query(ifindex)

    def tc_query(self, ifindex: int | None = None) -> list[TcState]:
        """What programs the filters of traffic control have."""
        from ebpf.kernels.linux import netlink

        names = {index: name for name, index in self.interfaces().items() if ifindex in (None, index)}
        return [state for index, name in sorted(names.items()) for state in netlink.tc_query(index, name)]

    def tc_attach(self, ifindex: int, side: str, prog_fd: int, *, priority: int, handle: int, name: str) -> bool:
        """Make a filter of a program."""
        from ebpf.kernels.linux import netlink

        return netlink.tc_attach(ifindex, side, prog_fd, priority=priority, handle=handle, name=name)

    def tc_detach(self, ifindex: int, side: str, *, priority: int, handle: int, clsact: bool) -> None:
        """Remove a filter."""
        from ebpf.kernels.linux import netlink

        netlink.tc_detach(ifindex, side, priority=priority, handle=handle, clsact=clsact)

    def socket_attach(self, sock_fd: int, prog_fd: int, *, reuseport: bool = False) -> None:
        """Make a program a socket's filter, or its group's chooser."""
        attach_to_socket(sock_fd, prog_fd, reuseport=reuseport)

    def read(self, fd: int, size: int) -> bytes:
        """Read from an iterator."""
        try:
            return os.read(fd, size)
        except OSError as error:
            raise KernelError(error.errno or errno.EIO, "read", f"descriptor {fd}") from error

    def interfaces(self) -> Mapping[str, int]:
        """The interfaces of this network namespace."""
        import socket

        return {name: index for index, name in socket.if_nameindex()}

    def read_file(self, path: str) -> bytes:
        """A file of the kernel's."""
        with open(path, "rb") as file:
            return file.read()

    def syscall_function(self, syscall: str) -> str:
        """The kernel function of a system call."""
        return syscall_function(syscall)

    def pin_roots(self) -> list[str] | None:
        """Where a bpffs is mounted."""
        text = self.read_file("/proc/self/mountinfo").decode(errors="replace")
        return [line.split()[4] for line in text.splitlines() if line.partition(" - ")[2].startswith("bpf ")]

    def pinned(self) -> list[str]:
        """The paths of all pins that this process sees."""
        walks = (os.walk(root) for root in self.pin_roots() or ())
        return [os.path.join(folder, name) for walk in walks for folder, _, names in walk for name in sorted(names)]

    def mount_pins(self) -> None:
        """Mount a bpffs at its usual place."""
        mount_bpffs("/sys/fs/bpf")

    def unpin(self, path: str) -> None:
        """Remove a pin."""
        try:
            os.unlink(path)
        except OSError as error:
            raise KernelError(error.errno or errno.EIO, "unlink", path) from error

    # -- trace

    def trace_open(self) -> int:
        """Begin to receive what bpf_trace_printk writes, in an instance of our own."""
        from ebpf.kernels.linux.tracefs import TraceInstance

        self._opened += 1
        instance = TraceInstance(self._opened)
        self._traces[instance.fd] = instance
        return instance.fd

    def trace_read(self, fd: int) -> bytes:
        """Take the lines that there are."""
        if fd not in self._traces:
            raise KernelError(errno.EBADF, "read trace_pipe", f"descriptor {fd}")
        return self._traces[fd].read()

    # -- end

    def shutdown(self) -> None:
        """Close whatever is still open. Idempotent."""
        if os.getpid() != self._pid:
            return
        if "lab" in self.__dict__:
            self.lab.close()
        for instance in self._traces.values():
            instance.close()
        self._traces.clear()
        for fd in self._open:
            with suppress(OSError):
                os.close(fd)
        self._open.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.shutdown()


_GIVES_FD = frozenset(
    {"MapCreate", "ProgLoad", "ObjGet", "FdById", "BtfLoad", "RawTracepointOpen", "LinkCreate", "IterCreate", "EnableStats"}
)


def _possible_cpus() -> int:
    try:
        with open("/sys/devices/system/cpu/possible", encoding="ascii") as file:
            return int(file.read().strip().rpartition("-")[2].rpartition(",")[2]) + 1
    except (OSError, ValueError):
        return os.cpu_count() or 1
