"""What the log of level 2 says of the search for where numbers come from that decided something, in Linux's words."""

from collections.abc import Callable

from ebpf.engine.verifier.reg import SCALAR
from ebpf.engine.verifier.state import Checkpoint


class PrecisionText:
    """Says each step of the search. `say` adds a line; `insn` gives an instruction's text, `frame` a frame's state at a checkpoint."""

    def __init__(self, say: Callable[[str], None], insn: Callable[[int], str], frame: Callable[[Checkpoint, int], str]) -> None:
        self._say, self._insn, self._frame = say, insn, frame

    def begins(self, depth: int, last: int, first: int, after: int) -> None:
        """The search goes back through the instructions from `last` to `first`."""
        self._say(f"mark_precise: frame{depth}: last_idx {last} first_idx {first} subseq_idx {after} ")

    def step(self, depth: int, regs: int, slots: int, slot: int) -> None:
        """It comes by an instruction."""
        self._say(f"mark_precise: frame{depth}: regs={_regs(regs)} stack={_slots(slots)} before {self._insn(slot)}")

    def point(self, point: Checkpoint, depth: int, regs: int, slots: int) -> None:
        """It comes by a remembered state, of which `regs` and `slots` were not searched for before."""
        self._say(f"mark_precise: frame{depth}: parent state regs={_regs(regs)} stack={_slots(slots)}: {self._frame(point, depth)}")

    def lost(self, depth: int) -> None:
        """It cannot be followed: everything counts."""
        self._say(f"mark_precise: frame{depth}: falling back to forcing all scalars precise")

    def forced(self, point: Checkpoint, depth: int) -> None:
        """All numbers of a remembered state's frame are taken to count, those that did not yet."""
        frame = point.state.frames[depth]
        names = [f"r{at}" for at in range(10) if frame.regs[at].kind == SCALAR and not point.precise[depth] >> at & 1]
        for at in sorted(frame.stack):
            held = frame.stack[at]
            if held.spilled and held.reg.kind == SCALAR and not point.precise_slots[depth] >> at & 1:
                names.append(f"fp{-8 * (at + 1)}")
        for name in names:
            self._say(f"force_precise: frame{depth}: forcing {name} to be precise")

    def learns(self, depth: int, regs: int, slots: int) -> None:
        """What a proof needed exactly is searched for on the path that ends at it."""
        names = [f"r{at}" for at in range(10) if regs >> at & 1] + [f"fp{-8 * (at + 1)}" for at in range(64) if slots >> at & 1]
        if names:
            self._say(f"frame {depth}: propagating {','.join(names)}")


def _regs(mask: int) -> str:
    return ",".join(f"r{at}" for at in range(10) if mask >> at & 1)


def _slots(mask: int) -> str:
    return ",".join(f"{-8 * (at + 1)}" for at in range(64) if mask >> at & 1)
