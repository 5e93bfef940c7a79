"""A program's graph of instructions: the order in which facts flow back through it, and its loops."""

from ebpf.engine.verifier.structure import Structure


def backwards(structure: Structure, start: int) -> list[int]:
    """The slots of a function, each after what follows it, as far as loops permit: Linux's order, which its log shows."""
    out: list[int] = []
    found = {start}
    done: set[int] = set()
    stack = [start]
    while stack:
        slot = stack[-1]
        if slot in done:
            out.append(slot)
            stack.pop()
            continue
        for each in structure.following[slot]:
            if each not in found:
                found.add(each)
                stack.append(each)
        done.add(slot)
    return out


def parts(structure: Structure) -> dict[int, int]:
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
            if slot not in before:
                before[slot] = low[slot] = order
                order += 1
                held.append(slot)
            nexts = structure.following[slot]
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
            part = [held.pop()]
            while part[-1] != slot:
                part.append(held.pop())
            loop = len(part) > 1 or slot in nexts
            for each in part:
                del low[each]
                if loop:
                    found[each] = number
            number += loop
    return found
