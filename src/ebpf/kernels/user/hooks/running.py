"""Processes that run already: seized while a program is attached to their system calls, and left alone otherwise."""

import ctypes
import errno
import os
import threading
import time
from collections.abc import Callable, Collection

from ebpf.engine.runtime import library
from ebpf.engine.runtime.abi import Env, Seize
from ebpf.errors import KernelError, NotSupportedError
from ebpf.kernels.user.hooks.hooks import Hooks

_WAIT_S = 10.0


class RunningProcesses:
    """The processes of a user namespace (or, with `userns` "", the descendants of `root`), but for ours and those in `skip`.

    `root` is a child of this process; where the loop is told of its end instead of us, `root_status` has it.
    """

    def __init__(self, env: Callable[[], Env], *, userns: str, root: int, skip: Collection[int] = ()) -> None:
        self._env = env
        self._userns = userns
        self._root = root
        self._skip = list(skip)
        self._seize: Seize | None = None
        self._thread: threading.Thread | None = None
        self.root_status: int | None = None

    @property
    def observed(self) -> int:
        """How many tasks are seized now."""
        return int(self._seize.tasks) if self._seize is not None else 0

    def update(self, hooks: Hooks) -> None:
        """Begin to observe when the first program comes, let all go when the last went."""
        wanted = bool(hooks.live())
        if wanted and self._thread is None:
            self._begin(hooks)
        elif not wanted and self._thread is not None:
            self.close()

    def _begin(self, hooks: Hooks) -> None:
        lib = library()
        if not hasattr(lib, "rt_seize_loop"):
            raise NotSupportedError("observing running processes", f"is not built for {os.uname().machine} yet")
        seize = Seize()
        seize.self, seize.root, seize.userns = os.getpid(), self._root, self._userns.encode()
        for place, pid in enumerate(self._skip):
            seize.skip[place] = pid
        env = self._env()
        self._seize = seize
        self._thread = threading.Thread(
            target=lambda: lib.rt_seize_loop(ctypes.byref(seize), ctypes.c_void_p(hooks.address), ctypes.byref(env)),
            name="ebpf-seize",
            daemon=True,
        )
        self._thread.start()
        deadline = time.monotonic() + _WAIT_S
        while not seize.begun:
            if time.monotonic() > deadline:
                self.close()
                raise KernelError(errno.ETIMEDOUT, "ptrace", "the running processes could not be seized in time")
            time.sleep(0.0005)
        if seize.refused and not seize.tasks:
            self.close()
            raise NotSupportedError(
                "observing running processes", "ptrace is refused here", hint="Run the command under us: ebpf run SCRIPT -- COMMAND"
            )

    def close(self) -> None:
        """Let all go. Idempotent."""
        seize, thread = self._seize, self._thread
        if seize is None or thread is None:
            return
        lib = library()
        seize.stop = 1
        deadline = time.monotonic() + _WAIT_S
        while not seize.ended and time.monotonic() < deadline:
            lib.rt_seize_wake(ctypes.byref(seize))
            time.sleep(0.001)
        self.note_root()
        self._thread = None
        self._seize = None

    def note_root(self) -> int | None:
        """The root's wait status, if the loop was told of its end."""
        if self._seize is not None and self._seize.root_ended:
            self.root_status = int(self._seize.status)
        return self.root_status
