"""RFC 9669: instructions, encoding, assembler and disassembler."""

from ebpf.isa.codec import by_slot, decode, encode
from ebpf.isa.insn import Insn

__all__ = ["Insn", "by_slot", "decode", "encode"]
