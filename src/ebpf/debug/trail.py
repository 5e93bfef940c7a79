"""The way to a refusal, walked backwards: where a value came from, what was checked, what made it void."""

from collections.abc import Sequence
from typing import Final

from ebpf.isa import Insn, by_slot
from ebpf.isa.opcodes import CALL, EXIT, GOTOL, JA, LD_IMM64, Alu, Class
from ebpf.uapi import HELPERS, CallSrc

_ARGUMENTS: Final = frozenset(range(1, 6))


def _moves_packet(insn: Insn) -> bool:
    row = HELPERS.get(insn.imm) if insn.src == CallSrc.HELPER else None
    return row is not None and row.moves_packet


class Trail:
    """The instructions walked to a refusal, the refused one last."""

    def __init__(self, insns: Sequence[Insn], path: Sequence[int]) -> None:
        self.slots = by_slot(insns)
        self.path = [slot for slot in path if 0 <= slot < len(self.slots)]

    def insn(self, at: int) -> Insn:
        """The instruction at a place of the path."""
        found = self.slots[self.path[at]]
        assert found is not None
        return found

    def origin(self, register: int, at: int | None = None) -> int | None:
        """The place of the path where a register's value was made: copies and spills are followed back."""
        place = (len(self.path) if at is None else at) - 1
        if at is None:
            place -= 1
        stack: int | None = None
        depth = 0
        while place >= 0:
            insn = self.insn(place)
            kind = insn.opcode & 7
            if insn.opcode == EXIT:
                depth += 1
            elif insn.opcode == CALL and insn.src == CallSrc.PSEUDO_CALL:
                depth -= 1
                if depth < 0:
                    # What the caller passed, in the same registers.
                    depth = 0
            elif depth == 0:
                if stack is not None:
                    if kind == Class.STX and insn.dst == 10 and insn.off == stack:
                        register, stack = insn.src, None
                    elif kind == Class.ST and insn.dst == 10 and insn.off == stack:
                        return place
                elif self._writes(insn, register):
                    if kind in (Class.ALU, Class.ALU64) and insn.opcode & 0xF0 == Alu.MOV and insn.opcode & 8:
                        register = insn.src
                    elif kind in (Class.ALU, Class.ALU64) and insn.opcode & 0xF0 != Alu.MOV and not insn.opcode & 8:
                        # Moved or masked by a constant: what it was made from is before.
                        pass
                    elif kind == Class.LDX and insn.src == 10:
                        stack = insn.off
                    else:
                        return place
            place -= 1
        return None

    def writer(self, register: int) -> int | None:
        """The place of the last instruction that wrote to a register."""
        for place in range(len(self.path) - 2, -1, -1):
            if self._writes(self.insn(place), register):
                return place
        return None

    def _writes(self, insn: Insn, register: int) -> bool:
        kind = insn.opcode & 7
        if kind in (Class.ALU, Class.ALU64, Class.LDX) or insn.opcode == LD_IMM64:
            return insn.dst == register
        if insn.opcode == CALL:
            return register == 0 or register in _ARGUMENTS
        return False

    def comparisons(self, register: int | None = None) -> list[tuple[int, bool]]:
        """The conditional jumps of the path with whether they were taken, newest first; of one register's value if named."""
        out = []
        names = {register} if register is not None else None
        for place in range(len(self.path) - 2, -1, -1):
            insn = self.insn(place)
            kind = insn.opcode & 7
            if kind in (Class.JMP, Class.JMP32) and insn.opcode not in (CALL, EXIT, JA, GOTOL):
                if names is None or insn.dst in names or (insn.opcode & 8 and insn.src in names):
                    out.append((place, self.path[place + 1] != self.path[place] + 1))
            elif names is not None and kind in (Class.ALU, Class.ALU64) and insn.opcode & 0xF0 == Alu.MOV and insn.opcode & 8:
                # A copy: what is known of one is known of the other.
                if insn.dst in names:
                    names = (names - {insn.dst}) | {insn.src}
                elif insn.src in names:
                    names = names | {insn.dst}
            elif names is not None and self._writes_any(insn, names):
                break
        return out

    def _writes_any(self, insn: Insn, names: set[int]) -> bool:
        kind = insn.opcode & 7
        if kind in (Class.ALU, Class.ALU64):
            # Arithmetic changes the value that was compared before; constants added to a pointer do not.
            return insn.dst in names and bool(insn.opcode & 8)
        return any(self._writes(insn, name) for name in names)

    def last_call(self, *, moves_packet: bool = False) -> int | None:
        """The place of the last call, or of the last one that moved the packet."""
        for place in range(len(self.path) - 2, -1, -1):
            insn = self.insn(place)
            if insn.opcode == CALL and (not moves_packet or _moves_packet(insn)):
                return place
        return None

    def helper(self, place: int) -> str:
        """The name of the helper that is called at a place, or ""."""
        insn = self.insn(place)
        row = HELPERS.get(insn.imm) if insn.opcode == CALL and insn.src == CallSrc.HELPER else None
        return f"bpf_{row.name}" if row is not None else ""
