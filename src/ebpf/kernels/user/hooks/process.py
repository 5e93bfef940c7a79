"""A command that is held before its exec, let go under a filter, and served by a native loop until its tree is gone."""

import ctypes
import errno
import mmap
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from ebpf.engine.runtime import library
from ebpf.engine.runtime.abi import Env
from ebpf.errors import NotSupportedError
from ebpf.kernels.user.hooks.hooks import ANY_CALL, Hooks
from ebpf.kernels.user.hooks.seccomp import build_filter
from ebpf.kernels.user.memory import address_of
from ebpf.sys.kernel import Command

_GO, _STOP = b"g", b"s"


class Launch:
    """A spawned command. `pid` exists from the beginning; its program begins at release()."""

    def __init__(self, pid: int, pipe: int, gate: mmap.mmap, hooks: Hooks, env: Env, *, foreground: bool) -> None:
        self.pid = pid
        self.released = False
        self.interrupted = False
        self.calls: frozenset[int] = frozenset()
        self._pipe = pipe
        self._gate = gate
        self._hooks = hooks
        self._env = env
        self._pidfd = os.pidfd_open(pid)
        self._listener = -1
        self._thread: threading.Thread | None = None
        self._status: int | None = None
        self.traced = False
        self._foreground = foreground
        self._terminal: int | None = None

    # -- letting go

    def release(self) -> None:
        """Let the command go, under a filter for what is hooked now. Idempotent."""
        if self.released:
            return
        self.released = True
        if self._foreground:
            self._to_foreground()
        self.calls = frozenset(self._hooks.calls())
        everything = ANY_CALL in self.calls
        notify = not self._hooks.wants_exits()
        filter_ = b""
        if self.calls:
            filter_ = build_filter(self.calls - {ANY_CALL}, os.uname().machine, notify=notify, everything=everything)
        if self.calls and not notify:
            self._trace(filter_)
        else:
            self._send(filter_, notify=True)
            if self.calls:
                self._listener = self._take_listener()
                loop = library().rt_notify_loop
                self._serve(lambda: loop(self._listener, ctypes.c_void_p(self._hooks.address), ctypes.byref(self._env)))
                self._gate[4:8] = b"\x01\0\0\0"

    def _send(self, filter_: bytes, *, notify: bool) -> None:
        try:
            os.write(self._pipe, _GO + (b"n" if notify else b"t") + len(filter_).to_bytes(4, "little") + filter_)
        except BrokenPipeError:
            # It was killed while it was held: wait() tells.
            return
        finally:
            os.close(self._pipe)
            self._pipe = -1

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
            if self._ended_now():
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
            self._send(b"", notify=True)
            raise NotSupportedError("hooking exits of system calls", f"ptrace is refused here ({os.strerror(failed[0]).lower()})")
        self._send(filter_, notify=False)

    # -- its end

    def _ended_now(self) -> bool:
        return self.poll() is not None

    def poll(self) -> int | None:
        """The exit status as a shell gives it, None while the command runs."""
        if self._status is not None:
            return self._status
        if self.traced:
            if self._hooks.table.ended:
                self._status = _shell_status(self._hooks.table.status)
        else:
            with suppress(ChildProcessError):
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid == self.pid:
                    self._status = _shell_status(status)
        if self._status is not None:
            self._to_background()
        return self._status

    def descriptor(self) -> int:
        """A descriptor that can be read when the command has ended."""
        return self._pidfd

    def wait(self) -> int:
        """Wait for the command's end."""
        self.release()
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        while self.poll() is None:
            poller.poll(20 if self.traced else None)
        if self.traced and self._thread is not None:
            # Who is traced dies with its tracer: stay for what the command left in the background.
            self._thread.join()
        assert self._status is not None
        return self._status

    def kill(self) -> None:
        """End a held command."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.released = True
            if self._pipe >= 0:
                os.close(self._pipe)
                self._pipe = -1
            with suppress(ChildProcessError):
                self._status = _shell_status(os.waitpid(self.pid, 0)[1])

    def close(self) -> None:
        """Leave: processes that are still under the filter get an heir who lets all their calls pass."""
        if self._listener >= 0 and self._thread is not None and self._thread.is_alive():
            heir = library().rt_notify_heir(self._listener)
            if heir > 0:
                with suppress(ChildProcessError):
                    os.waitpid(heir, 0)
        self._to_background()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    # -- the terminal

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
    # Who is in the background may not change the terminal's group, unless it ignores the signal for that.
    if threading.current_thread() is not threading.main_thread():
        return
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    with suppress(OSError):
        os.tcsetpgrp(terminal, group)
    signal.signal(signal.SIGTTOU, before)


def _shell_status(status: int) -> int:
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


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
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(write_end)
            _child(lib, command, read_end, address)
        finally:
            os._exit(127)
    os.close(read_end)
    return Launch(pid, write_end, gate, hooks, env, foreground=command.foreground)


def _child(lib: ctypes.CDLL, command: Command, pipe: int, gate: int) -> None:
    """The child: wait to be let go, then filter and exec. Never returns to Python's callers."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTTOU):
        signal.signal(number, signal.SIG_DFL)
    head = b""
    while len(head) < 6:
        part = os.read(pipe, 6 - len(head))
        if not part:
            os._exit(127)
        head += part
    size, filter_ = int.from_bytes(head[2:6], "little"), b""
    while len(filter_) < size:
        filter_ += os.read(pipe, size - len(filter_))
    if command.foreground:
        with suppress(OSError):
            os.setpgid(0, 0)
    words = [os.fsencode(w) for w in command.argv]
    argv = (ctypes.c_char_p * (len(words) + 1))(*words, None)
    pairs = [os.fsencode(f"{k}={v}") for k, v in command.env.items()]
    envp = (ctypes.c_char_p * (len(pairs) + 1))(*pairs, None)
    result = lib.rt_child_exec(
        ctypes.create_string_buffer(filter_, max(size, 1)), size // 8, int(head[1:2] == b"n"), ctypes.c_void_p(gate), words[0], argv, envp
    )
    os.write(2, f"ebpf: {command.argv[0]}: {os.strerror(-result)}\n".encode())
    os._exit(127 if -result == errno.ENOENT else 126)
