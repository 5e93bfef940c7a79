"""What the parts of the verifier share while they walk one program."""

from collections.abc import Callable
from typing import Final

from ebpf.engine.program import Code, MapDesc
from ebpf.engine.verifier.fast_calls import FastCalls
from ebpf.engine.verifier.live_stack import LiveStack
from ebpf.engine.verifier.log_precision import PrecisionText
from ebpf.engine.verifier.precision import Trace, trace_back
from ebpf.engine.verifier.refusal import Refusal
from ebpf.engine.verifier.reg import MAP_KEY, MAP_PTR, MAP_VALUE, SCALAR, Reg
from ebpf.engine.verifier.rules import Rules
from ebpf.engine.verifier.state import Frame, State
from ebpf.engine.verifier.structure import Structure

#: What `note` is before an instruction: typed, because a type checker takes a plain None to stay.
NO_NOTE: Final[object] = None


class Env:
    """The program, the rules, and the point that the walk is at.

    `privileged` programs (CAP_PERFMON) may leak addresses; `lenient` ones may read stack that nothing was written to.
    """

    def __init__(self, code: Code, rules: Rules, structure: Structure) -> None:
        self.code = code
        self.rules = rules
        self.structure = structure
        self.privileged = code.privileged
        self.lenient = code.privileged
        self.slot = 0
        #: The arena that the program names, or -1.
        self.arena = -1
        #: The function that is run on an exception, or -1.
        self.on_exception = -1
        self.state = State([])
        self.ids = 0
        #: What the running instruction did to the stack or to linked numbers, for the history.
        self.note: object = NO_NOTE
        #: The slot of stack that it reached, as stack_note has it, or -1: what the log shows.
        self.scratched = -1
        self.ctx_access: dict[int, tuple[int, int]] = {}
        self.btf_loads: set[int] = set()
        #: Without CAP_PERFMON: has a processor's guess walked too, from an instruction on; and where barriers stop it.
        self.guess: Callable[[int, State], None] | None = None
        self.barriers: set[int] = set()
        self.barriers_behind: set[int] = set()
        #: Of pointer arithmetic without CAP_PERFMON: the mask that each instruction gets.
        self.masks: dict[int, tuple[int, int]] = {}
        #: Whether states must have the very same numbers to stand for each other, since masks may depend on them.
        self.strict = False
        self.call_map: dict[int, int] = {}
        self.depth: dict[int, int] = {}
        #: Of the stack what only calls that keep registers need, and how deep functions reach otherwise.
        self.fast_calls: FastCalls | None = None
        self.other_depth: dict[int, int] = {}
        #: Of each access, what kind of memory it reaches: it must be one.
        self.pointer_kinds: dict[int, int] = {}
        #: Says each step of the search for what numbers decided, where the log is to have it.
        self.tell: PrecisionText | None = None
        #: Where this Linux tells by it which slots of the stack may still be read.
        self.live: LiveStack | None = None
        #: The functions that may sleep, by what they call.
        self.sleepers: set[int] = set()

    def new_id(self) -> int:
        """An id that nothing has yet."""
        self.ids += 1
        return self.ids

    @property
    def frame(self) -> Frame:
        """The running function's frame."""
        return self.state.frames[-1]

    @property
    def regs(self) -> list[Reg]:
        """The running function's registers."""
        return self.state.frames[-1].regs

    def refuse(self, reason: str, says: str, cause: str, **facts: object) -> Refusal:
        """A refusal at the running instruction."""
        return Refusal(reason, says, cause, self.slot, **facts)

    def readable(self, at: int) -> Reg:
        """A register that is read. Raises Refusal if nothing was written to it."""
        reg = self.state.frames[-1].regs[at]
        if not reg.kind:
            raise self.refuse("uninitialised", f"R{at} !read_ok", f"r{at} is read, but nothing was written to it on this path", register=at)
        return reg

    def enter(self, frame: Frame) -> None:
        """The running function calls another: `frame` is the new one's."""
        if self.live is not None:
            outer = self.state.frames[-1].called
            assert outer is not None
            frame.called = self.live.inside(outer, self.slot, frame.start)

    def begin(self, frame: Frame) -> None:
        """A function runs that nothing in the program calls."""
        if self.live is not None:
            frame.called = self.live.root(frame.start)

    def leave(self) -> None:
        """The running function ends, or the path does."""
        if self.live is not None:
            self.live.update(self.state)

    def precise(self, *at: int) -> None:
        """Note that the numbers in these registers decide something."""
        mask = 0
        regs = self.state.frames[-1].regs
        for number in at:
            if regs[number].kind == SCALAR:
                mask |= 1 << number
        if self.tell is not None and len(at) > 1:
            for number in at:
                self.precise(number)
        elif mask:
            trace = Trace(len(self.state.frames) - 1)
            trace.regs[trace.frame] = mask
            trace_back(self.structure, self.state, self.slot, trace, self.tell)

    def precise_slot(self, frame: int, index: int) -> None:
        """The same of a number on the stack."""
        trace = Trace(len(self.state.frames) - 1)
        trace.slots[frame] = 1 << index
        trace_back(self.structure, self.state, self.slot, trace, self.tell)

    def map_of(self, reg: Reg) -> MapDesc:
        """The map that a register's pointer belongs to."""
        if reg.fd < 0:
            inner = self.code.maps[~reg.fd].inner
            assert inner is not None
            return inner
        return self.code.maps[reg.fd]

    def text(self, reg: Reg, *, precise: bool = False, frame: int | None = None) -> str:
        """A register as the log shows it."""
        about = ""
        if reg.kind in (MAP_PTR, MAP_VALUE, MAP_KEY):
            desc = self.map_of(reg)
            about = (f"map={desc.name}," if desc.name and reg.fd >= 0 else "") + f"ks={desc.key_size},vs={desc.value_size}"
        return reg.text(len(self.state.frames) - 1 if frame is None else frame, precise=precise, map_text=about)

    def reads_stack(self, depth: int, mask: int) -> None:
        """Note, in the checkpoints that the path went through or of the instruction, that slots of a frame are read."""
        called = self.state.frames[-1].called
        if called is not None:
            called.reads(depth, self.slot, mask)
            return
        mask &= ~self.state.frames[depth].written
        point = self.state.parent
        while mask and point is not None and depth < len(point.read):
            mask &= ~point.read[depth]
            point.read[depth] |= mask
            mask &= ~point.state.frames[depth].written
            point = point.parent
