"""Programs that run too long are stopped: a thread looks at what runs, for the daemon's own may be waiting for it."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from ebpf.engine.runtime.abi import Env
from ebpf.kernels.user.grace import Grace

# How often it is looked while test runs are under way, and while programs may run on events.
_LOOK_S, _LOOK_AT_EVENTS_S = 0.05, 0.5


class Watch:
    """Stops what takes longer than `allowed_s`: test runs by the processor time of their thread, single events by the clock."""

    def __init__(self, grace: Grace, allowed_s: float) -> None:
        self._grace = grace
        self._allowed_s = allowed_s
        self._work: dict[int, Callable[[], None]] = {}
        self._events: dict[int, tuple[int, float]] = {}
        self._changed = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="ebpfd-watch", daemon=True)
        self._thread.start()

    def begin(self, stop: Callable[[], None]) -> None:
        """This thread begins work that `stop` ends early, if it takes too long."""
        self._work[threading.get_native_id()] = stop
        self._changed.set()

    def end(self) -> None:
        """This thread's work is done."""
        self._work.pop(threading.get_native_id(), None)

    def _loop(self) -> None:
        while not self._closed:
            self._changed.wait(_LOOK_S if self._work else _LOOK_AT_EVENTS_S if self._grace.lasting else None)
            self._changed.clear()
            for thread, stop in list(self._work.items()):
                if _processor_s(thread) > self._allowed_s:
                    stop()
            for env in list(self._grace.lasting):
                self._look_at_event(env)

    def _look_at_event(self, env: Env) -> None:
        runs, now = env.runs, time.monotonic()
        before, since = self._events.get(id(env), (-1, now))
        if runs != before:
            self._events[id(env)] = (runs, now)
            env.stop = 0
        elif runs & 1 and now - since > self._allowed_s:
            env.stop = 1

    def close(self) -> None:
        """End the thread. Idempotent."""
        self._closed = True
        self._changed.set()
        self._thread.join()


def _processor_s(thread: int) -> float:
    """The processor time of a thread of this process, in seconds; 0 for one that has ended."""
    # clock_gettime(2): a thread's clock is its id, turned over, with 6 behind it.
    with suppress(OSError):
        return time.clock_gettime((~thread << 3) | 6)
    return 0.0
