"""Instructions as text, the way clang's assembler reads and writes them.

Calls of the program's own functions and of kernel functions, and 64-bit immediates that name a map, have no words there:
they are written as in the kernel's style.
"""

from typing import Final

from ebpf.isa.disassembler import ATOMIC, JMP, SIZES, disasm_one, xlated_imm
from ebpf.isa.insn import Insn
from ebpf.isa.opcodes import CALL, FETCH, GOTOL, JA, LD_IMM64, MAY_GOTO, Atomic, Class, Jmp, Mode, Size
from ebpf.isa.table import OPCODES, Form
from ebpf.uapi import CallSrc, PseudoSrc

_GOTO: Final = {JA: "goto", GOTOL: "gotol", MAY_GOTO: "may_goto"}


def clang_one(insn: Insn, slot: int = 0) -> str:
    """One instruction as clang writes it: `w2 = *(u32 *)(r1 + 4)`, `if r1 s> -1 goto +3`, `r1 = 5 ll`."""
    row = OPCODES.get(insn.opcode)
    if row is None:
        return "<unknown>"
    if row.form in (Form.LOAD, Form.STORE, Form.STORE_IMM):
        return _memory(insn)
    if row.form is Form.ATOMIC:
        return _atomic(insn)
    if row.form in (Form.BRANCH, Form.BRANCH_IMM):
        reg = "r" if row.bits == 64 else "w"
        right = f"{reg}{insn.src}" if row.form is Form.BRANCH else str(insn.imm)
        return f"if {reg}{insn.dst} {JMP[Jmp(insn.opcode & 0xF0)]} {right} goto {insn.off:+d}"
    if row.form in (Form.JUMP, Form.JUMP_WIDE):
        return f"{_GOTO[insn.opcode]} {insn.imm if insn.opcode == GOTOL else insn.off:+d}"
    if insn.opcode == CALL and insn.src == CallSrc.HELPER:
        return f"call {insn.imm}"
    if insn.opcode == LD_IMM64 and insn.src == PseudoSrc.NONE:
        return f"r{insn.dst} = {(insn.imm & 0xFFFFFFFF) | insn.imm_hi << 32} ll"
    if row.form is Form.PACKET_SRC:
        place = f"r{insn.src}" + (f" + {insn.imm}" if insn.imm else "")
        return f"r0 = *({SIZES[Size(insn.opcode & 0x18)]} *)skb[{place}]"
    return disasm_one(insn, slot, name_imm=xlated_imm).partition(") ")[2]


def _at(register: int, off: int) -> str:
    return f"(r{register} {'-' if off < 0 else '+'} {abs(off)})"


def _memory(insn: Insn) -> str:
    size, signed = Size(insn.opcode & 0x18), insn.opcode & 0xE0 == Mode.MEMSX
    name = SIZES[size].replace("u", "s") if signed else SIZES[size]
    reg = "r" if size == Size.DW or signed else "w"
    kind = insn.opcode & 7
    if kind == Class.LDX:
        return f"{reg}{insn.dst} = *({name} *){_at(insn.src, insn.off)}"
    value = str(insn.imm) if kind == Class.ST else f"{reg}{insn.src}"
    return f"*({name} *){_at(insn.dst, insn.off)} = {value}"


def _atomic(insn: Insn) -> str:
    size = Size(insn.opcode & 0x18)
    reg, bits = ("r", 64) if size == Size.DW else ("w", 32)
    cell = f"({SIZES[size]} *){_at(insn.dst, insn.off)}"
    where, src = _at(insn.dst, insn.off)[1:-1], f"{reg}{insn.src}"
    exchange = "_64" if bits == 64 else "32_32"
    if insn.imm == Atomic.LOAD_ACQ:
        return f"{reg}{insn.dst} = load_acquire(({SIZES[size]} *){_at(insn.src, insn.off)})"
    if insn.imm == Atomic.STORE_REL:
        return f"store_release({cell}, {src})"
    if insn.imm == Atomic.XCHG:
        return f"{src} = xchg{exchange}({where}, {src})"
    if insn.imm == Atomic.CMPXCHG:
        return f"{reg}0 = cmpxchg{exchange}({where}, {reg}0, {src})"
    if insn.imm & ~FETCH not in ATOMIC:
        return "<unknown>"
    sign, name = ATOMIC[Atomic(insn.imm & ~FETCH)]
    if insn.imm & FETCH:
        return f"{src} = atomic_fetch_{name}({cell}, {src})"
    return f"lock *{cell} {sign} {src}"
