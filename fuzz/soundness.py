"""What the verifier says of registers, held against what they are: accepted programs run step by step on packets by chance.

At each instruction every register and every slot of the stack must lie in one of the states that the verifier came there with.
It walks more for this than it does to judge: it stops where a state lies within one that was walked with all its numbers, not where
those that matter do. And nothing faults.
"""

import ctypes
import random
import struct
from collections import Counter, defaultdict
from collections.abc import Mapping

from fuzz.engines import Session
from fuzz.programs import make_alone
from fuzz.shapes import MAPS, PACKET, Made

from ebpf.engine.interp import Machine
from ebpf.engine.program import Code
from ebpf.engine.runtime.abi import Xdp
from ebpf.engine.verifier.compare import WITHIN, covers
from ebpf.engine.verifier.explore import Explorer
from ebpf.engine.verifier.log import Log
from ebpf.engine.verifier.num import UNKNOWN, Num
from ebpf.engine.verifier.refusal import Refusal
from ebpf.engine.verifier.reg import ANY_LINK, CTX, FUNC, MAP_KEY, MAP_PTR, MAP_VALUE, MEM, NOT_INIT, PACKET_END, SCALAR, STACK, Reg
from ebpf.engine.verifier.reg import PACKET as PACKET_PTR
from ebpf.engine.verifier.rules import NEWEST
from ebpf.engine.verifier.state import SPILL, ZERO_BYTE, Checkpoint, Frame, State
from ebpf.errors import EbpfError
from ebpf.isa import Insn, decode
from ebpf.kernels.user.kernel import UserKernel
from ebpf.kernels.user.maps import Map
from ebpf.kernels.user.run import interpreter, surroundings
from ebpf.uapi import MapType

_MOST_STEPS = 15_000
_WORD, _SIGN, _SIGN32 = (1 << 64) - 1, 1 << 63, 1 << 31
_WHOLE = bytes([SPILL]) * 8
_SLOTS = 64
_FRAME = struct.Struct(f"<{_SLOTS}Q")
_HEADROOM = 256

Place = tuple[int, tuple[int, ...]]


class Seen:
    """What there is to check of a frame as the verifier came to an instruction with it.

    Registers that say something, those whose numbers are linked, and by place in the frame the words of stack: those that have a
    register, and the bytes that are zero.
    """

    __slots__ = ("linked", "regs", "spilled", "zeros")

    def __init__(self, frame: Frame) -> None:
        self.regs = [(number, reg) for number, reg in enumerate(frame.regs) if _says_something(reg)]
        numbers = [(number, reg) for number, reg in self.regs if reg.kind == SCALAR]
        self.linked = [(number, reg.id) for number, reg in numbers if reg.id and not reg.flags & ANY_LINK]
        self.spilled: list[tuple[int, Reg]] = []
        self.zeros: list[tuple[int, int]] = []
        for at, slot in frame.stack.items():
            place = _SLOTS - 1 - at
            if bytes(slot.types) == _WHOLE:
                if _says_something(slot.reg):
                    self.spilled.append((place, slot.reg))
            elif ZERO_BYTE in slot.types:
                self.zeros.append((place, int.from_bytes(bytes(255 * (kind == ZERO_BYTE) for kind in slot.types), "little")))


def _says_something(reg: Reg) -> bool:
    if reg.kind == SCALAR:
        return reg.id != 0 or reg.num != UNKNOWN
    return reg.kind != NOT_INIT


class Walker(Explorer):
    """Walks on until a state lies within one that was walked with all its numbers, and keeps what it came to each place with."""

    def __init__(self, code: Code) -> None:
        super().__init__(code, NEWEST, Log(0, {}), _MOST_STEPS)
        self.places: defaultdict[Place, list[Seen]] = defaultdict(list)
        self._walked: defaultdict[int, list[Checkpoint]] = defaultdict(list)
        #: States that stand before the instruction at which they were split off one that was walked.
        self._halves: list[State] = []
        self.points.proved = self._go_on  # type: ignore[method-assign]
        # Which numbers matter is asked for states that stand for others: here none does.
        self.env.precise = self.env.precise_slot = lambda *_: None  # type: ignore[method-assign]

    def _go_on(self, slot: int, state: State, processed: int) -> bool:
        """Whether the state lies within one before; a state that comes from nowhere leaves no number to widen."""
        points = self._walked[slot]
        half = any(state is each for each in self._halves)
        if half:
            self._halves = [each for each in self._halves if each is not state]
        elif any(covers(point, state, [], WITHIN, lenient=self.env.lenient) for point in points):
            return True
        state.parent, state.history = Checkpoint(slot, state.copy(), None), None
        points.append(state.parent)
        return False

    def _fork_half(self, slot: int, state: State) -> None:
        self._halves.append(state)
        super()._fork_half(slot, state)

    def _step(self, slot: int, insn: Insn, state: State) -> int:
        place = slot, tuple(frame.back + 1 for frame in state.frames[1:])
        self.places[place].append(Seen(state.frames[-1]))
        return super()._step(slot, insn, state)


class Wrong(EbpfError):
    """Something did not lie in any state."""


class Watched:
    """A program in the interpreter beside the verifier's states of it. `skipped` says why there are none."""

    def __init__(self, kernel: UserKernel, made: Made) -> None:
        self._kernel = kernel
        self._session = Session(kernel, made, cpus=kernel.possible_cpus)
        self._made = made
        self.skipped = self._session.refused
        if self.skipped:
            return
        self._held = kernel.program_at(self._session.prog, "fuzz")
        prepared = self._held.program.prepared
        code = Code(tuple(decode(self._held.program.call.insns)), prepared.prog_type, prepared.maps, "fuzz")
        walker = Walker(code)
        try:
            walker.run()
        except Refusal as refusal:
            self.skipped = refusal.says or refusal.cause
        self._states = walker.places
        self._session.fill()

    def run(self, rng: random.Random) -> str:
        """One run on a packet by chance; what was wrong, or nothing."""
        data = rng.randbytes(PACKET)
        buffer = ctypes.create_string_buffer(4096)
        start = ctypes.addressof(buffer) + _HEADROOM
        ctypes.memmove(start, data, len(data))
        xdp = Xdp(start, start + len(data), start, 1, 0, 0, 0, ctypes.addressof(buffer), ctypes.addressof(buffer) + 3776)
        where = ctypes.addressof(xdp)
        regions = {where: (ctypes.sizeof(xdp), True), ctypes.addressof(buffer): (len(buffer), True)}
        with surroundings(self._kernel) as env:
            machine = interpreter(self._kernel, self._held, env, regions)
            machine.start(where)
            _watch(machine, self._states, _Bounds(machine, xdp, self._maps()))
            try:
                while machine.step():
                    pass
            except Wrong as wrong:
                return str(wrong)
            except EbpfError as error:
                return f"fault: {error}"
        return ""

    def _maps(self) -> dict[int, list[Map]]:
        """By descriptor, the map; by what the verifier calls a map's insides (~descriptor), the maps in it."""
        session = self._session
        out = {fd: [held.map] for fd, held in self._held.maps.items()}
        for number, fd in enumerate(session.fds):
            if MAPS[number].inner and fd in out:
                out[~fd] = [self._kernel.map_at(session.fds[inner], "fuzz").map for _, inner in MAPS[number].inner]
        return out

    def close(self) -> None:
        self._session.close()


def part(seeds: range, runs: int = 3) -> Counter[str]:
    """Watch some programs; print what is wrong."""
    counts: Counter[str] = Counter()
    kernel = UserKernel()
    for seed in seeds:
        watched = Watched(kernel, make_alone(seed))
        counts["seeds"] += 1
        counts["programs"] += 1
        wrong = "" if watched.skipped else next(filter(None, (watched.run(random.Random(f"{seed} {run}")) for run in range(runs))), "")
        counts["skipped" if watched.skipped else "wrong" if wrong else "same"] += 1
        if wrong:
            print(f"-- seed {seed}: {wrong}", flush=True)
        watched.close()
    return counts


def _watch(machine: Machine, states: Mapping[Place, list[Seen]], bounds: "_Bounds") -> None:
    """Look at each instruction before it is carried out, those of callbacks too. They raise Wrong."""
    step, call, callbacks = machine.step, machine.call, set[int]()

    def looked_at() -> bool:
        # A callback's frame has the helper's call where a function's has the instruction behind its call.
        backs = tuple(frame.back + (depth in callbacks) for depth, frame in enumerate(machine.frames[1:], 1))
        found = states.get((machine.pc, backs))
        if not found:
            raise Wrong(f"insn {machine.pc}: the verifier never came here")
        bounds.look()
        for place, seen in enumerate(found):
            if not bounds.outside(seen):
                # The next round is likely to lie there too.
                found[0], found[place] = seen, found[0]
                return step()
        raise Wrong(f"insn {machine.pc}: " + " | ".join(sorted({bounds.outside(seen) for seen in found})[:3]))

    def called(function: int, *args: int) -> int:
        depth = len(machine.frames)
        callbacks.add(depth)
        try:
            return call(function, *args)
        finally:
            callbacks.discard(depth)

    machine.step, machine.call = looked_at, called  # type: ignore[method-assign]


class _Bounds:
    """Whether a machine's registers and stack lie in a state."""

    def __init__(self, machine: Machine, xdp: Xdp, maps: dict[int, list[Map]]) -> None:
        self._machine, self._xdp, self._maps = machine, xdp, maps
        self._ctx = ctypes.addressof(xdp)
        self._words: tuple[int, ...] = ()

    def outside(self, seen: Seen) -> str:
        """What does not lie in a state, or nothing."""
        values = self._machine.registers
        for number, reg in seen.regs:
            if not self._holds(reg, values[number]):
                return f"r{number}={values[number]:#x} is not {reg.text(0)}"
        same: dict[int, int] = {}
        for number, id_ in seen.linked:
            if same.setdefault(id_, values[number]) != values[number]:
                return f"r{number}={values[number]:#x} is not the same as another with its id"
        for place, reg in seen.spilled:
            if not self._holds(reg, self._words[place]):
                return f"fp-{8 * (_SLOTS - place)}={self._words[place]:#x} is not {reg.text(0)}"
        for place, bytes_ in seen.zeros:
            if self._words[place] & bytes_:
                return f"fp-{8 * (_SLOTS - place)}={self._words[place]:#x} has bytes that are not 0"
        return ""

    def look(self) -> None:
        """Read the running function's stack."""
        self._words = _FRAME.unpack(ctypes.string_at(self._top(len(self._machine.frames) - 1) - _FRAME.size, _FRAME.size))

    def _top(self, frame: int) -> int:
        region = self._machine._stacks[frame]
        return region.base + region.size

    def _holds(self, reg: Reg, value: int) -> bool:
        kind = reg.kind
        if kind == SCALAR:
            return contains(reg.num, value)
        if kind == NOT_INIT or (reg.maybe_null and not value):
            return True
        if kind == PACKET_PTR:
            # So many bytes are proved from where the fixed part of its offset begins.
            proved = value - reg.off + max(reg.rng, 0) <= self._xdp.data_end
            return proved and contains(reg.num, value - reg.off - self._xdp.data & _WORD)
        if kind in (CTX, STACK):
            return contains(reg.num, value - reg.off - (self._ctx if kind == CTX else self._top(reg.frame)) & _WORD)
        if reg.kind == PACKET_END:
            return value == self._xdp.data_end
        if reg.kind == MAP_PTR:
            return any(value == held.address for held in self._maps[reg.fd])
        if reg.kind == MAP_VALUE and reg.fd >= 0 and ~reg.fd in self._maps:
            # What a map of maps answers with, until it is known that it is there.
            return any(value == held.address for held in self._maps[~reg.fd])
        if reg.kind == MAP_VALUE:
            return any(self._in_map(held, reg, value) for held in self._maps[reg.fd])
        if reg.kind == MEM:
            return any(self._inside(held, value) for (held, *_) in self._maps.values() if held.spec.map_type == MapType.RINGBUF)
        if reg.kind == MAP_KEY:
            return bool(value)
        return reg.kind == FUNC

    def _inside(self, held: Map, value: int) -> bool:
        return 0 <= value - held.data_address < held.header.data_size + 1

    def _in_map(self, held: Map, reg: Reg, value: int) -> bool:
        """In the map's memory; in an array also so far into an element as the state says."""
        if not self._inside(held, value):
            return False
        if held.spec.map_type != MapType.ARRAY:
            return True
        size, into = held.header.elem_size, value - held.data_address
        return any(contains(reg.num, into - size * number - reg.off & _WORD) for number in range(held.spec.max_entries))


def contains(num: Num, value: int) -> bool:
    """Whether a number is one of those that a Num stands for."""
    if value & ~num.mask & _WORD != num.value:
        return False
    low = value & 0xFFFFFFFF
    return (
        num.umin <= value <= num.umax
        and num.smin <= (value ^ _SIGN) - _SIGN <= num.smax
        and num.umin32 <= low <= num.umax32
        and num.smin32 <= (low ^ _SIGN32) - _SIGN32 <= num.smax32
    )
