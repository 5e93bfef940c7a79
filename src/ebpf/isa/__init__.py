"""RFC 9669: instructions, encoding, assembly and disassembly."""

from typing import TYPE_CHECKING

from ebpf.lazy import names

if TYPE_CHECKING:
    from ebpf.isa.assembler import asm
    from ebpf.isa.check import problem, unused
    from ebpf.isa.codec import Bytecode, by_slot, decode, encode
    from ebpf.isa.disassembler import disasm, disasm_one, xlated_imm
    from ebpf.isa.insn import Insn, called_register
    from ebpf.isa.table import OPCODES, Form, Opcode

__getattr__ = names(
    __name__,
    {
        "Bytecode": "codec",
        "by_slot": "codec",
        "decode": "codec",
        "encode": "codec",
        "Insn": "insn",
        "called_register": "insn",
        "asm": "assembler",
        "problem": "check",
        "unused": "check",
        "disasm": "disassembler",
        "disasm_one": "disassembler",
        "xlated_imm": "disassembler",
        "OPCODES": "table",
        "Form": "table",
        "Opcode": "table",
    },
)

__all__ = [
    "Bytecode",
    "Form",
    "Insn",
    "OPCODES",
    "Opcode",
    "asm",
    "by_slot",
    "called_register",
    "decode",
    "disasm",
    "disasm_one",
    "encode",
    "problem",
    "unused",
    "xlated_imm",
]
