"""Instructions as text, the way Linux's verifier and `bpftool prog dump xlated` write them."""

from collections.abc import Callable, Sequence

from ebpf.errors import UsageError
from ebpf.isa.insn import Insn
from ebpf.isa.opcodes import (
    CALL,
    CALLX,
    EXIT,
    FETCH,
    GOTOL,
    JA,
    LD_IMM64,
    MAY_GOTO,
    Alu,
    Atomic,
    Class,
    Jmp,
    Mode,
    Size,
)
from ebpf.uapi import CallSrc, PseudoSrc

ALU = {
    Alu.ADD: "+=",
    Alu.SUB: "-=",
    Alu.MUL: "*=",
    Alu.DIV: "/=",
    Alu.OR: "|=",
    Alu.AND: "&=",
    Alu.LSH: "<<=",
    Alu.RSH: ">>=",
    Alu.MOD: "%=",
    Alu.XOR: "^=",
    Alu.MOV: "=",
    Alu.ARSH: "s>>=",
}
JMP = {
    Jmp.JEQ: "==",
    Jmp.JGT: ">",
    Jmp.JGE: ">=",
    Jmp.JSET: "&",
    Jmp.JNE: "!=",
    Jmp.JSGT: "s>",
    Jmp.JSGE: "s>=",
    Jmp.JLT: "<",
    Jmp.JLE: "<=",
    Jmp.JSLT: "s<",
    Jmp.JSLE: "s<=",
}
SIZES = {Size.W: "u32", Size.H: "u16", Size.B: "u8", Size.DW: "u64"}
_SIGNED = {Size.W: "s32", Size.H: "s16", Size.B: "s8"}
ATOMIC = {Atomic.ADD: ("+=", "add"), Atomic.OR: ("|=", "or"), Atomic.AND: ("&=", "and"), Atomic.XOR: ("^=", "xor")}

#: Names an operand: given the instruction and its slot, its text, or None for the plain form.
Name = Callable[[Insn, int], str | None]


def _nothing(insn: Insn, slot: int) -> str | None:
    del insn, slot
    return None


def disasm_one(insn: Insn, slot: int = 0, *, name_call: Name = _nothing, name_imm: Name = _nothing) -> str:
    """One instruction as Linux writes it: `(b7) r0 = 1`. `name_call` and `name_imm` name calls and 64-bit immediates."""
    code = f"({insn.opcode:02x}) "
    kind = insn.opcode & 7
    if kind in (Class.ALU, Class.ALU64):
        return code + _alu(insn)
    if kind in (Class.JMP, Class.JMP32):
        return code + _jump(insn, slot, name_call)
    size = Size(insn.opcode & 0x18)
    mode = insn.opcode & 0xE0
    if kind == Class.LDX and mode == Mode.MEM:
        return f"{code}r{insn.dst} = *({SIZES[size]} *)(r{insn.src} {insn.off:+d})"
    if kind == Class.LDX and mode == Mode.MEMSX and size in _SIGNED:
        return f"{code}r{insn.dst} = *({_SIGNED[size]} *)(r{insn.src} {insn.off:+d})"
    if kind == Class.STX and mode == Mode.MEM:
        return f"{code}*({SIZES[size]} *)(r{insn.dst} {insn.off:+d}) = r{insn.src}"
    if kind == Class.ST and mode == Mode.MEM:
        return f"{code}*({SIZES[size]} *)(r{insn.dst} {insn.off:+d}) = {insn.imm}"
    if kind == Class.STX and mode == Mode.ATOMIC:
        return code + _atomic(insn, size)
    if insn.opcode == LD_IMM64:
        named = name_imm(insn, slot)
        value = (insn.imm & 0xFFFFFFFF) | (insn.imm_hi & 0xFFFFFFFF) << 32
        return f"{code}r{insn.dst} = {named if named is not None else hex(value)}"
    if kind == Class.LD and mode == Mode.ABS:
        return f"{code}r0 = *({SIZES[size]} *)skb[{insn.imm}]"
    if kind == Class.LD and mode == Mode.IND:
        return f"{code}r0 = *({SIZES[size]} *)skb[r{insn.src} + {insn.imm}]"
    return f"{code}unknown"


def xlated_imm(insn: Insn, slot: int) -> str | None:
    """Name a 64-bit immediate as `bpftool prog dump xlated` does: `map[id:7]`, `map[id:7][0]+4`, `subprog[+2]`."""
    del slot
    if insn.src == PseudoSrc.MAP_FD:
        return f"map[id:{insn.imm}]"
    if insn.src == PseudoSrc.MAP_VALUE:
        return f"map[id:{insn.imm}][0]+{insn.imm_hi & 0xFFFFFFFF}"
    return f"subprog[{insn.imm:+d}]" if insn.src == PseudoSrc.FUNC else None


def _alu(insn: Insn) -> str:
    wide = insn.opcode & 7 == Class.ALU64
    reg = "r" if wide else "w"
    try:
        op = Alu(insn.opcode & 0xF0)
    except ValueError:
        return "unknown"
    if op == Alu.END:
        if wide:
            return f"r{insn.dst} = bswap{insn.imm} r{insn.dst}"
        return f"r{insn.dst} = {'be' if insn.opcode & 8 else 'le'}{insn.imm} r{insn.dst}"
    if op == Alu.NEG:
        return f"{reg}{insn.dst} = -{reg}{insn.dst}"
    text = ALU[op]
    if not insn.opcode & 8:
        signed = "s" if op in (Alu.DIV, Alu.MOD) and insn.off == 1 else ""
        return f"{reg}{insn.dst} {signed}{text} {insn.imm}"
    if op == Alu.MOV and insn.off:
        return f"{reg}{insn.dst} = (s{insn.off}){reg}{insn.src}"
    signed = "s" if op in (Alu.DIV, Alu.MOD) and insn.off == 1 else ""
    return f"{reg}{insn.dst} {signed}{text} {reg}{insn.src}"


def _jump(insn: Insn, slot: int, name_call: Name) -> str:
    if insn.opcode == EXIT:
        return "exit"
    if insn.opcode == CALL:
        named = name_call(insn, slot)
        if named is not None:
            return f"call {named}"
        if insn.src == CallSrc.PSEUDO_CALL:
            return f"call pc{insn.imm:+d}"
        return f"call {'kfunc' if insn.src == CallSrc.KFUNC_CALL else 'unknown'}#{insn.imm}"
    if insn.opcode == CALLX:
        return f"callx r{insn.dst}"
    if insn.opcode == JA:
        return f"goto pc{insn.off:+d}"
    if insn.opcode == GOTOL:
        return f"gotol pc{insn.imm:+d}"
    if insn.opcode == MAY_GOTO:
        return f"may_goto pc{insn.off:+d}"
    reg = "r" if insn.opcode & 7 == Class.JMP else "w"
    try:
        sign = JMP[Jmp(insn.opcode & 0xF0)]
    except (ValueError, KeyError):
        return "unknown"
    if insn.opcode & 8:
        return f"if {reg}{insn.dst} {sign} {reg}{insn.src} goto pc{insn.off:+d}"
    return f"if {reg}{insn.dst} {sign} 0x{insn.imm & 0xFFFFFFFF:x} goto pc{insn.off:+d}"


def _atomic(insn: Insn, size: Size) -> str:
    where = f"({SIZES[size]} *)(r{insn.dst} {insn.off:+d})"
    wide = "64" if size == Size.DW else ""
    if insn.imm == Atomic.LOAD_ACQ:
        return f"r{insn.dst} = load_acquire(({SIZES[size]} *)(r{insn.src} {insn.off:+d}))"
    if insn.imm == Atomic.STORE_REL:
        return f"store_release({where}, r{insn.src})"
    if insn.imm == Atomic.CMPXCHG:
        return f"r0 = atomic{wide}_cmpxchg({where}, r0, r{insn.src})"
    if insn.imm == Atomic.XCHG:
        return f"r{insn.src} = atomic{wide}_xchg({where}, r{insn.src})"
    row = ATOMIC.get(Atomic(insn.imm & ~FETCH)) if insn.imm & ~FETCH in ATOMIC else None
    if row is None:
        return "unknown"
    if insn.imm & FETCH:
        return f"r{insn.src} = atomic{wide}_fetch_{row[1]}({where}, r{insn.src})"
    return f"lock *{where} {row[0]} r{insn.src}"


def disasm(insns: Sequence[Insn], *, style: str = "kernel", name_call: Name = _nothing, name_imm: Name = xlated_imm) -> list[str]:
    """A program as text, a line for each instruction with its slot before it: `   0: (b7) r0 = 1`.

    The style "clang" is that of clang's assembler, without opcodes: `   0: r0 = 1`; the names are for "kernel" alone.
    """
    if style not in ("kernel", "clang"):
        raise UsageError(f"no style {style!r} of disassembly: there are kernel and clang")
    from ebpf.isa.clang import clang_one

    lines = []
    slot = 0
    for insn in insns:
        one = clang_one(insn, slot) if style == "clang" else disasm_one(insn, slot, name_call=name_call, name_imm=name_imm)
        lines.append(f"{slot:4d}: {one}")
        slot += insn.slots
    return lines
