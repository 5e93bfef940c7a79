"""Maps that hold what descriptors stand for: programs, other maps, perf buffers."""

import ctypes
import errno
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from ebpf.errors import KernelError
from ebpf.kernels.user.events import PerfEvent
from ebpf.kernels.user.maps import Slots
from ebpf.kernels.user.objects import Object, Registry, Table
from ebpf.sys.calls import MapUpdate

if TYPE_CHECKING:
    from ebpf.kernels.user.state import State

_CALL = "map_update_elem"


class Holders:
    """Fills and empties the elements of such maps; what an element holds stays while it is there."""

    def __init__(self, state: "State") -> None:
        self._state = state

    @property
    def _registry(self) -> Registry:
        return self._state.registry

    def put(self, table: Table, held: Slots, call: MapUpdate) -> None:
        """Write an element: the value is a descriptor of `table`."""
        if call.flags:
            raise KernelError(errno.EINVAL, _CALL, f"flags {call.flags:#x}: elements of {held.kind} are always there")
        index = held.index(call.key, _CALL)
        thing, address = _RESOLVE[held.HOLDS](table, held, int.from_bytes(held.value(call.value, _CALL), "little"))
        self._registry.hold(thing)
        old = held.put(index, thing, address)
        if isinstance(old, Object):
            self._registry.release(old)

    def drop(self, held: Slots, key: bytes) -> None:
        """Empty an element."""
        old = held.drop(held.index(key, "map_delete_elem"), "map_delete_elem")
        if isinstance(old, Object):
            self._registry.release(old)


def _perf(table: Table, held: Slots, fd: int) -> tuple[Object, int]:
    del held
    try:
        event = table.get(fd, PerfEvent, _CALL)
    except KernelError as error:
        raise KernelError(errno.EBADF, _CALL, f"descriptor {fd} is no perf event") from error
    if event.perf is None:
        raise KernelError(errno.EINVAL, _CALL, "the perf buffer is not mapped")
    return event, ctypes.addressof(event.perf)


_RESOLVE: Final[Mapping[str, Callable[[Table, Slots, int], tuple[Object, int]]]] = {"perf": _perf}
