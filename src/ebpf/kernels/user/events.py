"""Perf events of the user kernel: system calls as kernel functions and tracepoints, and output buffers."""

import ctypes
import errno
import mmap
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from ebpf.engine.runtime import library
from ebpf.engine.runtime.abi import Env, Perf
from ebpf.errors import KernelError, NotFoundError, NotSupportedError, near
from ebpf.kernels.user.env import own_env
from ebpf.kernels.user.hooks import ANY_CALL, Hook, Hooks, Kind
from ebpf.kernels.user.memory import Region
from ebpf.kernels.user.objects import LinkObject, Object, ProgramObject
from ebpf.sys.kernel import Kprobe, PerfOutput, PerfSource, Tracepoint, Uprobe
from ebpf.uapi import SYSCALLS, LinkType, ProgType

if TYPE_CHECKING:
    from ebpf.kernels.user.hooks import Launch
    from ebpf.kernels.user.state import State

_FUNCTION = re.compile(r"^(?:__x64_sys_|__arm64_sys_|__se_sys_|__do_sys_|sys_|ksys_)(\w+)$")
_IDENTIFIER = re.compile(r"^[A-Za-z_.][\w.]*$")


class PerfEvent(Object):
    """A perf event: a hook that waits for its program, or one CPU's output buffer."""

    def __init__(self, source: PerfSource, hook: tuple[int, Kind, bool] | None) -> None:
        super().__init__()
        self.source = source
        self.hook = hook
        self.link: LinkObject | None = None
        #: Whether it has a program, by the descriptor or by a link.
        self.taken = False
        self.perf: Perf | None = None
        self._region: Region | None = None
        if isinstance(source, PerfOutput):
            self.event_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def view(self, length: int, offset: int) -> memoryview:
        """The output buffer's pages: the first mapping makes them."""
        pages = length // mmap.PAGESIZE - 1
        if not isinstance(self.source, PerfOutput) or offset or pages < 1 or pages & (pages - 1):
            raise KernelError(errno.EINVAL, "mmap", "a perf buffer is mapped from 0: one page and a power of two of pages")
        if self._region is None:
            self._region = Region(length, "perf")
            self.perf = Perf(self._region.address, length - mmap.PAGESIZE, 0, 0, self.event_fd)
            library().rt_perf_init(ctypes.byref(self.perf))
        return self._region.view(length)

    def files(self, length: int, offset: int) -> list[tuple[int, int, int, bool]]:
        """The same as pieces of files, for a client to map: (fd, offset, length, writable)."""
        self.view(length, offset)
        assert self._region is not None
        if length > self._region.size:
            raise KernelError(errno.EINVAL, "mmap", f"the buffer has {self._region.size} bytes")
        return [(self._region.fd, 0, length, True)]

    def readable(self) -> bool:
        """Whether the output buffer has records."""
        if self._region is None:
            return False
        view = self._region.view(16, 1024)
        return view[:8] != view[8:16]

    def holds(self) -> list[Object]:
        """The attachment's program."""
        return [self.link.program] if self.link is not None else []

    def destroy(self) -> None:
        """Detach, and give the buffer back."""
        if self.link is not None:
            self.link.detach()
        if self._region is not None:
            self._region.close()
            self._region = None
        if self.event_fd >= 0:
            os.close(self.event_fd)
            self.event_fd = -1


def syscall_function(call: str) -> str:
    """The function of a system call, named as on Linux."""
    return f"__x64_sys_{call}" if os.uname().machine == "x86_64" else f"__arm64_sys_{call}"


class Events:
    """All hooks of a kernel."""

    def __init__(self, state: "State") -> None:
        self._state = state
        self.hooks = Hooks()
        self.env: Env = own_env(state.trace.address, state.possible_cpus)
        state.grace.watch_lasting(self.env)

    # -- opening

    def open(self, source: PerfSource, *, pid: int, cpu: int) -> PerfEvent:
        """An event."""
        del pid, cpu
        if isinstance(source, PerfOutput):
            return PerfEvent(source, None)
        if isinstance(source, Kprobe):
            return PerfEvent(source, (self._function(source), Kind.KPROBE, source.ret))
        if isinstance(source, Tracepoint):
            nr, on_exit = self._tracepoint(source)
            return PerfEvent(source, (nr, Kind.TRACEPOINT, on_exit))
        if isinstance(source, Uprobe):
            raise NotSupportedError(f"uprobe {source.path}", "functions of processes are not hooked yet", hint="Run with --kernel linux")
        raise NotSupportedError("perf event", "the user kernel counts nothing of the machine", hint="Run with --kernel linux")

    def _number(self, call: str) -> int | None:
        return SYSCALLS[os.uname().machine].get(call)

    def _function(self, source: Kprobe) -> int:
        """The number of the system call that a kernel function serves."""
        name = source.function
        found = _FUNCTION.match(name)
        number = self._number(found[1]) if found else None
        if number is not None and not source.offset:
            return number
        if found or not _IDENTIFIER.match(name):
            calls = SYSCALLS[os.uname().machine]
            like = near(found[1] if found else name, calls)
            raise NotFoundError("kernel function", name, near=[syscall_function(n) for n in like])
        kind = "kretprobe" if source.ret else "kprobe"
        raise NotSupportedError(
            f"{kind} '{name}{f'+{source.offset}' if source.offset else ''}'",
            "is inside the kernel: user space cannot see it (it sees system calls, such as " + syscall_function("execve") + ")",
            hint="Run with --kernel linux",
        )

    def _tracepoint(self, source: Tracepoint) -> tuple[int, bool]:
        name = f"{source.category}:{source.name}"
        if source.category == "raw_syscalls" and source.name in ("sys_enter", "sys_exit"):
            raise NotSupportedError(f"tracepoint '{name}'", "every call of a process would stop; it is not built yet", hint="Name one call")
        if source.category != "syscalls":
            raise NotSupportedError(
                f"tracepoint '{name}'", "is inside the kernel: user space sees the syscalls:* tracepoints", hint="Run with --kernel linux"
            )
        for prefix, on_exit in (("sys_enter_", False), ("sys_exit_", True)):
            if source.name.startswith(prefix):
                number = self._number(source.name[len(prefix) :])
                if number is not None:
                    return number, on_exit
        calls = SYSCALLS[os.uname().machine]
        like = near(source.name.removeprefix("sys_enter_").removeprefix("sys_exit_"), calls)
        raise NotFoundError("tracepoint", name, near=[f"syscalls:sys_enter_{n}" for n in like])

    # -- attaching

    def attach(self, event: PerfEvent, program: ProgramObject, process: "Launch | None") -> None:
        """Put a program on an event. `process` is the command that was spawned under this kernel, if there is one."""
        event.link = self._put(event, program, process, "ioctl(PERF_EVENT_IOC_SET_BPF)")
        self._state.registry.hold(program)

    def link(self, event: PerfEvent, program: ProgramObject, process: "Launch | None", cookie: int) -> LinkObject:
        """The same by a link, which holds the event; the program can ask for the number."""
        return self._put(event, program, process, "bpf(LINK_CREATE)", cookie, event)

    def _put(
        self,
        event: PerfEvent,
        program: ProgramObject,
        process: "Launch | None",
        call: str,
        cookie: int = 0,
        holds: PerfEvent | None = None,
    ) -> LinkObject:
        if event.hook is None:
            raise KernelError(errno.EINVAL, call, "an output buffer takes no program")
        if event.taken:
            raise KernelError(errno.EEXIST, call, "the event has a program")
        number, kind, on_exit = event.hook
        wanted = ProgType.TRACEPOINT if kind == Kind.TRACEPOINT else ProgType.KPROBE
        if program.program.call.prog_type != wanted:
            raise KernelError(errno.EINVAL, call, f"this event takes {wanted.name.lower()} programs")
        if not program.program.entry:
            raise NotSupportedError(
                "hooking system calls", "the interpreter cannot serve other processes", hint="unset EBPF_ENGINE: it needs machine code"
            )
        remove = self._hook(Hook(number, kind, on_exit, program.program.entry, cookie), process)
        event.taken = True

        def undo() -> None:
            event.taken = False
            remove()

        return LinkObject(program, int(LinkType.PERF_EVENT), {**_detail(event.source), "cookie": cookie}, undo, event=holds)

    def raw_tracepoint(self, name: str, program: ProgramObject) -> LinkObject:
        """A raw tracepoint: none is served yet."""
        del program
        raise NotSupportedError(
            f"raw tracepoint '{name}'", "is inside the kernel: user space sees single system calls", hint="Run with --kernel linux"
        )

    def _hook(self, hook: Hook, process: "Launch | None") -> Callable[[], None]:
        """Hook a system call; the answer undoes it."""
        if process is not None and process.released and not process.collected:
            late = hook.nr not in process.calls and ANY_CALL not in process.calls
            if late or (hook.on_exit and not process.traced):
                raise NotSupportedError(
                    "attach",
                    "the command was let go, and its filter does not stop this system call: attach before the script first waits",
                )
        ticket = self.hooks.add(hook)
        running = self._state.running

        def undo() -> None:
            self.hooks.remove(ticket)
            if running is not None:
                running.update(self.hooks)

        if running is not None:
            try:
                running.update(self.hooks)
            except BaseException:
                undo()
                raise
        return undo

    def close(self) -> None:
        """Detach everything."""
        for place in range(self.hooks.table.count):
            self.hooks.remove(place)


def _detail(source: PerfSource) -> dict[str, int | str]:
    """What a link on an event tells of it."""
    if isinstance(source, Kprobe):
        return {"event": "kretprobe" if source.ret else "kprobe", "func": source.function, "offset": source.offset, "addr": 0, "missed": 0}
    if isinstance(source, Tracepoint):
        return {"event": "tracepoint", "tracepoint": source.name}
    return {"event": "event"}
