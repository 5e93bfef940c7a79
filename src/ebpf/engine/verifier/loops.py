"""Loops that are proved by coming back to a state within one that was walked: what belongs to them, what may widen in them."""

from ebpf.engine.verifier.reg import ANY, SCALAR
from ebpf.engine.verifier.state import Checkpoint, Slot, State


def entry_of(point: "State | Checkpoint") -> Checkpoint | None:
    """The first state of the outermost loop that a state is part of."""
    top = point.loop_entry
    while top is not None and top.loop_entry is not None and top.loop_entry is not top:
        top = top.loop_entry
    point.loop_entry = top
    return top


def enters(point: "State | Checkpoint", head: Checkpoint) -> None:
    """Note that the path from `point` comes back to `head`: while the loop is walked, what is proved in it may change."""
    mine = entry_of(point)
    theirs = entry_of(head) or head
    if theirs.branches and theirs.depth <= (point.depth if mine is None else mine.depth):
        point.loop_entry = head


def path_ended(state: State) -> None:
    """A path is done: with the last one through a checkpoint, all that follows from it is proved."""
    if state.parent is not None and state.loop_entry is not None:
        enters(state.parent, state.loop_entry)
    point = state.parent
    while point is not None:
        point.branches -= 1
        if point.branches:
            return
        if point.parent is not None and point.loop_entry is not None:
            enters(point.parent, point.loop_entry)
        point = point.parent


def widen(slot: int, state: State, point: Checkpoint | None) -> None:
    """What a turn of a loop changed and nothing depends on may be any number: else loops would never come to an end.

    `point` is where to begin looking for the turn before.
    """
    while point is not None and not (point.slot == slot and point.branches and _same_calls(point.state, state)):
        point = point.parent
    if point is None:
        return
    for depth, frame in enumerate(state.frames):
        old = point.state.frames[depth]
        for at in range(10):
            a, b = old.regs[at], frame.regs[at]
            if a.kind == SCALAR and b.kind == SCALAR and a.num != b.num and not point.precise[depth] >> at & 1:
                frame.regs[at] = ANY
        for at, held in frame.stack.items():
            was = old.stack.get(at)
            if was is None or not was.spilled or not held.spilled or was.types != held.types:
                continue
            a, b = was.reg, held.reg
            if a.kind == SCALAR and b.kind == SCALAR and a.num != b.num and not point.precise_slots[depth] >> at & 1:
                frame.stack[at] = Slot(held.types, ANY)


def _same_calls(a: State, b: State) -> bool:
    return len(a.frames) == len(b.frames) and all(x.back == y.back and x.start == y.start for x, y in zip(a.frames, b.frames, strict=True))
