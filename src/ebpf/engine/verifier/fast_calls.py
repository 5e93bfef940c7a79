"""Calls that keep registers: a compiler saves those that any call destroys on the stack, and Linux leaves that out again, if it may.

It may where nothing else of the function reaches that part of its stack, the lowest; then the function needs less.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from ebpf.engine.verifier.structure import Structure
from ebpf.isa import Insn
from ebpf.isa.opcodes import CALL, CALLX, EXIT
from ebpf.uapi import HELPERS, Arg, CallSrc, Ret

_STORE: Final = 0x7B
_LOAD: Final = 0x79
_SAVED: Final = 0b111111
#: What becomes instructions where it is called.
_HELPERS: Final = frozenset({"get_smp_processor_id"})
_KFUNCS: Final = frozenset({"bpf_cast_to_kern_ctx", "bpf_rdonly_cast"})


class FastCalls:
    """What of a program's stack only serves such calls. `part_of` are the slots of the stores and loads.

    `whole`: no jump may lead between them, which the newest Linux that was asked does not look at.
    """

    __slots__ = ("_from", "_kept", "_left_out", "part_of")

    def __init__(self, structure: Structure, kfuncs: Mapping[int, tuple[str, int]], *, whole: bool) -> None:
        self.part_of: set[int] = set()
        #: By function: where the part begins that may be left out, and whether some of it is, or must be kept.
        self._from: dict[int, int] = {}
        self._left_out: set[int] = set()
        self._kept: set[int] = set()
        aimed = _aimed_at(structure) if whole else set()
        for start in structure.starts:
            insns = structure.slots[start : structure.ends[start]]
            lowest = min((insn.off for insn in insns if insn is not None and insn.opcode == _STORE and insn.dst == 10), default=0)
            for slot, insn in enumerate(insns, start):
                if lowest < 0 and insn is not None and insn.opcode == CALL:
                    destroys, inlined = _call(insn, kfuncs)
                    pairs = self._pairs(structure.slots, aimed, slot, lowest, _SAVED & ~destroys)
                    if pairs:
                        (self._left_out if inlined else self._kept).add(start)
                        self._from[start] = min(self._from.get(start, 0), lowest + 8 * pairs)

    def _pairs(self, slots: Sequence[Insn | None], aimed: set[int], slot: int, off: int, left: int) -> int:
        """How many registers are saved around a call: of those in `left`, from `off` on."""
        pairs = 0
        while left and slot - pairs - 1 >= 0 and slot + pairs + 1 < len(slots):
            before, after = slot - pairs - 1, slot + pairs + 1
            store, load = slots[before], slots[after]
            if before + 1 in aimed or after in aimed or store is None or load is None:
                break
            same = store.src == load.dst and store.off == load.off == off and left >> store.src & 1
            if store.opcode != _STORE or load.opcode != _LOAD or store.dst != 10 or load.src != 10 or not same:
                break
            left &= ~(1 << store.src)
            self.part_of |= {before, after}
            off += 8
            pairs += 1
        return pairs

    def needed(self, start: int, depth: int, other: int) -> int:
        """How much stack a function needs that reaches so deep, and by its other instructions `other`."""
        begins = self._from.get(start, 0)
        if start not in self._left_out or start in self._kept or other > -begins:
            return depth
        return -begins


def _call(insn: Insn, kfuncs: Mapping[int, tuple[str, int]]) -> tuple[int, bool]:
    """The registers that a call destroys as bits, and whether it becomes instructions."""
    if insn.src == CallSrc.HELPER:
        row = HELPERS.get(insn.imm)
        if row is None or row.args is None:
            return _SAVED, False
        taken = sum(arg is not Arg.VARARG for arg in row.args)
        return ((1 << taken) - 1) << 1 | (row.ret != Ret.VOID), row.name in _HELPERS
    if insn.src == CallSrc.KFUNC_CALL and insn.imm in kfuncs:
        name, taken = kfuncs[insn.imm]
        return ((1 << taken) - 1) << 1 | 1, name in _KFUNCS
    return _SAVED, False


def _aimed_at(structure: Structure) -> set[int]:
    """Where jumps lead."""
    out = set()
    for slot, insn in enumerate(structure.slots):
        if insn is not None and insn.opcode & 7 in (5, 6) and insn.opcode not in (CALL, CALLX, EXIT):
            out.add(structure.successors(slot, insn)[-1])
    return out
