"""States remembered where paths may meet: a path ends where what follows was proved already, and loops come to an end."""

from typing import Final

from ebpf.engine.verifier.compare import COVERS, SAME, WITHIN, covers
from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.iterators import depths_differ, is_active
from ebpf.engine.verifier.log import Log
from ebpf.engine.verifier.loop_parts import Parts
from ebpf.engine.verifier.loops import Entries, same_calls
from ebpf.engine.verifier.precision import Trace, trace_back
from ebpf.engine.verifier.reg import SCALAR, STACK
from ebpf.engine.verifier.state import Checkpoint, State

#: A state is remembered after so many jumps and instructions; inside of a loop after so many more.
_JUMPS: Final = 2
_INSNS: Final = 8
_JUMPS_IN_LOOP: Final = 20
_INSNS_IN_LOOP: Final = 100


class Checkpoints:
    """The remembered states, by slot and caller. `jumps`, `processed` count what was walked, `made` the states, `kept` the most at once."""

    def __init__(self, env: Env, log: Log) -> None:
        self.env = env
        self.log = log
        self.at: dict[int, list[Checkpoint]] = {}
        tell = log.say if log.level & 2 else None
        self.loops: Entries | Parts = Parts(env.structure, self._learn_late, tell) if env.rules.loop_parts else Entries(env.structure)
        #: How many states were compared at most before one was added.
        self.most = 0
        self.jumps = 0
        self.made = 0
        self.kept = 0
        self._kept = 0
        self._jumps_then = 0
        self._processed_then = 0

    def proved(self, slot: int, state: State, processed: int) -> bool:
        """Whether what follows was proved already; if not, remember the state here, when that seems worth it."""
        forced = slot in self.env.structure.forced or state.noted > self.env.rules.longest_history or self.env.code.all_states
        jumps, insns = self.jumps - self._jumps_then, processed - self._processed_then
        add = forced or (jumps >= _JUMPS and insns >= _INSNS)
        place = self._place(slot, state)
        points = self.at.get(place)
        if points:
            dropped: list[Checkpoint] = []
            env, loops = self.env, self.loops
            # Where what of the stack is read is not found path by path, what is dead does not count in any comparison.
            masks: list[int] = self._live(slot, state) if env.live is not None else []
            if env.live is not None:
                self._clean(points, slot, state)
            for point in points:
                if point.slot != slot:
                    continue
                if point.branches:
                    hit = self._loops(slot, point, state, masks)
                    if not hit and not forced and jumps < _JUMPS_IN_LOOP and insns < _INSNS_IN_LOOP:
                        add = False
                else:
                    if not masks:
                        masks = self._live(slot, state)
                    how = WITHIN if loops.is_open(point) else COVERS
                    live = masks if how == COVERS or env.live is not None else []
                    hit = covers(point, state, live, how, lenient=env.lenient, forgets=env.rules.forgets_ids, strict=env.strict)
                if hit:
                    point.hits += 1
                    self._learn_from(point, state, env.slot)
                    if point.branches or how == WITHIN:
                        loops.comes_back(state, point)
                    self._drop(place, dropped)
                    return True
                if add:
                    point.misses += 1
                n = 64 if point.branches and slot in env.structure.forced else 3
                if point.misses > point.hits * n + n:
                    dropped.append(point)
            self.most = max(self.most, len(points))
            self._drop(place, dropped)
        if add:
            self._remember(slot, place, state, processed)
        return False

    def _place(self, slot: int, state: State) -> int:
        """Where states of a slot are: as in Linux, those of another caller do not count as looked at in vain."""
        return (slot ^ state.frames[-1].back & 0xFFFFFFFF) % len(self.env.structure.slots)

    def _drop(self, place: int, points: list[Checkpoint]) -> None:
        """Forget states that are not worth keeping: what is forgotten is walked again."""
        if points:
            # One that a path still goes on from stays where Linux counts it.
            self._kept -= sum(not point.branches for point in points)
            self.at[place] = [point for point in self.at[place] if point not in points]

    def _clean(self, points: list[Checkpoint], slot: int, state: State) -> None:
        """Of states that all paths were walked from: what of their stacks is read."""
        live = self.env.live
        assert live is not None
        for point in points:
            if point.cleaned or point.branches or point.slot != slot or not same_calls(point.state, state) or self.loops.is_open(point):
                continue
            point.read = live.alive(point.state.frames, slot)
            point.cleaned = True

    def _live(self, slot: int, state: State) -> list[int]:
        """Per frame, a bit for each register that is still read."""
        live = self.env.structure.live
        masks = [live[frame.back] if frame.callback else live[frame.back + 1] & 0x3C0 for frame in state.frames[1:]]
        masks.append(live[slot])
        return masks

    def _loops(self, slot: int, point: Checkpoint, state: State, masks: list[int]) -> bool:
        """Whether a loop that came back here has been walked enough. Raises Refusal if it may never end."""
        env = self.env
        structure = env.structure
        if slot in structure.forced:
            if slot in structure.calls_back:
                return covers(point, state, masks, WITHIN, lenient=env.lenient, forgets=env.rules.forgets_ids)
            if slot in structure.advances:
                return covers(point, state, masks, WITHIN, lenient=env.lenient, forgets=env.rules.forgets_ids) and _goes_on(state)
            if point.state.may_goto != state.may_goto and covers(
                point, state, masks, WITHIN, lenient=env.lenient, forgets=env.rules.forgets_ids
            ):
                return True
        if (
            point.state.may_goto == state.may_goto
            and not depths_differ(point.state, state)
            and point.state.unrolled == state.unrolled
            and covers(point, state, masks, SAME, lenient=env.lenient, forgets=env.rules.forgets_ids)
        ):
            raise env.refuse(
                "endless-loop",
                f"infinite loop detected at insn {slot}\ncur state:{self.log.state(env, state)}\n"
                f"old state:{self.log.at_point(env, point, len(state.frames) - 1)}",
                "a loop comes back to where it was with nothing changed: it may never end",
            )
        return False

    def _remember(self, slot: int, place: int, state: State, processed: int) -> None:
        self._jumps_then, self._processed_then = self.jumps, processed
        new = Checkpoint(slot, state.copy(), state.parent)
        self.made += 1
        self._kept += 1
        self.kept = max(self.kept, self._kept + self.loops.waiting)
        self.loops.remembered(new)
        self.at.setdefault(place, []).insert(0, new)
        state.parent = new
        state.depth += 1
        state.noted = 0
        for frame in state.frames:
            frame.written = 0
        state.history = (state.history, -1, new)

    def _learn_late(self, point: Checkpoint, state: State) -> bool:
        return self._learn_from(point, state, point.slot)

    def _learn_from(self, point: Checkpoint, state: State, slot: int) -> bool:
        """The path ends at a state that was proved: what that proof read and needed exactly, this path did too.

        Whether that is more than was known of the path.
        """
        env = self.env
        trace = Trace(len(state.frames) - 1)
        live = self._live(point.slot, point.state) if point.cleaned else []
        found = False
        for depth, frame in enumerate(point.state.frames):
            if point.read[depth] and env.live is None:
                env.reads_stack(depth, point.read[depth])
            regs, slots = point.precise[depth], point.precise_slots[depth]
            if point.cleaned:
                regs, slots = regs & live[depth], slots & point.read[depth]
            mine = state.frames[depth]
            if regs:
                wanted = 0
                for at in range(10):
                    if regs >> at & 1 and frame.regs[at].kind == SCALAR and mine.regs[at].kind == SCALAR:
                        wanted |= 1 << at
                trace.regs[depth] = wanted
                found = found or wanted != 0
            if slots:
                wanted = 0
                for at, held in frame.stack.items():
                    if slots >> at & 1 and held.spilled and held.reg.kind == SCALAR:
                        wanted |= 1 << at
                trace.slots[depth] = wanted
                found = found or wanted != 0
        if not found:
            return False
        if env.tell is not None:
            for depth in range(trace.frame, -1, -1):
                env.tell.learns(depth, trace.regs[depth], trace.slots[depth])
        return trace_back(env.structure, state, slot, trace, env.tell)


def _goes_on(state: State) -> bool:
    """Whether the iterator that is advanced here has elements left."""
    pointer = state.frames[-1].regs[1]
    return pointer.kind == STACK and is_active(state.frames[pointer.frame], (-pointer.off - pointer.num.smin - 1) // 8)
