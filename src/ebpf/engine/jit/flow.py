"""How control goes through a function: its jumps, its blocks, and what goes back."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from ebpf.isa import Insn
from ebpf.isa.opcodes import CALL, CALLX, EXIT, GOTOL, JA, Class


def target(slot: int, insn: Insn) -> int:
    """Where a jump goes."""
    return slot + 1 + (insn.imm if insn.opcode == GOTOL else insn.off)


def is_jump(insn: Insn) -> bool:
    """Whether an instruction ends a block: a jump, or the exit."""
    return insn.opcode & 7 in (Class.JMP, Class.JMP32) and insn.opcode not in (CALL, CALLX)


class Blocks:
    """The blocks of a function that are reached, their edges, and which of those go back."""

    def __init__(self, slots: Sequence[Insn | None], leaders: Iterable[int], end: int) -> None:
        self.slots = slots
        self.ends = dict(pairwise([*sorted(leaders), end]))
        self.back: list[tuple[int, int]] = []
        self.before: dict[int, list[int]] = {}
        self.order = self._walk(min(self.ends))

    def last(self, block: int) -> tuple[int, Insn]:
        """A block's last instruction and its slot."""
        for slot in range(self.ends[block] - 1, block - 1, -1):
            insn = self.slots[slot]
            if insn is not None:
                return slot, insn
        raise AssertionError("a block has an instruction")

    def after(self, block: int) -> list[int]:
        """Where a block goes on; what lies outside the function is left out."""
        slot, insn = self.last(block)
        if not is_jump(insn):
            places = [self.ends[block]]
        elif insn.opcode == EXIT:
            places = []
        else:
            places = [target(slot, insn)] + ([] if insn.opcode in (JA, GOTOL) else [slot + 1])
        return [place for place in dict.fromkeys(places) if place in self.ends]

    def _walk(self, start: int) -> list[int]:
        """The blocks that are reached, each before those that it goes on to unless it goes back to them."""
        done: list[int] = []
        open_, seen = {start}, {start}
        path: list[tuple[int, Iterator[int]]] = [(start, iter(self.after(start)))]
        while path:
            block, places = path[-1]
            place = next(places, None)
            if place is None:
                path.pop()
                open_.discard(block)
                done.append(block)
                continue
            self.before.setdefault(place, []).append(block)
            if place in open_:
                self.back.append((block, place))
            elif place not in seen:
                open_.add(place)
                seen.add(place)
                path.append((place, iter(self.after(place))))
        return done[::-1]

    def inside(self, head: int) -> set[int] | None:
        """The blocks of the loop with this head; None if it has another way in, or a loop in it."""
        blocks = {head}
        waiting = [block for block, place in self.back if place == head]
        while waiting:
            block = waiting.pop()
            if block not in blocks:
                blocks.add(block)
                waiting += self.before.get(block, [])
        if head != self.order[0] and self.order[0] in blocks:
            return None
        return None if any(place != head and block in blocks and place in blocks for block, place in self.back) else blocks
