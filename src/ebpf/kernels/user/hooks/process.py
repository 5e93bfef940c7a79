"""A command that is held before its exec, let go under a filter, and served by a native loop until its tree is gone."""

import ctypes
import errno
import mmap
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from ebpf.engine.runtime import library
from ebpf.engine.runtime.abi import Env
from ebpf.errors import NotSupportedError
from ebpf.kernels.user.hooks.hooks import ANY_CALL, Hooks
from ebpf.kernels.user.hooks.seccomp import build_filter
from ebpf.kernels.user.memory import address_of
from ebpf.sys.held import HeldCommand, fork_held, own_group
from ebpf.sys.kernel import Command


class Launch(HeldCommand):
    """A spawned command. `calls` are the system calls that its filter stops, `traced` whether exits are seen too."""

    def __init__(self, pid: int, pipe: int, gate: mmap.mmap, hooks: Hooks, env: Env, *, foreground: bool) -> None:
        super().__init__(pid, pipe, foreground=foreground)
        self.calls: frozenset[int] = frozenset()
        self.traced = False
        self._gate = gate
        self._hooks = hooks
        self._env = env
        self._listener = -1
        self._thread: threading.Thread | None = None

    # -- letting go

    def _let_go(self) -> None:
        """Let the command go, under a filter for what is hooked now."""
        self.calls = frozenset(self._hooks.calls())
        everything = ANY_CALL in self.calls
        notify = not self._hooks.wants_exits()
        filter_ = b""
        if self.calls:
            filter_ = build_filter(self.calls - {ANY_CALL}, os.uname().machine, notify=notify, everything=everything)
        if self.calls and not notify:
            self._trace(filter_)
            return
        self._send_filter(filter_, notify=True)
        if self.calls:
            self._listener = self._take_listener()
            loop = library().rt_notify_loop
            self._serve(lambda: loop(self._listener, ctypes.c_void_p(self._hooks.address), ctypes.byref(self._env)))
            self._gate[4:8] = b"\x01\0\0\0"

    def _send_filter(self, filter_: bytes, *, notify: bool) -> None:
        self._send(b"g" + (b"n" if notify else b"t") + len(filter_).to_bytes(4, "little") + filter_)

    def _serve(self, loop: Callable[[], None]) -> None:
        # The loop holds no GIL: it goes on whatever the script does.
        self._thread = threading.Thread(target=loop, name="ebpf-syscalls", daemon=True)
        self._thread.start()

    def _take_listener(self) -> int:
        """The child's notification descriptor: its number stands in shared memory, and the child makes no call meanwhile."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            number = int.from_bytes(self._gate[0:4], "little")
            if number:
                return _pidfd_getfd(self._pidfd, number - 1)
            if self.poll() is not None:
                break
            time.sleep(0.0001)
        raise NotSupportedError(
            "hooking system calls", "seccomp user notification is refused on this system", hint="It needs Linux 5.9 or later"
        )

    def _trace(self, filter_: bytes) -> None:
        """Entries and exits: one thread seizes the child, lets it go, and serves its tree."""
        self.traced = True
        ready = threading.Event()
        failed: list[int] = []

        def loop() -> None:
            lib = library()
            result = lib.rt_trace_seize(self.pid)
            if result:
                failed.append(-result)
            ready.set()
            if not result:
                lib.rt_trace_loop(self.pid, ctypes.c_void_p(self._hooks.address), ctypes.byref(self._env))

        self._serve(loop)
        ready.wait()
        if failed:
            self._send_filter(b"", notify=True)
            raise NotSupportedError("hooking exits of system calls", f"ptrace is refused here ({os.strerror(failed[0]).lower()})")
        self._send_filter(filter_, notify=False)

    # -- its end

    def _reap(self) -> int | None:
        # Whoever traces a child of this process is told of its end, and its parent is not.
        if self.traced:
            return int(self._hooks.table.status) if self._hooks.table.ended else None
        return super()._reap()

    def wait(self) -> int:
        """Wait for the command's end, and with hooks at exits for all that it left in the background."""
        status = super().wait()
        if self.traced and self._thread is not None:
            # Who is traced dies with its tracer.
            self._thread.join()
        return status

    def close(self) -> None:
        """Leave: processes that are still under the filter get an heir who lets all their calls pass."""
        if self._listener >= 0 and self._thread is not None and self._thread.is_alive():
            heir = library().rt_notify_heir(self._listener)
            if heir > 0:
                with suppress(ChildProcessError):
                    os.waitpid(heir, 0)
        super().close()


def _pidfd_getfd(pidfd: int, number: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(438, pidfd, number, 0)
    if fd < 0:
        why = os.strerror(ctypes.get_errno()).lower()
        raise NotSupportedError("hooking system calls", f"pidfd_getfd is refused here ({why})", hint="It needs Linux 5.6 or later")
    return int(fd)


def launch(command: Command, hooks: Hooks, env: Env) -> Launch:
    """Fork a command and hold it. Call this before threads exist."""
    lib = library()
    gate = mmap.mmap(-1, mmap.PAGESIZE)
    address = address_of(gate)
    pid, pipe = fork_held(command, lambda asked, read_end: _child(lib, asked, read_end, address))
    return Launch(pid, pipe, gate, hooks, env, foreground=command.foreground)


def _child(lib: ctypes.CDLL, command: Command, pipe: int, gate: int) -> NoReturn:
    """The child: wait to be let go, then filter and exec. Never returns to Python's callers."""
    head = b""
    while len(head) < 6:
        part = os.read(pipe, 6 - len(head))
        if not part:
            os._exit(127)
        head += part
    size, filter_ = int.from_bytes(head[2:6], "little"), b""
    while len(filter_) < size:
        filter_ += os.read(pipe, size - len(filter_))
    own_group(command)
    words = [os.fsencode(w) for w in command.argv]
    argv = (ctypes.c_char_p * (len(words) + 1))(*words, None)
    pairs = [os.fsencode(f"{k}={v}") for k, v in command.env.items()]
    envp = (ctypes.c_char_p * (len(pairs) + 1))(*pairs, None)
    result = lib.rt_child_exec(
        ctypes.create_string_buffer(filter_, max(size, 1)), size // 8, int(head[1:2] == b"n"), ctypes.c_void_p(gate), words[0], argv, envp
    )
    os.write(2, f"ebpf: {command.argv[0]}: {os.strerror(-result)}\n".encode())
    os._exit(127 if -result == errno.ENOENT else 126)
