"""The abstract state: registers, stack, frames. Registers are immutable and shared; a branch copies only lists of them."""

from enum import IntEnum
from typing import Final

from ebpf.engine.verifier.scalar import UNKNOWN, Scalar, known


class Kind(IntEnum):
    """What a register holds."""

    NOT_INIT = 0
    SCALAR = 1
    CTX = 2
    STACK = 3
    MAP_PTR = 4
    MAP_VALUE = 5
    PACKET = 6
    PACKET_META = 7
    PACKET_END = 8
    ALLOC_MEM = 9


_NAMES: Final = {
    Kind.NOT_INIT: "?",
    Kind.SCALAR: "scalar",
    Kind.CTX: "ctx",
    Kind.STACK: "fp",
    Kind.MAP_PTR: "map_ptr",
    Kind.MAP_VALUE: "map_value",
    Kind.PACKET: "pkt",
    Kind.PACKET_META: "pkt_meta",
    Kind.PACKET_END: "pkt_end",
    Kind.ALLOC_MEM: "mem",
}
_ZERO: Final = known(0)


class Reg:
    """A register's content. Pointers: fixed offset `off` plus the variable part `num`; `id` says which pointers move together.

    `fd` is the map's, `size` the memory's, `rng` the bytes of the packet proved to be there, `ref` the reference that must
    be given back, `frame` the stack's frame.
    """

    __slots__ = ("fd", "frame", "id", "kind", "null", "num", "off", "ref", "rng", "size")

    def __init__(
        self,
        kind: Kind,
        num: Scalar = _ZERO,
        off: int = 0,
        *,
        fd: int = -1,
        size: int = 0,
        id: int = 0,
        rng: int = 0,
        ref: int = 0,
        frame: int = 0,
        null: bool = False,
    ) -> None:
        self.kind = kind
        self.num = num
        self.off = off
        self.fd = fd
        self.size = size
        self.id = id
        self.rng = rng
        self.ref = ref
        self.frame = frame
        self.null = null

    def copy(
        self,
        *,
        num: Scalar | None = None,
        off: int | None = None,
        rng: int | None = None,
        id: int | None = None,
        null: bool | None = None,
    ) -> "Reg":
        """The same register with some fields changed."""
        return Reg(
            self.kind,
            self.num if num is None else num,
            self.off if off is None else off,
            fd=self.fd,
            size=self.size,
            id=self.id if id is None else id,
            rng=self.rng if rng is None else rng,
            ref=self.ref,
            frame=self.frame,
            null=self.null if null is None else null,
        )

    @property
    def is_pointer(self) -> bool:
        """Whether it points somewhere."""
        return self.kind > Kind.SCALAR

    @property
    def name(self) -> str:
        """Linux's name of the type."""
        return _NAMES[self.kind] + ("_or_null" if self.null else "")

    def __repr__(self) -> str:
        if self.kind == Kind.SCALAR:
            return repr(self.num)
        if self.kind == Kind.STACK:
            return f"fp{self.off:+d}" if self.off else "fp0"
        parts = []
        if self.off:
            parts.append(f"off={self.off}")
        if self.num.const != 0:
            parts.append(repr(self.num))
        if self.kind in (Kind.PACKET, Kind.PACKET_META):
            parts.append(f"r={self.rng}")
        return f"{self.name}({','.join(parts)})"


NOT_INIT: Final = Reg(Kind.NOT_INIT)
ANY_SCALAR: Final = Reg(Kind.SCALAR, UNKNOWN)

# What a byte of stack holds when it is no whole spilled register.
INVALID, MISC, ZERO = 0, 1, 2
_EMPTY: Final = (INVALID,) * 8
Slot = Reg | tuple[int, ...]


class Frame:
    """A function's registers and its stack by 8-byte slot (negative multiples of 8)."""

    __slots__ = ("back", "regs", "stack", "start")

    def __init__(self, start: int, regs: list[Reg], stack: dict[int, Slot], back: int) -> None:
        self.start = start
        self.regs = regs
        self.stack = stack
        self.back = back

    def copy(self) -> "Frame":
        """A frame that can change without changing this one."""
        return Frame(self.start, list(self.regs), dict(self.stack), self.back)


class State:
    """A point on a path: frames, the innermost last, and references still to give back (reference to instruction)."""

    __slots__ = ("frames", "refs")

    def __init__(self, frames: list[Frame], refs: dict[int, int]) -> None:
        self.frames = frames
        self.refs = refs

    @property
    def regs(self) -> list[Reg]:
        """The registers of the running function."""
        return self.frames[-1].regs

    def copy(self) -> "State":
        """A state that can change without changing this one."""
        return State([frame.copy() for frame in self.frames], dict(self.refs))


def reg_covers(old: Reg, new: Reg, ids: dict[int, int]) -> bool:
    """Whether what was proved with `old` in a register holds with `new` in it."""
    if old is new and not old.id:
        return True
    if old.kind == Kind.NOT_INIT:
        return True
    if old.kind != new.kind or old.null != new.null:
        return False
    if old.kind == Kind.SCALAR:
        return old.num.contains(new.num) and _same_id(old.id, new.id, ids, weak=True)
    if old.off != new.off or old.fd != new.fd or old.size != new.size or old.frame != new.frame:
        return False
    if bool(old.ref) != bool(new.ref) or (old.ref and not _same_id(-old.ref, -new.ref, ids)):
        return False
    if old.kind in (Kind.PACKET, Kind.PACKET_META) and old.rng > new.rng:
        return False
    if old.id and not _same_id(old.id, new.id, ids):
        return False
    return old.num.contains(new.num)


def _same_id(old: int, new: int, ids: dict[int, int], *, weak: bool = False) -> bool:
    """Whether ids stand for each other: what moved together before must do so now."""
    if not old:
        return weak or not new
    if not new:
        return False
    return ids.setdefault(old, new) == new


def slot_covers(old: Slot, new: Slot, ids: dict[int, int]) -> bool:
    """The same for a slot of stack."""
    if isinstance(old, Reg):
        return isinstance(new, Reg) and reg_covers(old, new, ids)
    if isinstance(new, Reg):
        # Any spilled number is eight bytes of something.
        return all(byte in (INVALID, MISC) for byte in old) and (new.kind == Kind.SCALAR or old == _EMPTY)
    return all(o in (INVALID, n) or (o == MISC and n == ZERO) for o, n in zip(old, new, strict=True))


def state_covers(old: State, new: State, live: int) -> bool:
    """Whether all paths from `new` were proved with `old`; `live` has a bit for each register that is still read."""
    if len(old.frames) != len(new.frames) or len(old.refs) != len(new.refs):
        return False
    ids: dict[int, int] = {}
    last = len(old.frames) - 1
    for depth, (a, b) in enumerate(zip(old.frames, new.frames, strict=True)):
        if a.start != b.start or a.back != b.back:
            return False
        for number in range(10):
            if (depth < last or live >> number & 1) and not reg_covers(a.regs[number], b.regs[number], ids):
                return False
        for at, slot in a.stack.items():
            if not slot_covers(slot, b.stack.get(at, _EMPTY), ids):
                return False
    return True
