"""The state at a point of a path: frames with registers and stack, and what is held (references, locks, sections)."""

from typing import TYPE_CHECKING, Any, Final

from ebpf.engine.verifier.reg import NOTHING, Reg

if TYPE_CHECKING:
    from ebpf.engine.verifier.live_stack import Called
    from ebpf.engine.verifier.loop_parts import Visit

# What a byte of stack holds.
INVALID: Final = 0
SPILL: Final = 1
MISC: Final = 2
ZERO_BYTE: Final = 3
DYNPTR_BYTE: Final = 4
ITER_BYTE: Final = 5
IRQ_BYTE: Final = 6
LETTERS: Final = "?rm0dif"
SPECIAL: Final = (DYNPTR_BYTE, ITER_BYTE, IRQ_BYTE)

_SPILLED: Final = bytes([SPILL]) * 8
_EMPTY: Final = bytes(8)


class Slot:
    """Eight bytes of stack: what each is, lowest address first, and the register that was spilled there, or NOTHING.

    `special` describes a dynptr's or iterator's half: (kind, id, ...).
    """

    __slots__ = ("reg", "special", "types")

    def __init__(self, types: bytes, reg: Reg = NOTHING, special: "Special | None" = None) -> None:
        self.types = types
        self.reg = reg
        self.special = special

    @property
    def spilled(self) -> bool:
        """Whether a register was spilled here, whole or in its low half."""
        return self.types[0] == SPILL


class Special:
    """A dynptr, iterator or interrupt flag on the stack: `kind` names it, `ref` is its reference, `first` marks its first slot.

    `what` names its type (a flag's: whether a lock saved it), `id` a dynptr, which the pieces of its memory know it by.
    `state` is an iterator's (0 active, 1 drained), `depth` how often it was advanced on this path, `trust` whether its
    objects are alive under RCU (RCU) or no longer (UNTRUSTED).
    """

    __slots__ = ("depth", "first", "id", "kind", "ref", "state", "trust", "what")

    def __init__(
        self, kind: str, ref: int, first: bool, state: int = 0, depth: int = 0, what: str = "", trust: int = 0, id: int = 0
    ) -> None:
        self.kind = kind
        self.ref = ref
        self.first = first
        self.state = state
        self.depth = depth
        self.what = what
        self.trust = trust
        self.id = id

    def text(self) -> str:
        """As the log of Linux shows it."""
        if self.kind == "irq":
            return LETTERS[IRQ_BYTE] * 8
        if self.kind == "iter":
            return f"iter_{self.what}(ref_id={self.ref},state={'drained' if self.state else 'active'},depth={self.depth})"
        # Linux shows a number of which the first half of a dynptr always has 1.
        return f"dynptr_{self.what}(id={self.id}" + (f",ref_id={self.ref}" if self.ref else "") + ",dynptr_id=1)"


EMPTY: Final = Slot(_EMPTY)


def spill(reg: Reg) -> Slot:
    """A slot with a whole register."""
    return Slot(_SPILLED, reg)


class Frame:
    """A function's frame: registers, stack by slot (0 is the one below the frame pointer), and where it returns to.

    `written` has a bit for each slot written since the last checkpoint, or, where what is `called` keeps what is read, by the
    running instruction. `callback` is the helper call that runs it.
    """

    __slots__ = ("asynchronous", "back", "callback", "callback_range", "called", "called_back", "regs", "stack", "start", "written")

    def __init__(self, start: int, regs: list[Reg], stack: dict[int, Slot], back: int) -> None:
        self.start = start
        self.regs = regs
        self.stack = stack
        self.back = back
        self.written = 0
        self.callback = False
        self.asynchronous = False
        self.callback_range: tuple[int, int] | None = None
        self.called_back = 0
        self.called: Called | None = None

    def copy(self) -> "Frame":
        """A frame that can change without changing this one."""
        new = Frame(self.start, self.regs.copy(), self.stack.copy(), self.back)
        new.written = self.written
        new.callback = self.callback
        new.asynchronous = self.asynchronous
        new.callback_range = self.callback_range
        new.called_back = self.called_back
        new.called = self.called
        return new


class Held:
    """Something that must be given back: a reference, a lock (`what`: its family, its map), an interrupt flag."""

    __slots__ = ("id", "kind", "slot", "what")

    def __init__(self, id: int, slot: int, kind: str = "ref", what: tuple[object, ...] = ()) -> None:
        self.id = id
        self.slot = slot
        self.kind = kind
        self.what = what


# A path's history, newest first: (before, instruction, what it did to the stack or to linked numbers); -1 marks a checkpoint.
History = tuple[Any, int, object]


class State:
    """A point on a path: frames, the innermost last; what is held; sections entered; whether it may sleep; the history that led here."""

    __slots__ = (
        "depth",
        "frames",
        "guessed",
        "held",
        "history",
        "loop_entry",
        "may_goto",
        "noted",
        "parent",
        "preempt",
        "rcu",
        "sleepable",
        "unrolled",
    )

    def __init__(self, frames: list[Frame], *, sleepable: bool = False) -> None:
        self.frames = frames
        self.sleepable = sleepable
        self.held: tuple[Held, ...] = ()
        self.rcu = 0
        self.preempt = 0
        #: Whether it is reached by a processor that guesses alone.
        self.guessed = False
        self.may_goto = 0
        self.unrolled = 0
        self.history: History | None = None
        #: How many instructions Linux keeps of it since the last checkpoint: landings of jumps, accesses to the stack.
        self.noted = 0
        self.parent: Checkpoint | None = None
        #: How many checkpoints lie behind it; the loop that it is part of.
        self.depth = 0
        self.loop_entry: Checkpoint | None = None

    @property
    def frame(self) -> Frame:
        """The frame of the running function."""
        return self.frames[-1]

    def copy(self) -> "State":
        """A state that can change without changing this one."""
        new = State([frame.copy() for frame in self.frames], sleepable=self.sleepable)
        new.held = self.held
        new.rcu = self.rcu
        new.preempt = self.preempt
        new.guessed = self.guessed
        new.may_goto = self.may_goto
        new.unrolled = self.unrolled
        new.history = self.history
        new.noted = self.noted
        new.parent = self.parent
        new.depth = self.depth
        new.loop_entry = self.loop_entry
        return new


class Checkpoint:
    """A remembered state at an instruction. `branches` counts the paths from it that have not ended.

    Per frame: `precise` and `precise_slots` have a bit for each register and slot whose number matters exactly, `read` for
    each slot that some path from here reads. `depth` counts the checkpoints before it.
    """

    __slots__ = (
        "branches",
        "cleaned",
        "depth",
        "differed",
        "hits",
        "loop_entry",
        "misses",
        "parent",
        "precise",
        "precise_slots",
        "read",
        "slot",
        "slot_differed",
        "state",
        "visit",
    )

    def __init__(self, slot: int, state: State, parent: "Checkpoint | None") -> None:
        self.slot = slot
        self.state = state
        self.parent = parent
        self.branches = 1
        self.hits = 0
        self.misses = 0
        depth = len(state.frames)
        self.precise = [0] * depth
        self.precise_slots = [0] * depth
        self.read = [0] * depth
        self.depth = state.depth
        #: Where a state that was not covered differed last, as frame << 4 | register: it is likely to differ there again.
        self.differed = -1
        #: The same of the stack, as frame << 6 | slot.
        self.slot_differed = -1
        self.loop_entry = state.loop_entry
        #: Whether `read` is final: then what is not read does not count.
        self.cleaned = False
        #: The loop that it is part of, where loops are told by the program's parts.
        self.visit: Visit | None = None
