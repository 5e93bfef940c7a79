"""A program that shows a difference made small, and written out."""

from collections.abc import Callable
from dataclasses import replace

from fuzz.shapes import Made

from ebpf.isa import Insn, disasm
from ebpf.isa.opcodes import EXIT, LD_IMM64

_NOTHING = Insn(0x05)


def shrink(made: Made, differs: Callable[[Made], bool]) -> Made:
    """The same difference with as many instructions as possible replaced by jumps to the next one."""
    changed = True
    while changed:
        changed = False
        for place in reversed(range(len(made.insns))):
            insn = made.insns[place]
            if insn == _NOTHING or insn.opcode in (EXIT, LD_IMM64):
                continue
            tried = replace(made, insns=(*made.insns[:place], _NOTHING, *made.insns[place + 1 :]))
            if differs(tried):
                made, changed = tried, True
    return made


def text(made: Made) -> str:
    """The program in words, without the jumps that do nothing."""
    return "\n".join(line for line in disasm(list(made.insns)) if "goto pc+0" not in line and "goto +0" not in line)
