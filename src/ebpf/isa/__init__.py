"""RFC 9669: instructions, encoding, assembler and disassembler."""

from ebpf.isa.insn import Insn

__all__ = ["Insn"]
