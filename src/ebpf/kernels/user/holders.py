"""What the elements of maps stand for that are written by descriptor: programs, maps, perf buffers, cgroups, interfaces."""

import ctypes
import errno
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from ebpf.errors import KernelError, NotSupportedError
from ebpf.kernels.user.events import PerfEvent
from ebpf.kernels.user.maps import Devmap, DevmapHash, HashOfMaps, Holding, Map, ProgArray
from ebpf.kernels.user.maps.storage import file_system
from ebpf.kernels.user.objects import MapObject, Object, ProgramObject
from ebpf.sys.calls import Batch, MapDeleteBatch, MapTakeBatch, MapUpdate, MapUpdateBatch
from ebpf.uapi import AttachType, ProgType

if TYPE_CHECKING:
    from ebpf.kernels.user.kernel import UserKernel
    from ebpf.kernels.user.state import State

_CALL = "map_update_elem"


class Cgroup(Object):
    """A control group. Its id is the number of its folder."""


class Interface(Object):
    """A network interface, and the program that packets to it go through."""

    def __init__(self, index: int, program: ProgramObject | None) -> None:
        super().__init__()
        self.id = index
        self.program = program

    def holds(self) -> list[Object]:
        """Its program."""
        return [self.program] if self.program is not None else []


def put(kernel: "UserKernel", held: Map, call: MapUpdate) -> bool:
    """Write an element whose value is a descriptor; False if the map's values are bytes."""
    if not isinstance(held, Holding):
        return False
    held.may_put(call.key, call.flags)
    resolved = _RESOLVE[held.HOLDS](kernel, held, held.value(call.value, _CALL))
    if resolved is None:
        drop(kernel, held, call.key)
        return True
    thing, cell = resolved
    registry = kernel.state.registry
    if thing.holders == 0:
        # It is no object that descriptors stand for, and lives in this element alone.
        for inner in thing.holds():
            registry.hold(inner)
    registry.hold(thing)
    try:
        old = held.put(call.key, thing, cell)
    except KernelError:
        registry.release(thing)
        raise
    if isinstance(old, Object):
        kernel.state.grace.after(lambda: registry.release(old))
    return True


def drop(kernel: "UserKernel", held: Map, key: bytes) -> bool:
    """Empty an element that holds something; False if the map's values are bytes."""
    if not isinstance(held, Holding):
        return False
    old = held.drop(key)
    if isinstance(old, Object):
        kernel.state.grace.after(lambda: kernel.state.registry.release(old))
    return True


def unused(state: "State", thing: Object) -> None:
    """Nobody has an object open any more. A map's timers go; a map of programs is emptied: programs that use it keep it, and it them."""
    if isinstance(thing, MapObject):
        thing.map.left()
    if isinstance(thing, MapObject) and isinstance(thing.map, ProgArray):
        olds = [thing.map.drop(key) for key in list(thing.map.things)]

        def release() -> None:
            for old in olds:
                if isinstance(old, Object):
                    state.registry.release(old)

        state.grace.after(release)


def put_batch(kernel: "UserKernel", held: Map, call: MapUpdateBatch) -> int:
    """Write several elements of a map of maps; 0 for any other map."""
    if not isinstance(held, Holding) or not held.BATCHES:
        return 0
    held.no_lock(call.flags, "map_update_batch")
    width = held.spec.key_size
    for done in range(call.count):
        key, value = call.keys[done * width : (done + 1) * width], call.values[done * 4 : (done + 1) * 4]
        with _counted("map_update_batch", done):
            put(kernel, held, MapUpdate(call.map_fd, key, value))
    return call.count


def drop_batch(kernel: "UserKernel", held: Map, call: MapDeleteBatch) -> int:
    """Remove several elements of a hash of maps; 0 for any other map."""
    if not isinstance(held, HashOfMaps):
        return 0
    held.no_lock(call.flags, "map_delete_batch")
    width = held.spec.key_size
    for done in range(call.count):
        with _counted("map_delete_batch", done):
            drop(kernel, held, call.keys[done * width : (done + 1) * width])
    return call.count


def take_batch(kernel: "UserKernel", held: Map, call: MapTakeBatch) -> Batch | None:
    """Read and remove elements of a hash of maps; None for any other map."""
    if not isinstance(held, HashOfMaps):
        return None
    found = held.walk_batch(call.start, call.count, call.flags)
    width = held.spec.key_size
    for done in range(found.count):
        drop(kernel, held, found.keys[done * width : (done + 1) * width])
    return found


@contextmanager
def _counted(call: str, done: int) -> Iterator[None]:
    """One element of a batch: an error says how many went before it."""
    try:
        yield
    except KernelError as error:
        raise KernelError(error.errno, call, error.why, done=done) from error


# -- what a value stands for: the object, and the 8 bytes that programs find


def _fd(value: bytes) -> int:
    return int.from_bytes(value[:4], "little")


def _perf(kernel: "UserKernel", held: Holding, value: bytes) -> tuple[Object, int]:
    del held
    try:
        event = kernel.table.get(_fd(value), PerfEvent, _CALL)
    except KernelError as error:
        raise KernelError(errno.EBADF, _CALL, f"descriptor {_fd(value)} is no perf event") from error
    if event.perf is None:
        raise KernelError(errno.EINVAL, _CALL, "the perf buffer is not mapped")
    return event, ctypes.addressof(event.perf)


def _map(kernel: "UserKernel", held: Holding, value: bytes) -> tuple[Object, int]:
    thing = kernel.table.get(_fd(value), MapObject, _CALL)
    if held.inner is None or not held.inner.fits(thing.map):
        raise KernelError(errno.EINVAL, _CALL, f"map {thing.map.spec.name!r} is not like the inner map that this one was made for")
    return thing, thing.map.address


def _program(kernel: "UserKernel", held: Holding, value: bytes) -> tuple[Object, int]:
    thing = kernel.table.get(_fd(value), ProgramObject, _CALL)
    source = thing.program.call
    if not isinstance(held, ProgArray) or not held.accepts(source.prog_type, source.expected_attach_type):
        raise KernelError(errno.EINVAL, _CALL, f"program {source.name!r} is of another type than those that the map is for")
    return thing, thing.program.target


def _interface(kernel: "UserKernel", held: Holding, value: bytes) -> tuple[Object, int] | None:
    index, fd = _fd(value), int.from_bytes(value[4:8], "little", signed=True)
    assert isinstance(held, (Devmap, DevmapHash))
    if not index:
        if not held.EMPTIES or fd > 0:
            raise KernelError(errno.EINVAL, _CALL, "interface 0 is none")
        return None
    if index not in kernel.interfaces().values():
        raise KernelError(errno.EINVAL, _CALL, f"there is no interface {index}")
    program = None
    if fd > 0:
        try:
            program = kernel.table.get(fd, ProgramObject, _CALL)
        except KernelError as error:
            raise KernelError(errno.EINVAL, _CALL, f"descriptor {fd} is no program") from error
        source = program.program.call
        if source.prog_type != ProgType.XDP or source.expected_attach_type != AttachType.XDP_DEVMAP:
            raise KernelError(errno.EINVAL, _CALL, f'program {source.name!r} is not for maps of interfaces (SEC("xdp/devmap"))')
    return Interface(index, program), index | (program.id if program is not None else 0) << 32


def _cgroup(kernel: "UserKernel", held: Holding, value: bytes) -> tuple[Object, int]:
    """The value is a descriptor of this process, not of the user kernel: a folder of cgroup2."""
    del held
    fd = _fd(value)
    if not kernel.local:
        raise NotSupportedError("a cgroup as an element", "ebpfd does not see its clients' descriptors")
    if file_system(fd) != "cgroup2":
        raise KernelError(errno.EBADF, _CALL, f"descriptor {fd} is no folder of cgroup2")
    thing = Cgroup()
    thing.id = os.fstat(fd).st_ino
    return thing, thing.id


_RESOLVE: Final[Mapping[str, Callable[["UserKernel", Holding, bytes], tuple[Object, int] | None]]] = {
    "perf event": _perf,
    "map": _map,
    "program": _program,
    "interface": _interface,
    "cgroup": _cgroup,
}
