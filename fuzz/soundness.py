"""What the verifier says of registers, held against what they are: accepted programs run step by step on packets by chance.

At each instruction every register and every slot of the stack must lie in one of the states that the verifier came there with.
It walks every path for this: where it stops at a state that was proved, numbers that do not matter may be any. And nothing faults.
"""

import ctypes
import random
from collections import Counter, defaultdict
from dataclasses import dataclass

from fuzz.engines import Session
from fuzz.programs import make_alone
from fuzz.shapes import MAPS, PACKET, Made

from ebpf.engine.interp import Machine
from ebpf.engine.program import Code
from ebpf.engine.runtime.abi import Xdp
from ebpf.engine.verifier.explore import Explorer
from ebpf.engine.verifier.log import Log
from ebpf.engine.verifier.num import Num, s32, s64
from ebpf.engine.verifier.refusal import Refusal
from ebpf.engine.verifier.reg import ANY_LINK, CTX, MAP_PTR, MAP_VALUE, NOT_INIT, PACKET_END, SCALAR, STACK, Reg
from ebpf.engine.verifier.reg import PACKET as PACKET_PTR
from ebpf.engine.verifier.rules import NEWEST
from ebpf.engine.verifier.state import SPILL, ZERO_BYTE, Checkpoint, Slot, State
from ebpf.errors import EbpfError
from ebpf.isa import Insn, decode
from ebpf.kernels.user.kernel import UserKernel
from ebpf.kernels.user.maps import Map
from ebpf.kernels.user.run import interpreter, surroundings

_MOST_STEPS = 15_000
_WORD = (1 << 64) - 1
_HEADROOM = 256

Place = tuple[int, tuple[int, ...]]


@dataclass(frozen=True)
class Seen:
    """A frame as the verifier came to an instruction with it."""

    regs: tuple[Reg, ...]
    stack: dict[int, Slot]


class Walker(Explorer):
    """Walks every path and keeps what it came to each instruction with, by instruction and calls."""

    def __init__(self, code: Code) -> None:
        super().__init__(code, NEWEST, Log(0, {}), _MOST_STEPS)
        self.places: defaultdict[Place, list[Seen]] = defaultdict(list)
        self.points.proved = self._go_on  # type: ignore[method-assign]

    def _go_on(self, slot: int, state: State, processed: int) -> bool:
        """Nothing was proved before; a state that comes from nowhere leaves no number to widen."""
        state.parent = Checkpoint(slot, state.copy(), None)
        return False

    def _step(self, slot: int, insn: Insn, state: State) -> int:
        place = slot, tuple(frame.back + 1 for frame in state.frames[1:])
        frame = state.frames[-1]
        self.places[place].append(Seen(tuple(frame.regs), dict(frame.stack)))
        return super()._step(slot, insn, state)


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
            return self._steps(machine, xdp)

    def _steps(self, machine: Machine, xdp: Xdp) -> str:
        bounds = _Bounds(machine, xdp, {fd: held.map for fd, held in self._held.maps.items()})
        try:
            while machine.running:
                place = machine.pc, tuple(frame.back for frame in machine.frames[1:])
                states = self._states.get(place)
                if not states:
                    return f"insn {machine.pc}: the verifier never came here"
                if all(bounds.outside(seen) for seen in states):
                    wrong = {bounds.outside(seen) for seen in states}
                    return f"insn {machine.pc}: " + " | ".join(sorted(wrong)[:3])
                machine.step()
        except EbpfError as error:
            return f"fault: {error}"
        return ""

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


class _Bounds:
    """Whether a machine's registers and stack lie in a state."""

    def __init__(self, machine: Machine, xdp: Xdp, maps: dict[int, Map]) -> None:
        self._machine, self._maps = machine, maps
        self._ctx, self._data, self._end = ctypes.addressof(xdp), xdp.data, xdp.data_end

    def outside(self, seen: Seen) -> str:
        """What does not lie in a state, or nothing."""
        values = self._machine.registers
        same: dict[int, int] = {}
        for number, reg in enumerate(seen.regs):
            if not self._holds(reg, values[number]):
                return f"r{number}={values[number]:#x} is not {reg.text(0)}"
            if reg.kind == SCALAR and reg.id and not reg.flags & ANY_LINK and same.setdefault(reg.id, values[number]) != values[number]:
                return f"r{number}={values[number]:#x} is not the same as another with its id"
        top = self._top(len(self._machine.frames) - 1)
        for at, slot in seen.stack.items():
            held = ctypes.string_at(top - 8 * (at + 1), 8)
            if any(kind == ZERO_BYTE and byte for kind, byte in zip(slot.types, held)):
                return f"fp-{8 * (at + 1)}={held.hex()} has bytes that are not 0"
            if bytes(slot.types) == bytes([SPILL]) * 8 and not self._holds(slot.reg, int.from_bytes(held, "little")):
                return f"fp-{8 * (at + 1)}={held[::-1].hex()} is not {slot.reg.text(0)}"
        return ""

    def _top(self, frame: int) -> int:
        region = self._machine._stacks[frame]
        return region.base + region.size

    def _holds(self, reg: Reg, value: int) -> bool:
        if reg.kind == NOT_INIT:
            return True
        if reg.maybe_null and not value:
            return True
        base = {SCALAR: 0, CTX: self._ctx, STACK: self._top(reg.frame), PACKET_PTR: self._data}.get(reg.kind)
        if base is not None:
            return contains(reg.num, value - reg.off - base & _WORD) if reg.kind != SCALAR else contains(reg.num, value)
        if reg.kind == PACKET_END:
            return value == self._end
        if reg.kind == MAP_PTR:
            return value == self._maps[reg.fd].address
        if reg.kind == MAP_VALUE:
            return self._in_map(reg, value)
        return False

    def _in_map(self, reg: Reg, value: int) -> bool:
        """In the map's memory; in an array also so far into an element as the state says."""
        held = self._maps[reg.fd]
        into = value - held.data_address
        if not 0 <= into < held.header.data_size + 1:
            return False
        if held.spec.map_type != MAPS[0].type:
            return True
        size = held.header.elem_size
        return any(contains(reg.num, into - size * number - reg.off & _WORD) for number in range(held.spec.max_entries))


def contains(num: Num, value: int) -> bool:
    """Whether a number is one of those that a Num stands for."""
    low = value & 0xFFFFFFFF
    return (
        value & ~num.mask & _WORD == num.value
        and num.umin <= value <= num.umax
        and num.smin <= s64(value) <= num.smax
        and num.umin32 <= low <= num.umax32
        and num.smin32 <= s32(low) <= num.smax32
    )
