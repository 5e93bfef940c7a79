"""RFC 9669: instructions, encoding and disassembly."""

from ebpf.isa.codec import by_slot, decode, encode
from ebpf.isa.disasm import disasm, disasm_one
from ebpf.isa.insn import Insn

__all__ = ["Insn", "by_slot", "decode", "disasm", "disasm_one", "encode"]
