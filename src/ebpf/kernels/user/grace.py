"""Waiting until no program can hold what was taken away from programs: what RCU is to Linux.

A program finds things by addresses in maps (maps, other programs, perf buffers) and uses them until it ends. So what is taken
out of a map is let go only when every program that ran at that moment has ended.
"""

import ctypes
import platform
from collections.abc import Callable

from ebpf.engine.runtime.abi import Env

_MEMBARRIER = {"x86_64": 324, "aarch64": 283}
# membarrier(2): MEMBARRIER_CMD_PRIVATE_EXPEDITED and its registration.
_EXPEDITED, _REGISTER = 1 << 3, 1 << 4


class Grace:
    """The surroundings that programs may run in at any time, and what waits for them."""

    def __init__(self) -> None:
        # By identity; threads that run programs come and go here, so each step is one that they cannot come between.
        self._envs: dict[int, Env] = {}
        #: Those in which programs run on events, until the kernel ends.
        self.lasting: list[Env] = []
        self._waiting: list[tuple[list[tuple[Env, int]], Callable[[], None]]] = []
        self._barrier = _barrier()

    def watch(self, env: Env) -> None:
        """Programs will run in these surroundings, which stay where they are until `forget`."""
        self._envs[id(env)] = env

    def watch_lasting(self, env: Env) -> None:
        """Programs will run in these surroundings as long as the kernel lives."""
        self.watch(env)
        self.lasting.append(env)

    def forget(self, env: Env) -> None:
        """No program runs in these surroundings any more. For any thread: what waits for it is done in a later `poll`."""
        self._envs.pop(id(env), None)

    def after(self, act: Callable[[], None]) -> None:
        """Do something once all programs that run now have ended: at once, or in a later call."""
        # Every thread's mark that it runs a program must be seen, if the program began before this.
        self._barrier()
        running = [(env, env.runs) for env in list(self._envs.values()) if env.runs & 1]
        if running:
            self._waiting.append((running, act))
        else:
            act()
        if self._waiting:
            self.poll()

    def poll(self) -> None:
        """Do what has waited long enough."""
        waiting, self._waiting = self._waiting, []
        for running, act in waiting:
            left = [(env, runs) for env, runs in running if env.runs == runs]
            if left:
                self._waiting.append((left, act))
            else:
                act()

    def close(self) -> None:
        """Nothing runs any more: do all that waits."""
        waiting, self._waiting = self._waiting, []
        for _, act in waiting:
            act()


def _barrier() -> Callable[[], None]:
    """A memory barrier on all threads of this process. Where there is none, the ordinary order of stores has to do."""
    number = _MEMBARRIER.get(platform.machine())
    if number is None or platform.system() != "Linux":
        return lambda: None
    libc = ctypes.CDLL(None)
    if libc.syscall(number, _REGISTER, 0, 0):
        return lambda: None
    return lambda: libc.syscall(number, _EXPEDITED, 0, 0) and None
