"""What the log of level 2 says of a program before a path is walked, in Linux's words: its functions, and which registers live."""

from collections.abc import Callable

from ebpf.engine.verifier.structure import Structure


def shape(structure: Structure, text: Callable[[int], str]) -> list[str]:
    """The lines; `text` gives an instruction's, with its slot."""
    loops = _loops(structure)
    out = [f"func#{number} @{start}" for number, start in enumerate(structure.starts)]
    out.append("Live regs before insn:")
    for slot, insn in enumerate(structure.slots):
        if insn is None:
            continue
        live = "".join(str(at) if structure.live[slot] >> at & 1 else "." for at in range(10))
        loop = f"{loops[slot]:3} " if slot in loops else "    "
        number, _, rest = text(slot).partition(": ")
        out.append(f"{loop}{number:>3}: {live} {rest}")
    return out


def _loops(structure: Structure) -> dict[int, int]:
    """Of each slot in a loop, the loop's number: strongly connected parts, numbered in the order in which they are complete."""
    found: dict[int, int] = {}
    number, order = 1, 1
    before: dict[int, int] = {}
    low: dict[int, int] = {}
    held: list[int] = []
    for first, insn in enumerate(structure.slots):
        if insn is None or first in before:
            continue
        walk = [first]
        while walk:
            slot = walk[-1]
            this = structure.slots[slot]
            assert this is not None
            if slot not in before:
                before[slot] = low[slot] = order
                order += 1
                held.append(slot)
            nexts = structure.successors(slot, this)
            fresh = next((each for each in nexts if each not in before), None)
            if fresh is not None:
                walk.append(fresh)
                continue
            for each in nexts:
                if each in low:
                    low[slot] = min(low[slot], low[each])
            walk.pop()
            if low[slot] < before[slot]:
                continue
            part = held[held.index(slot) :]
            del held[-len(part) :]
            for each in part:
                del low[each]
                if len(part) > 1 or slot in nexts:
                    found[each] = number
            if len(part) > 1 or slot in nexts:
                number += 1
    return found
