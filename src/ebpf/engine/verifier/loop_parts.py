"""Loops as Linux tells them since 6.17: the strongly connected parts of the program, as its chains of calls enter them.

While paths are walked in a part, a state of it that comes back to one that was walked is kept: what the other needs to be exact
may not be known yet. When all paths from the state that entered the part have ended, that is passed on to those that were kept,
until nothing changes.
"""

from collections.abc import Callable
from typing import Final

from ebpf.engine.verifier.graph import parts
from ebpf.engine.verifier.precision import everything
from ebpf.engine.verifier.state import Checkpoint, State
from ebpf.engine.verifier.structure import Structure

#: After so many turns all numbers are taken to matter.
_TURNS: Final = 64


class Visit:
    """A part as one chain of calls is in it: the state that entered it, and those that came back to one that was walked."""

    __slots__ = ("back", "entry", "key")

    def __init__(self, key: tuple[int, ...]) -> None:
        self.key = key
        self.entry: Checkpoint | None = None
        self.back: list[tuple[Checkpoint, State]] = []

    @property
    def text(self) -> str:
        """The chain of calls and the part's number, as Linux's log has them."""
        return f"({','.join(map(str, self.key))})"


class Parts:
    """The parts of a program. `learn` passes on what a state needs to be exact; `tell` gets the lines of a log of level 2."""

    def __init__(self, structure: Structure, learn: Callable[[Checkpoint, State], bool], tell: Callable[[str], None] | None) -> None:
        self._parts = parts(structure)
        self._learn = learn
        self._tell = tell
        self._visits: dict[tuple[int, ...], Visit] = {}
        #: How many states are kept for their parts' end.
        self.waiting = 0

    def is_open(self, point: Checkpoint) -> bool:
        """Whether more may be found of what a state needs."""
        return point.visit is not None and bool(point.visit.back)

    def remembered(self, point: Checkpoint) -> None:
        """A state is remembered: it may be the first one of its part."""
        key: list[int] = []
        frames = point.state.frames
        for depth in range(len(frames)):
            slot = frames[depth + 1].back if depth + 1 < len(frames) else point.slot
            part = self._parts.get(slot, 0)
            if part:
                place = (*key, part)
                visit = self._visits.get(place)
                if visit is None:
                    visit = self._visits[place] = Visit(place)
                point.visit = visit
                if visit.entry is None:
                    visit.entry = point
                    self._say(f"SCC enter {visit.text}")
                return
            key.append(slot)

    def comes_back(self, state: State, point: Checkpoint) -> None:
        """A path ends at a state of an open part."""
        visit = point.visit
        if visit is not None:
            visit.back.append((point, state))
            self.waiting += 1
            self._say(f"SCC backedge {visit.text}")

    def ended(self, state: State) -> None:
        """A path is done: with the last one through a checkpoint, all that follows from it is proved."""
        point = state.parent
        while point is not None:
            point.branches -= 1
            if point.branches:
                return
            visit = point.visit
            if visit is not None and visit.entry is point:
                self._leave(visit)
            point = point.parent

    def _leave(self, visit: Visit) -> None:
        self._say(f"SCC exit {visit.text}")
        visit.entry = None
        self.waiting -= len(visit.back)
        changed, turns = True, 0
        while changed:
            turns += 1
            if turns > _TURNS + 1:
                for _, state in visit.back:
                    everything(state)
                break
            changed = False
            for point, state in reversed(visit.back):
                if self._learn(point, state):
                    changed = True
        visit.back = []

    def _say(self, text: str) -> None:
        if self._tell is not None:
            self._tell(text)
