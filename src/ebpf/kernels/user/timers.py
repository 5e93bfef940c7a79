"""The clock of a user kernel: a thread that runs the timers in maps' values, whether anybody runs programs or not."""

import errno
import threading
from typing import TYPE_CHECKING

from ebpf.engine.runtime import library
from ebpf.errors import KernelError
from ebpf.kernels.user.env import own_env, pointer

if TYPE_CHECKING:
    from ebpf.kernels.user.state import State


class Timers:
    """All timers of a kernel. The thread begins with the first map that may have some."""

    def __init__(self, state: "State") -> None:
        self._state = state
        self._clock = 0
        self._thread: threading.Thread | None = None

    def clock(self) -> int:
        """Where the runtime's clock lies. KernelError ENOMEM if the system has nothing left for it."""
        if not self._clock:
            clock = library().rt_clock_open()
            if not clock:
                raise KernelError(errno.ENOMEM, "bpf(MAP_CREATE)", "there are no descriptors or no memory left for timers")
            self._clock = int(clock)
            env = own_env(self._state.trace.address, self._state.possible_cpus)
            self._state.grace.watch_lasting(env)
            # Where the interpreter runs programs this thread calls Python: the process does not wait for it at its end.
            self._thread = threading.Thread(
                target=library().rt_clock_loop, args=(self._clock, pointer(env)), name="ebpf-timers", daemon=True
            )
            self._thread.start()
        return self._clock

    def uses(self, owner: int) -> bool:
        """Whether a timer has a function of the program with this number, or runs one."""
        return bool(self._clock and library().rt_clock_uses(self._clock, owner))

    def close(self) -> None:
        """End the thread and all timers. Idempotent."""
        clock, self._clock = self._clock, 0
        if clock and self._thread is not None:
            library().rt_clock_stop(clock)
            self._thread.join()
            library().rt_clock_close(clock)
