"""RFC 9669: instructions, encoding, assembly and disassembly."""

from ebpf.isa.asm import asm
from ebpf.isa.check import problem
from ebpf.isa.codec import by_slot, decode, encode
from ebpf.isa.disasm import disasm, disasm_one, xlated_imm
from ebpf.isa.insn import Insn, called_register
from ebpf.isa.table import OPCODES, Form, Opcode

__all__ = [
    "called_register",
    "OPCODES",
    "Form",
    "Insn",
    "Opcode",
    "asm",
    "by_slot",
    "decode",
    "disasm",
    "disasm_one",
    "encode",
    "problem",
    "xlated_imm",
]
