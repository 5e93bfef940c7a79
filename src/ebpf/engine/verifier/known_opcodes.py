"""The opcodes that a Linux knows: any other is refused before a program is walked, wherever it stands."""

from functools import cache
from typing import Final

from ebpf.engine.verifier.rules import Rules
from ebpf.isa.opcodes import CALL, EXIT, GOTOL, JA, LD_IMM64, MAY_GOTO, Alu, Class, Jmp, Mode, Size

_REGISTER: Final = 8
_SIZES: Final = (Size.W, Size.H, Size.B, Size.DW)


@cache
def known(rules: Rules) -> frozenset[int]:
    """All of them."""
    out = {int(LD_IMM64), int(JA), int(CALL), int(EXIT)}
    for kind in (Class.ALU, Class.ALU64):
        out |= {kind | op | source for op in Alu if op not in (Alu.NEG, Alu.END) for source in (0, _REGISTER)}
        out |= {kind | Alu.NEG}
    out |= {Class.ALU | Alu.END, Class.ALU | Alu.END | _REGISTER}
    tests = [op for op in Jmp if op not in (Jmp.JA, Jmp.CALL, Jmp.EXIT, Jmp.JCOND)]
    out |= {kind | op | source for kind in (Class.JMP, Class.JMP32) for op in tests for source in (0, _REGISTER)}
    out |= {Class.LD | mode | size for mode in (Mode.ABS, Mode.IND) for size in (Size.W, Size.H, Size.B)}
    out |= {kind | Mode.MEM | size for kind in (Class.LDX, Class.ST, Class.STX) for size in _SIZES}
    out |= {Class.STX | Mode.ATOMIC | size for size in (_SIZES if rules.load_acquire else (Size.W, Size.DW))}
    if rules.cpu_v4:
        out |= {int(GOTOL), Class.ALU64 | Alu.END} | {Class.LDX | Mode.MEMSX | size for size in (Size.W, Size.H, Size.B)}
    if rules.may_goto:
        out.add(int(MAY_GOTO))
    return frozenset(out)
