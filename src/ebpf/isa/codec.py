"""Bytes to instructions and back (little endian)."""

import struct
from collections.abc import Iterable

from ebpf.errors import FormatError
from ebpf.isa.insn import Insn
from ebpf.isa.opcodes import LD_IMM64

SLOT = struct.Struct("<BBhi")


def decode(code: bytes) -> tuple[Insn, ...]:
    """Decode bytecode (8 bytes a slot) in program order. Raises FormatError for a torn slot or half an ld_imm64."""
    if len(code) % 8:
        raise FormatError(f"bytecode of {len(code)} bytes is not a whole number of 8-byte slots")
    out: list[Insn] = []
    slots = SLOT.iter_unpack(code)
    for opcode, regs, off, imm in slots:
        high = 0
        if opcode == LD_IMM64:
            second = next(slots, None)
            if second is None or second[:3] != (0, 0, 0):
                raise FormatError("ld_imm64 without its second half", where=f"insn {len(out)}")
            high = second[3]
        out.append(Insn(opcode, regs & 0xF, regs >> 4, off, imm, high))
    return tuple(out)


def encode(insns: Iterable[Insn]) -> bytes:
    """Encode instructions as bytecode."""
    out = bytearray()
    for insn in insns:
        out += SLOT.pack(insn.opcode, insn.dst | insn.src << 4, insn.off, insn.imm)
        if insn.opcode == LD_IMM64:
            out += SLOT.pack(0, 0, 0, insn.imm_hi)
    return bytes(out)


def by_slot(insns: Iterable[Insn]) -> list[Insn | None]:
    """The instructions by slot number; None stands for the second half of an ld_imm64."""
    out: list[Insn | None] = []
    for insn in insns:
        out.append(insn)
        if insn.slots == 2:
            out.append(None)
    return out
