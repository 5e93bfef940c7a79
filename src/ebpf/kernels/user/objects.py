"""What descriptors stand for: objects with ids and counted holders, and the tables of descriptors."""

import errno
import heapq
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from ebpf.btf import Btf
from ebpf.errors import KernelError
from ebpf.kernels.user.load import LoadedProgram
from ebpf.kernels.user.maps import Holding, Map
from ebpf.uapi import MapFlag

T = TypeVar("T", bound="Object")

#: What a descriptor that may not do everything may: BPF_F_RDONLY or BPF_F_WRONLY of the call that made it.
READ, WRITE = 1, 2


def access(flags: int) -> int:
    """What a descriptor may that was made with these flags of a map (0: everything)."""
    return READ if flags & MapFlag.RDONLY else WRITE if flags & MapFlag.WRONLY else 0


class Object:
    """Something that descriptors, pins and other objects hold; it goes when nobody holds it any more."""

    event_fd = -1

    def __init__(self) -> None:
        self.id = 0
        self.holders = 0
        #: Of the holders, descriptors and pins.
        self.users = 0
        #: How much memory it is reckoned to take, and whose account has paid.
        self.memory = 0
        self.account: Account | None = None

    def holds(self) -> "list[Object]":
        """The objects that this one keeps alive."""
        return []

    def readable(self) -> bool:
        """Whether there is something to read."""
        return False

    def opened(self) -> None:
        """Somebody has it open, after nobody had."""

    def arm(self) -> None:
        """Ask for `event_fd` to be written when there is something to read."""

    def destroy(self) -> None:
        """Give back what the object has."""


class BtfObject(Object):
    """Type information."""

    def __init__(self, btf: Btf) -> None:
        super().__init__()
        self.btf = btf
        self.memory = len(btf.raw)


class MapObject(Object):
    """A map and its types."""

    def __init__(self, held: Map, btf: BtfObject | None) -> None:
        super().__init__()
        self.map = held
        self.btf = btf
        self.memory = held.memlock
        self.event_fd = held.ring.event_fd if held.ring is not None else -1

    def holds(self) -> list[Object]:
        """Its BTF, and what is in it."""
        return ([self.btf] if self.btf is not None else []) + [
            thing for thing in (self.map.things.values() if isinstance(self.map, Holding) else ()) if isinstance(thing, Object)
        ]

    def opened(self) -> None:
        """It may have timers."""
        self.map.opened()

    def readable(self) -> bool:
        """Whether a ring buffer has records."""
        if self.map.ring is None:
            return False
        view = self.map.ring.view(8192, 0)
        return int.from_bytes(view[:8], "little") != int.from_bytes(view[4096:4104], "little")

    def destroy(self) -> None:
        """Give the memory back."""
        self.map.close()


class ProgramObject(Object):
    """A loaded program with the maps it names."""

    def __init__(self, program: LoadedProgram, maps: "Mapping[int, MapObject]", btf: BtfObject | None) -> None:
        super().__init__()
        self.program = program
        self.maps = maps
        self.btf = btf
        self.memory = len(program.call.insns) + (program.code.size if program.code is not None else 0)
        self.loaded_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic_ns()

    def holds(self) -> list[Object]:
        """Its maps and types."""
        return [*self.maps.values(), *([self.btf] if self.btf is not None else [])]

    def destroy(self) -> None:
        """Give the machine code back."""
        self.program.close()


class LinkObject(Object):
    """An attachment. Closing its last holder detaches. `event` is what it is attached to, if that is an object."""

    def __init__(
        self,
        program: ProgramObject,
        kind: int,
        detail: "Mapping[str, int | str]",
        undo: Callable[[], None],
        event: Object | None = None,
        change: "Callable[[ProgramObject], None] | None" = None,
    ) -> None:
        super().__init__()
        self._change = change
        self.program = program
        self.kind = kind
        self.detail = detail
        self._undo: Callable[[], None] | None = undo
        self._event = event

    def holds(self) -> list[Object]:
        """Its program, and the event."""
        return [self.program, *([self._event] if self._event is not None else [])]

    def change(self, program: ProgramObject) -> ProgramObject:
        """Put another program in the place of its own, which is returned. EINVAL for a link whose program stays, ENOLINK once detached."""
        if self._change is None:
            raise KernelError(errno.EINVAL, "bpf(LINK_UPDATE)", "the program of such a link cannot be changed")
        if self._undo is None:
            raise KernelError(errno.ENOLINK, "bpf(LINK_UPDATE)", "the link is detached")
        self._change(program)
        old, self.program = self.program, program
        return old

    def detach(self) -> None:
        """Detach now. Idempotent."""
        undo, self._undo = self._undo, None
        if undo is not None:
            undo()

    def destroy(self) -> None:
        """Detach."""
        self.detach()


class Registry:
    """All objects of a kernel: their ids, and how many hold each."""

    def __init__(self, unused: Callable[[Object], None] = lambda held: None, kept: Callable[[Object], bool] = lambda held: False) -> None:
        self._objects: dict[tuple[type[Object], int], Object] = {}
        self._unused = unused
        self._kept = kept
        #: Those that nobody holds, but that are kept for something that still runs them.
        self._lingering: list[Object] = []
        self._last: dict[type[Object], int] = {}

    def add(self, held: Object) -> None:
        """A new object gets an id, and holds what it needs."""
        kind = type(held)
        self._last[kind] = held.id = self._last.get(kind, 0) + 1
        self._objects[kind, held.id] = held
        for inner in held.holds():
            self.hold(inner)

    def by_id(self, kind: type[Object], id_: int) -> Object:
        """The object of a kind with an id; ENOENT if there is none."""
        self._let_go()
        held = self._objects.get((kind, id_))
        if held is None:
            raise KernelError(errno.ENOENT, "bpf(GET_FD_BY_ID)", f"id {id_}")
        return held

    def next_id(self, kind: type[Object], start: int) -> int:
        """The lowest id above `start`; ENOENT at the end."""
        self._let_go()
        later = [number for k, number in self._objects if k is kind and number > start]
        if not later:
            raise KernelError(errno.ENOENT, "bpf(GET_NEXT_ID)")
        return min(later)

    def all(self, kind: type[T]) -> list[T]:
        """All objects of a kind."""
        return [held for held in list(self._objects.values()) if isinstance(held, kind)]

    def count(self, kind: type[Object]) -> int:
        """How many objects of a kind there are."""
        return sum(1 for k, _ in self._objects if k is kind)

    def hold(self, held: Object, *, user: bool = False) -> None:
        """One more holder; `user`: it is a descriptor or pin."""
        held.holders += 1
        held.users += user
        if user and held.users == 1:
            held.opened()

    def release(self, held: Object, *, user: bool = False) -> None:
        """One holder less; the last one's leaving destroys the object and lets go what it held."""
        if user:
            held.users -= 1
            if not held.users:
                self._unused(held)
        held.holders -= 1
        if not held.holders and held not in self._lingering:
            self._lingering.append(held)
        self._let_go()

    def _let_go(self) -> None:
        """End those that nobody holds and nothing runs."""
        if not self._lingering:
            return
        waiting, self._lingering = self._lingering, []
        for held in waiting:
            if held.holders:
                continue
            if self._kept(held):
                self._lingering.append(held)
            else:
                self._end(held)

    def _end(self, held: Object) -> None:
        self._objects.pop((type(held), held.id), None)
        inner = held.holds()
        held.destroy()
        if held.account is not None:
            held.account.give_back(held)
        for each in inner:
            self.release(each)

    def clear(self) -> None:
        """Destroy everything, links first."""
        order = {LinkObject: 0, ProgramObject: 2, MapObject: 3, BtfObject: 4}
        for held in sorted(self._objects.values(), key=lambda o: order.get(type(o), 1)):
            held.destroy()
        self._objects.clear()


class Account:
    """What one client has made and still stands, and may have (None: as much as there is). All clients may share another one.

    An object stays on the account of who made it, however long others keep it.
    """

    def __init__(self, *, objects: int | None = None, memory: int | None = None, together: "Account | None" = None) -> None:
        self.objects = objects
        self.memory = memory
        self.made = 0
        self.used = 0
        self._together = together
        self._who = "this client has" if together is not None else "all clients together have"

    def require(self, size: int, call: str) -> None:
        """Insist that there is room for one more object of `size` bytes: EPERM for one object too many, ENOMEM for too large a one."""
        if self.objects is not None and self.made >= self.objects:
            raise KernelError(errno.EPERM, call, f"{self._who} {self.made} objects, as many as there may be")
        if self.memory is not None and self.used + size > self.memory:
            raise KernelError(errno.ENOMEM, call, f"{size} bytes: {self._who} {self.used} of the {self.memory} that there may be")
        if self._together is not None:
            self._together.require(size, call)

    def charge(self, held: Object) -> None:
        """An object more."""
        self.made += 1
        self.used += held.memory
        if self._together is not None:
            self._together.charge(held)

    def give_back(self, held: Object) -> None:
        """An object less."""
        self.made -= 1
        self.used -= held.memory
        if self._together is not None:
            self._together.give_back(held)


class Table:
    """One client's descriptors."""

    def __init__(self, registry: Registry, account: Account | None = None) -> None:
        self.registry = registry
        self.account = account or Account()
        self._open: dict[int, Object] = {}
        #: Descriptors that may not do everything: what they may, READ or WRITE.
        self._limited: dict[int, int] = {}
        self._free: list[int] = []
        self._next = 3

    def __len__(self) -> int:
        return len(self._open)

    def add(self, held: Object, access: int = 0) -> int:
        """A descriptor for a new object, with READ or WRITE access alone if that is said."""
        try:
            self._room()
            self.account.require(held.memory, "bpf")
        except KernelError:
            held.destroy()
            raise
        self.registry.add(held)
        held.account = self.account
        self.account.charge(held)
        return self.open(held, access)

    def _room(self) -> None:
        most = self.account.objects
        if most is not None and len(self._open) >= most:
            raise KernelError(errno.EPERM, "bpf", f"this client has {most} descriptors open, as many as it may")

    def open(self, held: Object, access: int = 0) -> int:
        """A descriptor for an object; the lowest number from 3 on that is free."""
        self._room()
        if self._free:
            fd = heapq.heappop(self._free)
        else:
            fd, self._next = self._next, self._next + 1
        self._open[fd] = held
        if access:
            self._limited[fd] = access
        self.registry.hold(held, user=True)
        return fd

    def may(self, fd: int, access: int) -> bool:
        """Whether a descriptor permits READ or WRITE."""
        return not self._limited or self._limited.get(fd, access) == access

    def get(self, fd: int, kind: type[T], call: str) -> T:
        """The object behind a descriptor; EBADF if there is none, EINVAL if it is of another kind."""
        held = self._open.get(fd)
        if held is None and 0 <= fd <= 2 and kind in (MapObject, ProgramObject, BtfObject, LinkObject):
            raise KernelError(errno.EINVAL, call, f"descriptor {fd} is no object of the kernel's")
        if held is None:
            raise KernelError(errno.EBADF, call, f"descriptor {fd}")
        if not isinstance(held, kind):
            raise KernelError(errno.EINVAL, call, f"descriptor {fd} is not a {kind.__name__.removesuffix('Object').lower()}")
        return held

    def close(self, fd: int) -> None:
        """Close a descriptor; EBADF if it is not open."""
        held = self._open.pop(fd, None)
        if held is None:
            raise KernelError(errno.EBADF, "close", f"descriptor {fd}")
        self._limited.pop(fd, None)
        heapq.heappush(self._free, fd)
        self.registry.release(held, user=True)

    def close_all(self) -> None:
        """Close every descriptor."""
        while self._open:
            _, held = self._open.popitem()
            self.registry.release(held, user=True)
        self._free.clear()
        self._limited.clear()
        self._next = 3
