"""Instructions that are none: opcodes that the kernel does not know, and fields that mean nothing."""

from typing import Final

from ebpf.isa import Insn
from ebpf.isa.opcodes import BYTES, CALL, EXIT, GOTOL, JA, LD_IMM64, MAY_GOTO, Alu, Atomic, Class, Jmp, Mode, Size
from ebpf.uapi import CallSrc

_ATOMICS = {int(a) for a in Atomic} - {int(Atomic.LOAD_ACQ), int(Atomic.STORE_REL)}
#: What is wrong with a test whose fields are wrong: that is seen only after its operand was looked at.
RESERVED_JUMP: Final = "BPF_JMP/JMP32 uses reserved fields"
RESERVED_LOAD: Final = "BPF_LD_[ABS|IND] uses reserved fields"


def problem_of(insn: Insn, opcodes: frozenset[int], *, cpu_v4: bool) -> str:
    """Why an instruction is none, or "", where a kernel knows the `opcodes`, and what came with cpu v4 or not."""
    return _unknown(insn, opcodes) or _invalid(insn) or ("" if cpu_v4 else _too_new(insn))


def _unknown(insn: Insn, opcodes: frozenset[int]) -> str:
    """Why an instruction is unknown, or ""."""
    if insn.opcode & 7 == Class.LDX and (insn.opcode & 0xE0 not in (Mode.MEM, Mode.MEMSX) or insn.imm):
        return "BPF_LDX uses reserved fields"
    if insn.opcode in opcodes:
        return ""
    # A load that extends the sign is of a mode that older Linux keeps for later.
    return "BPF_LDX uses reserved fields" if insn.opcode & 0xE7 == Class.LDX | Mode.MEMSX else f"unknown opcode {insn.opcode:02x}"


def _invalid(insn: Insn) -> str:
    """What is wrong with an instruction whose opcode is known, or ""."""
    kind, op = insn.opcode & 7, insn.opcode & 0xF0
    if kind in (Class.ALU, Class.ALU64):
        if op == Alu.END:
            if insn.imm not in (16, 32, 64) or insn.src or insn.off:
                return "BPF_END uses reserved fields"
        elif op == Alu.NEG:
            if insn.src or insn.off or insn.imm:
                return "BPF_NEG uses reserved fields"
        elif op == Alu.MOV and not insn.opcode & 8:
            if insn.src or insn.off:
                return "BPF_MOV uses reserved fields"
        elif op == Alu.MOV:
            allowed = (0, 8, 16, 32) if kind == Class.ALU64 else (0, 8, 16)
            if insn.off == 1 and kind == Class.ALU64:
                return "" if insn.imm in (1, 1 << 16) else "addr_space_cast insn can only convert between address space 1 and 0"
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
        return _invalid_jump(insn, op)
    mode = insn.opcode & 0xE0
    if kind == Class.LD:
        if insn.opcode == LD_IMM64:
            return "BPF_LD_IMM64 uses reserved fields" if insn.off else ""
        if insn.dst or insn.off or (mode == Mode.ABS and insn.src):
            return RESERVED_LOAD
        return ""
    if kind == Class.LDX:
        return ""
    if kind == Class.ST:
        return "" if not insn.src else "BPF_ST uses reserved fields"
    if mode == Mode.MEM:
        return "" if not insn.imm else "BPF_STX uses reserved fields"
    if insn.imm in (Atomic.LOAD_ACQ, Atomic.STORE_REL):
        return ""
    if BYTES[Size(insn.opcode & 0x18)] < 4 or insn.imm not in _ATOMICS:
        return f"BPF_ATOMIC uses invalid atomic opcode {insn.imm & 0xFFFFFFFF:02x}"
    return ""


def _too_new(insn: Insn) -> str:
    """Why an instruction of cpu v4 is none for a Linux that does not know them, or ""."""
    kind, op = insn.opcode & 7, insn.opcode & 0xF0
    if kind in (Class.ALU, Class.ALU64) and insn.off and op in (Alu.MOV, Alu.DIV, Alu.MOD):
        return "BPF_MOV uses reserved fields" if op == Alu.MOV else "BPF_ALU uses reserved fields"
    return ""


def _invalid_jump(insn: Insn, op: int) -> str:
    if insn.opcode == CALL:
        if (insn.off and insn.src != CallSrc.KFUNC_CALL) or insn.dst or insn.src > CallSrc.KFUNC_CALL:
            return "BPF_CALL uses reserved fields"
        return ""
    if insn.opcode == EXIT:
        return "BPF_EXIT uses reserved fields" if insn.dst or insn.src or insn.off or insn.imm else ""
    if op == Jmp.JA:
        if insn.dst or insn.src or (insn.opcode == JA and insn.imm) or (insn.opcode == GOTOL and insn.off):
            return "BPF_JA uses reserved fields"
        return ""
    if op == Jmp.JCOND:
        return "" if insn.opcode == MAY_GOTO and not (insn.src or insn.dst or insn.imm) else f"invalid may_goto imm {insn.imm}"
    if (insn.opcode & 8 and insn.imm) or (not insn.opcode & 8 and insn.src):
        return RESERVED_JUMP
    return ""
