"""Loops that are proved by coming back to a state within one that was walked: what belongs to them, what may widen in them."""

from ebpf.engine.verifier.compare import Ids
from ebpf.engine.verifier.reg import ANY, ANY_LINK, SCALAR, Reg
from ebpf.engine.verifier.state import Checkpoint, Slot, State
from ebpf.engine.verifier.structure import Structure


class Entries:
    """Loops as Linux told them before 6.17: by the first state that a path came back to."""

    #: How many states wait for their loops' end: none do.
    waiting = 0

    def __init__(self, structure: Structure) -> None:
        self._structure = structure

    def is_open(self, point: Checkpoint) -> bool:
        """Whether more may be found of what a state needs."""
        entry = _entry_of(point)
        return entry is not None and entry.branches > 0

    def remembered(self, point: Checkpoint) -> None:
        """A state is remembered."""

    def comes_back(self, state: State, point: Checkpoint) -> None:
        """A path ends at a state of an open loop."""
        if not point.branches:
            entry = _entry_of(point)
            if entry is not None:
                _enters(state, entry)
        elif point.slot not in self._structure.calls_back:
            _enters(state, point)

    def ended(self, state: State) -> None:
        """A path is done: with the last one through a checkpoint, all that follows from it is proved."""
        if state.parent is not None and state.loop_entry is not None:
            _enters(state.parent, state.loop_entry)
        point = state.parent
        while point is not None:
            point.branches -= 1
            if point.branches:
                return
            if point.parent is not None and point.loop_entry is not None:
                _enters(point.parent, point.loop_entry)
            point = point.parent


def _entry_of(point: "State | Checkpoint") -> Checkpoint | None:
    """The first state of the outermost loop that a state is part of."""
    top = point.loop_entry
    while top is not None and top.loop_entry is not None and top.loop_entry is not top:
        top = top.loop_entry
    point.loop_entry = top
    return top


def _enters(point: "State | Checkpoint", head: Checkpoint) -> None:
    """Note that the path from `point` comes back to `head`: while the loop is walked, what is proved in it may change."""
    mine = _entry_of(point)
    theirs = _entry_of(head) or head
    if theirs.branches and theirs.depth <= (point.depth if mine is None else mine.depth):
        point.loop_entry = head


def widen(slot: int, state: State, point: Checkpoint | None) -> None:
    """What a turn of a loop changed and nothing depends on may be any number: else loops would never come to an end.

    `point` is where to begin looking for the turn before.
    """
    while point is not None and not (point.slot == slot and point.branches and same_calls(point.state, state)):
        point = point.parent
    if point is None:
        return
    ids = Ids()
    for depth, frame in enumerate(state.frames):
        old = point.state.frames[depth]
        for at in range(10):
            a, b = old.regs[at], frame.regs[at]
            if a.kind == SCALAR and b.kind == SCALAR and not point.precise[depth] >> at & 1 and not _exact(a, b, ids):
                frame.regs[at] = ANY
        for at, held in frame.stack.items():
            was = old.stack.get(at)
            if was is None or not was.spilled or not held.spilled or was.types != held.types:
                continue
            a, b = was.reg, held.reg
            if a.kind == SCALAR and b.kind == SCALAR and not point.precise_slots[depth] >> at & 1 and not _exact(a, b, ids):
                frame.stack[at] = Slot(held.types, ANY)


def _exact(a: Reg, b: Reg, ids: Ids) -> bool:
    return a.num == b.num and a.off == b.off and (a.flags ^ b.flags) & ANY_LINK == 0 and ids.pair(a.id, b.id)


def same_calls(a: State, b: State) -> bool:
    """Whether both are in the same functions, called from the same places."""
    return len(a.frames) == len(b.frames) and all(x.back == y.back and x.start == y.start for x, y in zip(a.frames, b.frames, strict=True))
