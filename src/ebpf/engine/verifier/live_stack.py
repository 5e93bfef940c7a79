"""Which slots of the stack may still be read, by what is found of the instructions on all paths together.

Since 6.18 Linux keeps for each instruction, in each way in which its function is called, what it may read and what it surely
writes, and lets that flow back through the function's graph whenever a path or a function ends. What no instruction reads any
more does not count when states are compared.
"""

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from typing import Final

from ebpf.engine.verifier.graph import backwards
from ebpf.engine.verifier.state import Frame, State
from ebpf.engine.verifier.structure import Structure
from ebpf.isa import Insn
from ebpf.isa.opcodes import CALL, LD_IMM64
from ebpf.uapi import CallSrc

_TAIL_CALL: Final = 12


class Masks:
    """Of one frame's stack, a bit for each slot, per instruction of a function.

    `read` may be read there, `write` is written whenever it runs, `before` may be read there or later, `after` is written there
    or later on all ways.
    """

    __slots__ = ("after", "before", "dirty", "read", "write")

    def __init__(self, count: int) -> None:
        self.read = [0] * count
        self.write = [0] * count
        self.before = [0] * count
        self.after = [0] * count
        #: The instructions that what is known of changed.
        self.dirty: set[int] = set()


class Called:
    """A function as it is called by one chain of calls: `chain` has their slots, and where the function begins."""

    __slots__ = ("chain", "depth", "frames", "inner", "lost", "outer", "seen", "size", "start", "updated")

    def __init__(self, start: int, size: int, outer: "Called | None" = None, callsite: int = -1) -> None:
        self.start = start
        self.size = size
        self.outer = outer
        self.depth: int = 0 if outer is None else outer.depth + 1
        self.chain: tuple[int, ...] = (start,) if outer is None else (*outer.chain[:-1], callsite, start)
        #: By the frame whose stack it is: of its callers and its own.
        self.frames: dict[int, Masks] = {}
        self.inner: dict[tuple[int, int], Called] = {}
        self.seen: set[int] = set()
        #: Whether something changed since facts flowed last; whether what was written always is not any more.
        self.updated = self.lost = False

    def masks(self, depth: int) -> Masks:
        """What is known of a frame's stack."""
        found = self.frames.get(depth)
        if found is None:
            found = self.frames[depth] = Masks(self.size)
        return found

    def reads(self, depth: int, slot: int, mask: int) -> None:
        """The instruction at `slot` may read slots of a frame."""
        masks, at = self.masks(depth), slot - self.start
        if mask & ~masks.read[at]:
            masks.read[at] |= mask
            masks.dirty.add(at)
            # Linux lets it flow only when it is news.
            self.updated = self.updated or mask & ~masks.before[at] != 0

    def writes(self, slot: int, written: Sequence[int]) -> None:
        """The instruction at `slot` ran once and wrote slots of the frames: what it does not write each time, it may leave."""
        at = slot - self.start
        again = at in self.seen
        for depth, mask in enumerate(written):
            if not mask and not again:
                continue
            masks = self.masks(depth)
            old = masks.write[at]
            now = mask & old if again else mask
            if now != old:
                masks.write[at] = now
                masks.dirty.add(at)
                self.updated = True
                self.lost = self.lost or old & ~now != 0
        self.seen.add(at)

    def before(self, depth: int, slot: int) -> int:
        """The slots of a frame that may be read from the instruction at `slot` on, before this function returns."""
        masks = self.frames.get(depth)
        at = slot - self.start
        return masks.before[at] if masks is not None and at < self.size else 0


class LiveStack:
    """The functions of a program as they are called. `tell`, if given, gets the lines that Linux's log of level 2 has of it."""

    def __init__(self, structure: Structure, tell: Callable[[str], None] | None = None) -> None:
        self._structure = structure
        self._tell = tell
        self._roots: dict[int, Called] = {}
        self._orders: dict[int, tuple[list[int], list[int], list[list[int]]]] = {}
        #: Where a function may end in the middle, with what follows not written. 6.18 does not think of it, and lets programs
        #: leave their stack so; Linux learnt it later.
        self._ends = {slot for slot, insn in enumerate(structure.slots) if insn is not None and _may_end(insn)}

    def root(self, start: int) -> Called:
        """A function that nothing calls."""
        found = self._roots.get(start)
        if found is None:
            found = self._roots[start] = Called(start, self._structure.ends[start] - start)
        return found

    def inside(self, outer: Called, callsite: int, start: int) -> Called:
        """A function that the instruction at `callsite` of another calls."""
        found = outer.inner.get((callsite, start))
        if found is None:
            found = outer.inner[callsite, start] = Called(start, self._structure.ends[start] - start, outer, callsite)
        return found

    def ran(self, state: State, slot: int) -> None:
        """An instruction that may write to the stack ran."""
        frames = state.frames
        written = [frame.written for frame in frames]
        for frame in frames:
            frame.written = 0
        called = frames[-1].called
        assert called is not None
        called.writes(slot, written)

    def update(self, state: State) -> None:
        """A path or a function ends: let what is known flow back through the functions that run."""
        for frame in reversed(state.frames):
            called = frame.called
            assert called is not None
            if called.updated:
                self._flow(called)

    def alive(self, frames: Sequence[Frame], slot: int) -> list[int]:
        """Of each frame the slots of stack that may be read from the instruction at `slot` on."""
        top = len(frames) - 1
        out = []
        for depth in range(len(frames)):
            called = frames[top].called
            assert called is not None
            mask = called.before(depth, slot)
            for at in range(depth, top):
                callsite, outer = frames[at + 1].back, frames[at].called
                assert outer is not None
                mask |= outer.before(depth, callsite if callsite in self._structure.calls_back else callsite + 1)
            out.append(mask)
        return out

    def _flow(self, called: Called) -> None:
        if called.lost:
            for masks in called.frames.values():
                for at, mask in enumerate(masks.after):
                    if mask:
                        masks.after[at] = 0
                        masks.dirty.add(at)
                        masks.dirty.update(self._order(called.start)[2][at])
        turns = 0
        for depth in sorted(called.frames):
            turns = self._flow_frame(called, depth)
        if self._tell is not None:
            self._tell(f"({','.join(map(str, called.chain))}) live stack update done in {turns} iterations")
        if called.outer is not None:
            self._pass_out(called, called.outer)
        called.updated = called.lost = False

    def _flow_frame(self, called: Called, depth: int) -> int:
        """Turns over the function's instructions until nothing changes, looking only at those that something changed for."""
        order, places, befores = self._order(called.start)
        masks, following, start = called.frames[depth], self._structure.following, called.start
        read, write, before, after = masks.read, masks.write, masks.before, masks.after
        # What it writes of its own stack concerns nobody else.
        outwards = depth < called.depth or self._tell is not None
        waiting = [places[at] for at in masks.dirty]
        heapify(waiting)
        masks.dirty.clear()
        turns, changed = 0, True
        while changed:
            turns, changed = turns + 1, False
            later: list[int] = []
            done = -1
            while waiting:
                place = heappop(waiting)
                if place == done:
                    continue
                done = place
                at = order[place]
                live, ways = 0, following[start + at]
                always = -1 if ways and start + at not in self._ends else 0
                for each in ways:
                    live |= before[each - start]
                    always &= after[each - start]
                live = live & ~write[at] | read[at]
                always = always | write[at] if outwards else 0
                if live == before[at] and always == after[at]:
                    continue
                if self._tell is not None:
                    self._tell_change(called, depth, at, live, always)
                before[at], after[at] = live, always
                changed = True
                for each in befores[at]:
                    if places[each] > place:
                        heappush(waiting, places[each])
                    else:
                        later.append(places[each])
            waiting = later
            heapify(waiting)
        return turns

    def _pass_out(self, called: Called, outer: Called) -> None:
        """What a function does with the stacks of its callers, its call does."""
        callsite = called.chain[-2]
        written = [0] * called.depth
        for depth in range(called.depth):
            masks = called.frames.get(depth)
            if masks is not None:
                written[depth] = masks.after[0]
                outer.reads(depth, callsite, masks.before[0])
        outer.writes(callsite, written)

    def _order(self, start: int) -> tuple[list[int], list[int], list[list[int]]]:
        """Of a function: its instructions in the order of flow, the place of each in it, and what leads to each."""
        found = self._orders.get(start)
        if found is None:
            size = self._structure.ends[start] - start
            order = [slot - start for slot in backwards(self._structure, start)]
            places, befores = [-1] * size, [[] for _ in range(size)]  # type: tuple[list[int], list[list[int]]]
            for place, at in enumerate(order):
                places[at] = place
                for each in self._structure.following[start + at]:
                    befores[each - start].append(at)
            found = self._orders[start] = order, places, befores
        return found

    def _tell_change(self, called: Called, depth: int, at: int, live: int, always: int) -> None:
        masks, slot = called.frames[depth], called.start + at
        if not (masks.read[at] or masks.write[at] or at == 0 or slot in self._structure.prunes):
            return
        for name, old, new in (("live", masks.before[at], live), ("written", masks.after[at], always)):
            if old != new:
                more = f"+{name} {_slots(new & ~old)} " if new & ~old else ""
                less = f"-{name} {_slots(old & ~new)} " if old & ~new else ""
                assert self._tell is not None
                self._tell(f"({','.join(map(str, called.chain))}) frame {depth} insn {slot} {more}{less}")


def _may_end(insn: Insn) -> bool:
    """Whether a function may end at an instruction that goes on: a tail call, or a load from a packet that is too short."""
    if insn.opcode & 7 == 0:
        return insn.opcode != LD_IMM64
    return insn.opcode == CALL and insn.src == CallSrc.HELPER and insn.imm == _TAIL_CALL


def _slots(mask: int) -> str:
    return ",".join(str(-8 * (at + 1)) for at in range(mask.bit_length()) if mask >> at & 1)
