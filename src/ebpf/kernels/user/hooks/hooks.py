"""The list of programs on system calls, shared with the native loop that runs them."""

import ctypes
from ctypes import c_int32, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from enum import IntEnum

from ebpf.engine.runtime import library
from ebpf.errors import NotSupportedError

ANY_CALL = 0xFFFFFFFF
_HOOKS = 512


class Kind(IntEnum):
    """What context a hook's program gets."""

    KPROBE = 0
    TRACEPOINT = 1
    RAW = 2


class _Row(ctypes.Structure):
    _fields_ = (("nr", c_uint32), ("kind", c_uint32), ("on_exit", c_uint32), ("live", c_uint32), ("prog", c_void_p), ("cookie", c_uint64))


class _Table(ctypes.Structure):
    """`struct rt_hooks` of c/hook.h."""

    _fields_ = (
        ("lock", c_uint32),
        ("count", c_uint32),
        ("events", c_uint64),
        ("status", c_int32),
        ("ended", c_uint32),
        ("done", c_uint32),
        ("error", c_int32),
        ("hook", _Row * _HOOKS),
    )


@dataclass(frozen=True, slots=True)
class Hook:
    """A program on a system call: its number (ANY_CALL: all), the kind of context, entry or exit, the entry address, a number for it."""

    nr: int
    kind: Kind
    on_exit: bool
    entry: int
    cookie: int = 0


class Hooks:
    """The hooks of a kernel. Adding and removing is safe while the loop runs: removal waits for a running program."""

    def __init__(self) -> None:
        self.table = _Table()

    @property
    def address(self) -> int:
        """Where the table lies."""
        return ctypes.addressof(self.table)

    def live(self) -> list[_Row]:
        """The rows in use."""
        return [row for row in self.table.hook[: self.table.count] if row.live]

    def calls(self) -> set[int]:
        """The numbers of the hooked calls (ANY_CALL among them if all are)."""
        return {row.nr for row in self.live()}

    def wants_exits(self) -> bool:
        """Whether some hook is on an exit."""
        return any(row.on_exit for row in self.live())

    def add(self, hook: Hook) -> int:
        """Attach; the answer is a ticket for remove()."""
        place = next((i for i in range(self.table.count) if not self.table.hook[i].live), self.table.count)
        if place == _HOOKS:
            raise NotSupportedError("attach", f"{_HOOKS} programs on system calls are the most there can be")
        lib = library()
        lib.rt_hooks_lock(c_void_p(self.address))
        try:
            row = self.table.hook[place]
            row.nr, row.kind, row.on_exit, row.prog, row.cookie = hook.nr, int(hook.kind), int(hook.on_exit), hook.entry, hook.cookie
            row.live = 1
            self.table.count = max(self.table.count, place + 1)
        finally:
            lib.rt_hooks_unlock(c_void_p(self.address))
        return place

    def remove(self, ticket: int) -> None:
        """Detach."""
        lib = library()
        lib.rt_hooks_lock(c_void_p(self.address))
        self.table.hook[ticket].live = 0
        lib.rt_hooks_unlock(c_void_p(self.address))
