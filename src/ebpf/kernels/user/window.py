"""Windows to the memory of maps and perf events: what mmap of a descriptor gives."""

import errno
from typing import TYPE_CHECKING

from ebpf.errors import KernelError
from ebpf.kernels.user.events import PerfEvent
from ebpf.kernels.user.maps import Map
from ebpf.kernels.user.objects import READ, WRITE, MapObject, Object
from ebpf.sys.kernel import Buffer
from ebpf.uapi import MapFlag

if TYPE_CHECKING:
    from ebpf.kernels.user.kernel import UserKernel


class Window:
    """A view of memory that this process has already: nothing to unmap. `written` is the map that it can write to."""

    def __init__(self, view: memoryview, written: Map | None = None) -> None:
        self._view = view
        self._written = written
        if written is not None:
            written.writable_views += 1

    @property
    def view(self) -> memoryview:
        """The memory."""
        return self._view

    def close(self) -> None:
        """Let the view go. Idempotent."""
        self._view.release()
        if self._written is not None:
            self._written.writable_views -= 1
            self._written = None


def mmap(kernel: "UserKernel", fd: int, length: int, *, writable: bool, offset: int = 0) -> Buffer:
    """Map a map's or perf event's memory."""
    held = kernel.table.get(fd, Object, "mmap")
    if isinstance(held, PerfEvent):
        return Window(held.view(length, offset))
    if not isinstance(held, MapObject):
        raise KernelError(errno.ENODEV, "mmap")
    _may_map(kernel, fd, held.map, writable=writable)
    view = held.map.view(length, offset, writable=writable)
    return Window(view if writable else view.toreadonly(), held.map if writable else None)


def _may_map(kernel: "UserKernel", fd: int, held: Map, *, writable: bool) -> None:
    """Refuse what a descriptor, or the map, does not permit."""
    if not kernel.table.may(fd, READ) or (writable and not kernel.table.may(fd, WRITE)):
        raise KernelError(errno.EACCES, "mmap", "the descriptor does not permit it")
    if not held.MAPPABLE or held.has_fields:
        raise held.no("mmap")
    if not kernel.table.may(fd, WRITE):
        raise KernelError(errno.EINVAL, "mmap", "memory is shared, and this descriptor is read-only")
    if writable and held.frozen:
        raise KernelError(errno.EPERM, "mmap", "the map is frozen")
    if writable and held.flags & MapFlag.RDONLY_PROG:
        raise KernelError(errno.EACCES, "mmap", "the map is read-only for programs, so that none may write to it behind them")


def files(kernel: "UserKernel", fd: int, length: int, offset: int) -> list[tuple[int, int, int, bool]]:
    """What mmap would map, as pieces of files for another process: (fd, offset, length, writable)."""
    held = kernel.table.get(fd, Object, "mmap")
    if isinstance(held, PerfEvent):
        return held.files(length, offset)
    if not isinstance(held, MapObject):
        raise KernelError(errno.ENODEV, "mmap")
    writable = not held.map.frozen and not held.map.flags & MapFlag.RDONLY_PROG
    _may_map(kernel, fd, held.map, writable=writable)
    return held.map.files(length, offset, writable=writable)
