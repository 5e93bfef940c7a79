"""The shape of a program before any path is walked: instructions that exist, jumps that land, subprograms, liveness."""

from ebpf.engine.verifier.refusal import Refusal
from ebpf.isa import Insn, by_slot
from ebpf.isa.opcodes import BYTES, CALL, CALLX, EXIT, FETCH, GOTOL, JA, LD_IMM64, MAY_GOTO, Alu, Atomic, Class, Jmp, Mode, Size
from ebpf.uapi import CallSrc

_ATOMICS = {int(a) for a in Atomic} - {int(Atomic.LOAD_ACQ), int(Atomic.STORE_REL)}
_CALLER_SAVED = 0b111110


class Structure:
    """A program's instructions by slot, its subprograms, jump targets and live registers."""

    def __init__(self, insns: tuple[Insn, ...]) -> None:
        self.slots = by_slot(insns)
        if not insns:
            raise Refusal("the program is empty", "no instructions")
        self.starts = self._find_starts()
        self.targets: set[int] = set()
        for slot, insn in enumerate(self.slots):
            if insn is not None:
                self._check(slot, insn)
        self._reach()
        self.live = self._liveness()

    def function_of(self, slot: int) -> int:
        """The first slot of the subprogram that a slot is in."""
        return max(start for start in self.starts if start <= slot)

    def _find_starts(self) -> list[int]:
        starts = {0}
        for slot, insn in enumerate(self.slots):
            if insn is not None and insn.opcode == CALL and insn.src == CallSrc.PSEUDO_CALL:
                target = slot + 1 + insn.imm
                if not 0 <= target < len(self.slots) or self.slots[target] is None:
                    raise Refusal("a call leads out of the program", f"call to invalid destination {target}", slot)
                starts.add(target)
        return sorted(starts)

    def successors(self, slot: int, insn: Insn) -> list[int]:
        """Where control may go next inside the function."""
        if insn.opcode == EXIT:
            return []
        if insn.opcode == JA:
            return [slot + 1 + insn.off]
        if insn.opcode == GOTOL:
            return [slot + 1 + insn.imm]
        if insn.opcode & 7 in (Class.JMP, Class.JMP32) and insn.opcode not in (CALL, CALLX):
            return [slot + 1, slot + 1 + insn.off]
        return [slot + insn.slots]

    def _check(self, slot: int, insn: Insn) -> None:
        if insn.dst > 10 or insn.src > 10:
            raise Refusal("an instruction names a register that does not exist", f"R{max(insn.dst, insn.src)} is invalid", slot)
        problem = _invalid(insn)
        if problem:
            raise Refusal("an instruction is not one that Linux knows", problem, slot)
        start = self.function_of(slot)
        end = next((s for s in self.starts if s > start), len(self.slots))
        for target in self.successors(slot, insn):
            if not start <= target < end or self.slots[target] is None:
                if insn.opcode & 7 in (Class.JMP, Class.JMP32) and insn.opcode not in (CALL, CALLX) and target != slot + 1:
                    raise Refusal(
                        "a jump leads out of its function or into the middle of an instruction",
                        f"jump out of range from insn {slot} to {target}",
                        slot,
                    )
                raise Refusal("a function does not end in an exit or a jump", "last insn is not an exit or jmp", slot)
        if insn.opcode & 7 in (Class.JMP, Class.JMP32) and insn.opcode not in (CALL, CALLX, EXIT):
            self.targets.update(self.successors(slot, insn))

    def _reach(self) -> None:
        seen: set[int] = set()
        work = [0]
        while work:
            slot = work.pop()
            if slot in seen:
                continue
            seen.add(slot)
            insn = self.slots[slot]
            if insn is None:
                continue
            work.extend(self.successors(slot, insn))
            if insn.opcode == CALL and insn.src == CallSrc.PSEUDO_CALL:
                work.append(slot + 1 + insn.imm)
        for slot, insn in enumerate(self.slots):
            if insn is not None and slot not in seen:
                raise Refusal("part of the program can never be reached", f"unreachable insn {slot}", slot)

    def _liveness(self) -> list[int]:
        """For each slot, a bit for each register that is read before it is written."""
        live = [0] * len(self.slots)
        changed = True
        while changed:
            changed = False
            for slot in range(len(self.slots) - 1, -1, -1):
                insn = self.slots[slot]
                if insn is None:
                    continue
                after = 0
                for target in self.successors(slot, insn):
                    after |= live[target]
                uses, defines = _effects(insn)
                now = (after & ~defines) | uses
                if now != live[slot]:
                    live[slot] = now
                    changed = True
        return live


def _effects(insn: Insn) -> tuple[int, int]:
    """The registers that an instruction reads and writes, as bits."""
    dst, src = 1 << insn.dst, 1 << insn.src
    kind = insn.opcode & 7
    if kind in (Class.ALU, Class.ALU64):
        uses = src if insn.opcode & 8 and insn.opcode & 0xF0 != Alu.END else 0
        if insn.opcode & 0xF0 != Alu.MOV:
            uses |= dst
        return uses, dst
    if kind == Class.LDX:
        return src, dst
    if kind == Class.ST:
        return dst, 0
    if kind == Class.STX:
        if insn.opcode & 0xE0 != Mode.ATOMIC:
            return dst | src, 0
        if insn.imm == Atomic.LOAD_ACQ:
            return src, dst
        if insn.imm == Atomic.CMPXCHG:
            return dst | src | 1, 1
        return dst | src, src if insn.imm & FETCH else 0
    if kind == Class.LD:
        return (0, dst) if insn.opcode == LD_IMM64 else (src | 1 << 6, 1)
    if insn.opcode == EXIT:
        return 1, 0
    if insn.opcode in (CALL, CALLX):
        return _CALLER_SAVED, 1 | _CALLER_SAVED
    if insn.opcode in (JA, GOTOL, MAY_GOTO):
        return 0, 0
    return dst | (src if insn.opcode & 8 else 0), 0


def _invalid(insn: Insn) -> str:
    """Why an instruction is none, or ""."""
    kind, op = insn.opcode & 7, insn.opcode & 0xF0
    if kind in (Class.ALU, Class.ALU64):
        if op > Alu.END:
            return f"unknown opcode {insn.opcode:02x}"
        if op == Alu.END:
            if insn.imm not in (16, 32, 64) or insn.src or insn.off or (kind == Class.ALU64 and insn.opcode & 8):
                return "BPF_END uses reserved fields"
        elif op == Alu.NEG:
            if insn.opcode & 8 or insn.src or insn.off or insn.imm:
                return "BPF_NEG uses reserved fields"
        elif op == Alu.MOV and insn.opcode & 8:
            allowed = (0, 8, 16, 32) if kind == Class.ALU64 else (0, 8, 16)
            if insn.off not in allowed or insn.imm:
                return "BPF_MOV uses reserved fields"
        elif (
            (insn.opcode & 8 and insn.imm)
            or (not insn.opcode & 8 and insn.src)
            or insn.off not in ((0, 1) if op in (Alu.DIV, Alu.MOD) else (0,))
        ):
            return "BPF_ALU uses reserved fields"
        if op in (Alu.DIV, Alu.MOD) and not insn.opcode & 8 and insn.imm == 0:
            return "div by zero"
        if op in (Alu.LSH, Alu.RSH, Alu.ARSH) and not insn.opcode & 8:
            width = 64 if kind == Class.ALU64 else 32
            if not 0 <= insn.imm < width:
                return f"invalid shift {insn.imm}"
        return ""
    if kind in (Class.JMP, Class.JMP32):
        return _invalid_jump(insn, kind, op)
    mode = insn.opcode & 0xE0
    if kind == Class.LD:
        if insn.opcode == LD_IMM64:
            return "invalid bpf_ld_imm64 insn" if insn.off else ""
        return "LD_ABS and LD_IND: not judged yet" if mode in (Mode.ABS, Mode.IND) else f"unknown opcode {insn.opcode:02x}"
    if kind == Class.LDX:
        if mode not in (Mode.MEM, Mode.MEMSX) or (mode == Mode.MEMSX and insn.opcode & 0x18 == Size.DW) or insn.imm:
            return f"unknown opcode {insn.opcode:02x}" if mode not in (Mode.MEM, Mode.MEMSX) else "BPF_LDX uses reserved fields"
        return ""
    if kind == Class.ST:
        return "" if mode == Mode.MEM and not insn.src else "BPF_ST uses reserved fields"
    if mode == Mode.MEM:
        return "" if not insn.imm else "BPF_STX uses reserved fields"
    if mode == Mode.ATOMIC:
        if insn.imm in (Atomic.LOAD_ACQ, Atomic.STORE_REL):
            return ""
        if BYTES[Size(insn.opcode & 0x18)] < 4 or insn.imm not in _ATOMICS:
            return f"BPF_ATOMIC uses invalid atomic opcode {insn.imm:02x}"
        return ""
    return f"unknown opcode {insn.opcode:02x}"


def _invalid_jump(insn: Insn, kind: int, op: int) -> str:
    if insn.opcode == CALL:
        if insn.off or insn.dst or insn.src > CallSrc.KFUNC_CALL:
            return "BPF_CALL uses reserved fields"
        return ""
    if insn.opcode == CALLX:
        return "a call by register: not judged yet"
    if insn.opcode == EXIT:
        return "BPF_EXIT uses reserved fields" if insn.dst or insn.src or insn.off or insn.imm else ""
    if op == Jmp.JA:
        if (
            insn.opcode not in (JA, GOTOL)
            or insn.dst
            or insn.src
            or (insn.opcode == JA and insn.imm)
            or (insn.opcode == GOTOL and insn.off)
        ):
            return "BPF_JA uses reserved fields"
        return ""
    if op == Jmp.JCOND:
        return "" if insn.opcode == MAY_GOTO and not insn.src and not insn.imm else "invalid may_goto"
    if op > Jmp.JSLE or op in (Jmp.CALL, Jmp.EXIT):
        return f"unknown opcode {insn.opcode:02x}"
    if insn.opcode & 8 and insn.imm:
        return "BPF_JMP uses reserved fields"
    if not insn.opcode & 8 and insn.src:
        return "BPF_JMP uses reserved fields"
    del kind
    return ""
