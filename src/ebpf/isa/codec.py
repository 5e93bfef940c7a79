"""Bytes to instructions and back (little endian)."""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import overload

from ebpf.errors import FormatError
from ebpf.isa.insn import Insn
from ebpf.isa.opcodes import LD_IMM64

SLOT = struct.Struct("<BBhi")
_IMM = struct.Struct("<i")
# The opcode, registers and offset of an ld_imm64's second half.
_SECOND = bytes(4)


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
    if isinstance(insns, Bytecode):
        return insns.raw
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


class Bytecode(Sequence[Insn]):
    """Instructions that stand as bytes, and are decoded when somebody goes through them: to find few among many, nobody needs to.

    Raises FormatError as `decode` does.
    """

    __slots__ = ("_found", "_imms", "_insns", "_size", "raw")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self._found: dict[int, list[int]] = {}
        self._imms: dict[tuple[int, ...], dict[int, int]] = {}
        wide = self.slots(LD_IMM64)
        self._size = len(raw) // 8 - len(wide)
        whole = len(raw) % 8 == 0 and all(raw[8 * slot + 8 : 8 * slot + 12] == _SECOND for slot in wide)
        # What is wrong, decoding says.
        self._insns = None if whole else decode(raw)

    @classmethod
    def of(cls, insns: Iterable[Insn]) -> "Bytecode":
        """Instructions as bytes, if they are not."""
        return insns if isinstance(insns, Bytecode) else cls(encode(insns))

    def slots(self, opcode: int, *kinds: int) -> list[int]:
        """The slots of the instructions with this opcode, and one of these in src if any are given, in order."""
        found = self._found.get(opcode)
        if found is None:
            found = self._found[opcode] = []
            opcodes = self.raw[::8]
            slot = opcodes.find(opcode)
            while slot >= 0:
                found.append(slot)
                slot = opcodes.find(opcode, slot + 1)
        return [slot for slot in found if self.raw[8 * slot + 1] >> 4 in kinds] if kinds else found[:]

    def at(self, slot: int) -> Insn:
        """The instruction that begins at a slot."""
        return decode(self.raw[8 * slot : 8 * slot + (16 if self.raw[8 * slot] == LD_IMM64 else 8)])[0]

    def imm(self, slot: int) -> int:
        """Its immediate number; of a wide one, the first half."""
        imm: int = _IMM.unpack_from(self.raw, 8 * slot + 4)[0]
        return imm

    def imms(self, opcode: int, *kinds: int) -> Mapping[int, int]:
        """The immediate numbers of the instructions that `slots` finds, by slot."""
        key = (opcode, *kinds)
        found = self._imms.get(key)
        if found is None:
            found = self._imms[key] = {slot: self.imm(slot) for slot in self.slots(opcode, *kinds)}
        return found

    def replaced(self, new: Mapping[int, Insn]) -> "Bytecode":
        """The same with other instructions at some slots, each as wide as the one that it takes the place of."""
        if not new:
            return self
        raw = bytearray(self.raw)
        for slot, insn in new.items():
            raw[8 * slot : 8 * (slot + insn.slots)] = encode([insn])
        return Bytecode(bytes(raw))

    def _decoded(self) -> tuple[Insn, ...]:
        if self._insns is None:
            self._insns = decode(self.raw)
        return self._insns

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, place: int) -> Insn: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Insn, ...]: ...
    def __getitem__(self, place: int | slice) -> Insn | tuple[Insn, ...]:
        return self._decoded()[place]

    def __iter__(self) -> Iterator[Insn]:
        return iter(self._decoded())
