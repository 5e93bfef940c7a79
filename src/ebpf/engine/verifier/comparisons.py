"""The operations of jumps that compare, as plain numbers: an enum's members take much longer to compare."""

from typing import Final

from ebpf.isa.opcodes import Jmp

JEQ: Final = int(Jmp.JEQ)
JNE: Final = int(Jmp.JNE)
JGT: Final = int(Jmp.JGT)
JGE: Final = int(Jmp.JGE)
JLT: Final = int(Jmp.JLT)
JLE: Final = int(Jmp.JLE)
JSGT: Final = int(Jmp.JSGT)
JSGE: Final = int(Jmp.JSGE)
JSLT: Final = int(Jmp.JSLT)
JSLE: Final = int(Jmp.JSLE)
JSET: Final = int(Jmp.JSET)
