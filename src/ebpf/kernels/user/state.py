"""What all clients of one user kernel share: objects and ids, pins, hooks, the trace."""

import ctypes
import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from ebpf.engine.runtime.abi import Route
from ebpf.errors import KernelError
from ebpf.kernels.user.events import Events
from ebpf.kernels.user.grace import Grace
from ebpf.kernels.user.holders import unused
from ebpf.kernels.user.interfaces import Interfaces
from ebpf.kernels.user.objects import Object, ProgramObject, Registry
from ebpf.kernels.user.timers import Timers
from ebpf.kernels.user.trace import TraceRing

if TYPE_CHECKING:
    from ebpf.kernels.user.surroundings import Running, Wires


# limits.h: PATH_MAX.
_LONGEST_PATH = 4096
_MOST_PINS = 16384


class State:
    """The shared part of a user kernel. `running` and `wires` are what a laboratory puts around it."""

    def __init__(self, *, running: "Running | None" = None, wires: "Wires | None" = None) -> None:
        self.possible_cpus = os.cpu_count() or 1
        self.registry = Registry(lambda held: unused(self, held), self._kept)
        self.grace = Grace()
        self.trace = TraceRing()
        self.timers = Timers(self)
        self.running = running
        self.wires = wires
        self.interfaces = Interfaces(self)
        self.events = Events(self)
        #: What bpf_fib_lookup finds.
        self.routes: ctypes.Array[Route] | None = None
        self.pins: dict[str, Object] = {}
        #: Called when a pin comes or goes.
        self.pinned: Callable[[], None] = lambda: None
        self.pid = os.getpid()
        self.closed = False

    def _kept(self, held: Object) -> bool:
        """Whether a timer will run a program that nobody holds."""
        return isinstance(held, ProgramObject) and self.timers.uses(held.program.owner)

    def pin(self, path: str, held: Object) -> None:
        """Give an object a path."""
        if not path.startswith("/") or "\0" in path:
            raise KernelError(errno.EINVAL, "bpf(OBJ_PIN)", f"{path!r} is not an absolute path")
        if "." in os.path.basename(path):
            raise KernelError(errno.EPERM, "bpf(OBJ_PIN)", f"{path!r}: a pin's name has no dot, as on Linux")
        if len(os.fsencode(path)) >= _LONGEST_PATH:
            raise KernelError(errno.ENAMETOOLONG, "bpf(OBJ_PIN)", f"a path of {len(path)} characters")
        if len(self.pins) >= _MOST_PINS:
            raise KernelError(errno.ENOSPC, "bpf(OBJ_PIN)", f"there are {_MOST_PINS} pins, as many as there may be")
        path = os.path.normpath(path)
        if path in self.pins or path == "/":
            raise KernelError(errno.EEXIST, "bpf(OBJ_PIN)", path)
        if any(path.startswith(f"{other}/") for other in self.pins):
            raise KernelError(errno.ENOTDIR, "bpf(OBJ_PIN)", path)
        self.registry.hold(held, user=True)
        self.pins[path] = held
        self.pinned()

    def at_path(self, path: str) -> Object:
        """The object with a path."""
        held = self.pins.get(os.path.normpath(path))
        if held is None:
            raise KernelError(errno.ENOENT, "bpf(OBJ_GET)", path)
        return held

    def unpin(self, path: str) -> None:
        """Remove a pin, as unlink(2) on bpffs does."""
        held = self.pins.pop(os.path.normpath(path), None)
        if held is None:
            raise KernelError(errno.ENOENT, "unlink", path)
        self.registry.release(held, user=True)
        self.pinned()

    def rename(self, old: str, new: str) -> None:
        """Give a pin another path, as rename(2) on bpffs does: what had that path before is unpinned."""
        held = self.pins.pop(os.path.normpath(old), None)
        if held is None:
            raise KernelError(errno.ENOENT, "rename", old)
        before = self.pins.get(os.path.normpath(new))
        self.pins[os.path.normpath(new)] = held
        if before is not None:
            self.registry.release(before, user=True)
        self.pinned()

    def alive(self, call: str) -> None:
        """Insist that the kernel is there, and in this process."""
        if self.closed:
            raise KernelError(errno.EBADF, call, "this kernel was shut down")
        if os.getpid() != self.pid:
            raise KernelError(errno.EBADF, call, "a user kernel does not survive fork: open one in the child")

    def close(self) -> None:
        """Detach all and give everything back. Idempotent."""
        if self.closed or os.getpid() != self.pid:
            return
        self.closed = True
        if self.running is not None:
            self.running.close()
        if self.wires is not None:
            self.wires.close()
        self.events.close()
        self.timers.close()
        self.grace.close()
        self.pins.clear()
        self.registry.clear()
        self.trace.close()
