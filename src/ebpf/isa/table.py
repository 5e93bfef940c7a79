"""Every opcode that is an instruction, one row each. Source: RFC 9669 and the kernel's own additions to it.

`since` is the first Linux that has it. What an instruction means is in `engine/interp`, how it is written in `disasm`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from ebpf.isa.opcodes import (
    BYTES,
    CALL,
    CALLX,
    EXIT,
    GOTOL,
    JA,
    LD_IMM64,
    MAY_GOTO,
    Alu,
    Class,
    Jmp,
    K,
    Mode,
    Size,
    X,
)


class Form(Enum):
    """Which fields of an instruction its opcode uses."""

    DST_IMM = auto()  # dst op= imm
    DST_SRC = auto()  # dst op= src
    DST = auto()  # dst = op dst
    SWAP = auto()  # dst = op of imm bits
    WIDE = auto()  # dst = 64 bits of two slots
    LOAD = auto()  # dst = *(src + off)
    STORE_IMM = auto()  # *(dst + off) = imm
    STORE = auto()  # *(dst + off) = src
    ATOMIC = auto()  # *(dst + off) op= src, where imm says which
    PACKET = auto()  # r0 = packet[imm]
    PACKET_SRC = auto()  # r0 = packet[src + imm]
    JUMP = auto()  # to off
    JUMP_WIDE = auto()  # to imm
    BRANCH_IMM = auto()  # to off if dst op imm
    BRANCH = auto()  # to off if dst op src
    CALL = auto()
    CALL_REG = auto()
    EXIT = auto()


@dataclass(frozen=True, slots=True)
class Opcode:
    """A row: the opcode byte, its mnemonic in the words of RFC 9669, its form, operand width in bits, and `since`."""

    code: int
    mnemonic: str
    form: Form
    bits: int
    since: str = "3.18"


_LATE_JUMPS: Final = frozenset({Jmp.JLT, Jmp.JLE, Jmp.JSLT, Jmp.JSLE})
_BRANCHES: Final = tuple(j for j in Jmp if j not in (Jmp.JA, Jmp.CALL, Jmp.EXIT, Jmp.JCOND))
_BINARY: Final = tuple(a for a in Alu if a not in (Alu.NEG, Alu.END))
_SUFFIX: Final = {Size.B: "b", Size.H: "h", Size.W: "w", Size.DW: "dw"}


def _arithmetic() -> Iterator[Opcode]:
    for kind, bits, suffix in ((Class.ALU, 32, "32"), (Class.ALU64, 64, "")):
        for op in _BINARY:
            yield Opcode(kind | op | K, op.name.lower() + suffix, Form.DST_IMM, bits)
            yield Opcode(kind | op | X, op.name.lower() + suffix, Form.DST_SRC, bits)
        yield Opcode(kind | Alu.NEG, "neg" + suffix, Form.DST, bits)
    yield Opcode(Class.ALU | Alu.END | K, "le", Form.SWAP, 64)
    yield Opcode(Class.ALU | Alu.END | X, "be", Form.SWAP, 64)
    yield Opcode(Class.ALU64 | Alu.END | K, "bswap", Form.SWAP, 64, "6.6")


def _jumps() -> Iterator[Opcode]:
    for kind, bits, suffix in ((Class.JMP, 64, ""), (Class.JMP32, 32, "32")):
        for op in _BRANCHES:
            since = "5.1" if kind == Class.JMP32 else ("4.14" if op in _LATE_JUMPS else "3.18")
            yield Opcode(kind | op | K, op.name.lower() + suffix, Form.BRANCH_IMM, bits, since)
            yield Opcode(kind | op | X, op.name.lower() + suffix, Form.BRANCH, bits, since)
    yield Opcode(JA, "ja", Form.JUMP, 64)
    yield Opcode(GOTOL, "gotol", Form.JUMP_WIDE, 64, "6.6")
    yield Opcode(MAY_GOTO, "may_goto", Form.JUMP, 64, "6.9")
    yield Opcode(CALL, "call", Form.CALL, 64)
    yield Opcode(CALLX, "callx", Form.CALL_REG, 64)
    yield Opcode(EXIT, "exit", Form.EXIT, 64)


def _memory() -> Iterator[Opcode]:
    yield Opcode(LD_IMM64, "lddw", Form.WIDE, 64)
    for size, width in BYTES.items():
        bits, suffix = 8 * width, _SUFFIX[size]
        yield Opcode(Class.LDX | Mode.MEM | size, "ldx" + suffix, Form.LOAD, bits)
        yield Opcode(Class.ST | Mode.MEM | size, "st" + suffix, Form.STORE_IMM, bits)
        yield Opcode(Class.STX | Mode.MEM | size, "stx" + suffix, Form.STORE, bits)
        # Below 4 bytes there are load_acquire and store_release alone.
        yield Opcode(Class.STX | Mode.ATOMIC | size, "atomic" + suffix, Form.ATOMIC, bits, "3.18" if bits >= 32 else "6.15")
        if size != Size.DW:
            yield Opcode(Class.LDX | Mode.MEMSX | size, "ldxs" + suffix, Form.LOAD, bits, "6.6")
            yield Opcode(Class.LD | Mode.ABS | size, "ldabs" + suffix, Form.PACKET, bits)
            yield Opcode(Class.LD | Mode.IND | size, "ldind" + suffix, Form.PACKET_SRC, bits)


_ROWS: Final = tuple(sorted((*_arithmetic(), *_jumps(), *_memory()), key=lambda row: row.code))
OPCODES: Final[Mapping[int, Opcode]] = {row.code: row for row in _ROWS}
