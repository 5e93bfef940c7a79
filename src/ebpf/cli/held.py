"""A command held beside a script: when to let it go, and what its end means for the script."""

import os
import signal
import sys
import threading
import time
from types import TracebackType
from typing import Any, Self, SupportsIndex

from ebpf.sys.kernel import Command, Kernel, Process

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
# A main thread that sleeps this long without using the processor is taken to be blocked.
_IDLE_S = 0.5
# How long a script that neither reads nor sleeps may go on after its command ended.
_GRACE_S = 0.5


class Watch:
    """The held command of `ebpf run`. Entering spawns it; leaving kills it if it was never let go.

    The script is known to block when it waits on the kernel (the kernel lets go by itself), calls time.sleep or signal.pause,
    or when its main thread is seen asleep for half a second.
    """

    def __init__(self, kernel: Kernel, argv: list[str], *, scoped: bool = True) -> None:
        terminal = sys.stdin.isatty() and sys.stderr.isatty()
        self._kernel = kernel
        self._command = Command(tuple(argv), foreground=terminal, scoped=scoped)
        self._sleep = time.sleep
        self._pause = getattr(signal, "pause", None)
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
        self._main = threading.get_native_id()
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
        """time.sleep for the script: the command runs meanwhile, and its end is an interrupt."""
        self.process.release()
        self._blocking.set()
        try:
            deadline = time.monotonic() + float(seconds)
            while (left := deadline - time.monotonic()) > 0:
                if self.process.poll() is not None:
                    self._interrupt_once()
                    self._sleep(left)
                    return
                self._sleep(min(left, 0.02))
        finally:
            self._blocking.clear()

    def _patched_pause(self) -> None:
        self._patched_sleep(float(threading.TIMEOUT_MAX))

    def _interrupt_once(self) -> None:
        if not self.process.interrupted:
            self.process.interrupted = True
            raise KeyboardInterrupt

    def _look(self) -> None:
        """Beside the script: see it block, and tell it of the command's end if nothing else does."""
        before, since = self._cpu(), time.monotonic()
        while not self._finished.wait(0.05):
            if self.process.released:
                break
            now = self._cpu()
            if now != before or self._in_our_code():
                before, since = now, time.monotonic()
            elif time.monotonic() - since > _IDLE_S:
                self.process.release()
        while not self._finished.wait(0.05):
            if self.process.poll() is not None:
                break
        if not (self._finished.wait(_GRACE_S) or self.process.interrupted or self._blocking.is_set()):
            self.process.interrupted = True
            # A real signal, so that a system call that blocks is left too.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def _in_our_code(self) -> bool:
        """Whether the main thread is in this package (it waits for the compiler, say), called by the script."""
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        while frame is not None and "runpy" not in frame.f_code.co_filename:
            if frame.f_code.co_filename.startswith(_PACKAGE):
                return True
            frame = frame.f_back
        return False

    def _cpu(self) -> Any:
        """What changes while the main thread computes: its state and processor time."""
        try:
            with open(f"/proc/self/task/{self._main}/stat", "rb") as stat:
                fields = stat.read().rpartition(b")")[2].split()
        except OSError:
            return time.monotonic()
        # Whoever could run is not blocked, even where others keep the processors from it; nor is who waits for a disk.
        return (fields[11], fields[12]) if fields[0] == b"S" else time.monotonic()
