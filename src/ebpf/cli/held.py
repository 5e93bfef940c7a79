"""A command held beside a script: when to let it go, and what its end means for the script."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self, SupportsIndex

from ebpf.sys.kernel import Command, Kernel, Process

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
# A main thread that is seen in the same wait this often, this far apart, is blocked: once it has a BPF object, and before.
# Seen so often outside of this package after the command ended, it neither reads nor sleeps: it is interrupted.
_LOOK_S = 0.05
_LOOKS = 10
_LOOKS_BEFORE = 100


class Watch:
    """The held command of `ebpf run`. Entering spawns it; leaving kills it if it was never let go.

    The script is known to block when it waits on the kernel (the kernel lets go by itself), calls time.sleep or signal.pause,
    or when its main thread is seen in one wait for half a second (for five, while it has made no BPF object yet).
    """

    def __init__(self, kernel: Kernel, argv: list[str], *, scoped: bool = True) -> None:
        terminal = sys.stdin.isatty() and sys.stderr.isatty()
        self._kernel = kernel
        self._command = Command(tuple(argv), foreground=terminal, scoped=scoped)
        self._sleep = time.sleep
        self._pause = getattr(signal, "pause", None)
        #: Whether the script has made a BPF object; its owner sets it.
        self.begun: Callable[[], bool] = lambda: True
        self._finished = threading.Event()
        self._blocking = threading.Event()

    def __enter__(self) -> Self:
        self.process: Process = self._kernel.lab.spawn(self._command)
        # A shell's background jobs begin with SIGINT ignored; here it is how a script learns of the command's end.
        self._ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        if self._ignored:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        time.sleep = self._patched_sleep
        if self._pause is not None:
            signal.pause = self._patched_pause
        self._main, self._ident = threading.get_native_id(), threading.get_ident()
        self._thread = threading.Thread(target=self._look, name="ebpf-run", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._finished.set()
        if self._ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        time.sleep = self._sleep
        if self._pause is not None:
            signal.pause = self._pause
        if not self.process.released:
            self.process.kill()

    def finish(self) -> int:
        """The script has ended: let the command finish and return its exit status."""
        self._finished.set()
        self.process.release()
        while True:
            try:
                return self.process.wait()
            except KeyboardInterrupt:
                # Ctrl-C went to the command too, as it shares the terminal; it decides whether to end.
                continue

    def _patched_sleep(self, seconds: SupportsIndex | float, /) -> None:
        """time.sleep for the script: the command runs meanwhile, and its end is an interrupt.

        Not where a thread beside sleeps, nor where this package or subprocess does while it waits for a program.
        """
        caller = sys._getframe(1)
        beside = threading.current_thread() is not threading.main_thread()
        if beside or caller.f_globals.get("__name__") == "subprocess" or _in_our_code(caller):
            self._sleep(float(seconds))
        else:
            self._sleep_beside(float(seconds))

    def _sleep_beside(self, seconds: float) -> None:
        self.process.release()
        self._blocking.set()
        try:
            deadline = time.monotonic() + seconds
            while (left := deadline - time.monotonic()) > 0:
                if self.process.poll() is not None:
                    self._interrupt_once()
                    self._sleep(left)
                    return
                self._sleep(min(left, 0.02))
        finally:
            self._blocking.clear()

    def _patched_pause(self) -> None:
        self._sleep_beside(float(threading.TIMEOUT_MAX))

    def _interrupt_once(self) -> None:
        if not self.process.interrupted:
            self.process.interrupted = True
            raise KeyboardInterrupt

    def _look(self) -> None:
        """Beside the script: see it block, and tell it of the command's end if nothing else does."""
        before, looks = None, 0
        while not self._finished.wait(_LOOK_S):
            if self.process.released:
                break
            now = None if _in_our_code(sys._current_frames().get(self._ident)) else self._asleep()
            looks = looks + 1 if now is not None and now == before else 0
            before = now
            if looks >= (_LOOKS if self.begun() else _LOOKS_BEFORE):
                self.process.release()
        while not self._finished.wait(_LOOK_S):
            if self.process.poll() is not None:
                break
        looks = 0
        while not self._finished.wait(_LOOK_S) and not self.process.interrupted:
            # Who reads what the command left, or handles it, is told by the kernel when there is no more.
            busy = self._blocking.is_set() or _in_our_code(sys._current_frames().get(self._ident))
            looks = 0 if busy else looks + 1
            if looks >= _LOOKS:
                self.process.interrupted = True
                # A real signal, so that a system call that blocks is left too.
                signal.pthread_kill(self._ident, signal.SIGINT)

    def _asleep(self) -> tuple[str, str] | None:
        """How the main thread sleeps: its processor time and, in a lock's wait, how often it slept. None if it could run.

        Who waits for the interpreter's lock sleeps too, but wakes every few milliseconds; who could run and finds the
        processors taken is not blocked, nor is who waits for a disk.
        """
        task = f"/proc/self/task/{self._main}"
        try:
            with open(f"{task}/stat", encoding="ascii", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
            if fields[0] != "S":
                return None
            with open(f"{task}/wchan", encoding="ascii") as file:
                where = file.read()
            # Kernels without symbols say "0" for every wait.
            if where != "0" and not where.startswith("futex"):
                return f"{fields[11]} {fields[12]}", where
            with open(f"{task}/status", encoding="ascii", errors="replace") as file:
                slept = next((line for line in file if line.startswith("voluntary")), "")
        except OSError:
            return None
        return f"{fields[11]} {fields[12]}", slept


def _in_our_code(frame: FrameType | None) -> bool:
    """Whether this package was called by the script and has not returned (it waits for the compiler, say)."""
    while frame is not None and "runpy" not in frame.f_code.co_filename:
        if frame.f_code.co_filename.startswith(_PACKAGE):
            return True
        frame = frame.f_back
    return False
