"""Single instructions, named and by chance."""

import random
from collections.abc import Sequence
from typing import Final

from ebpf.isa import OPCODES, Form, Insn
from ebpf.isa.opcodes import BYTES, CALL, FP, LD_IMM64, Alu, Atomic, Class, Mode, Size
from ebpf.uapi import HELPERS, CallSrc, PseudoSrc

Code = list[Insn]

EDGES: Final = (0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 33, 63, 64, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF)
EDGES += (-1, -2, -8, -16, -128, -129, -0x8000, -0x7FFFFFFF, -0x80000000)
_ARITHMETIC = sorted(code for code, row in OPCODES.items() if row.form in (Form.DST_IMM, Form.DST_SRC, Form.DST, Form.SWAP))
_BRANCHES = sorted(code for code, row in OPCODES.items() if row.form in (Form.BRANCH_IMM, Form.BRANCH))
_RMW = (Atomic.ADD, Atomic.OR, Atomic.AND, Atomic.XOR, Atomic.FETCH_ADD, Atomic.FETCH_OR, Atomic.FETCH_AND, Atomic.FETCH_XOR, Atomic.XCHG)
_SIZES = {size: code for code, size in BYTES.items()}


def helper_numbers() -> dict[str, int]:
    """Helpers by name."""
    return {row.name: row.id for row in HELPERS.values()}


def slots(code: Sequence[Insn]) -> int:
    return sum(insn.slots for insn in code)


def imm(rng: random.Random) -> int:
    return rng.choice(EDGES) if rng.random() < 0.7 else rng.randint(-(1 << 31), (1 << 31) - 1)


def mov(register: int, value: int) -> Insn:
    return Insn(0xB7, register, imm=value)


def mov_reg(register: int, source: int) -> Insn:
    return Insn(0xBF, register, source)


def add(register: int, value: int) -> Insn:
    return Insn(0x07, register, imm=value)


def mask(register: int, value: int) -> Insn:
    return Insn(0x57, register, imm=value)


def load(register: int, base: int, at: int, size: Size = Size.DW) -> Insn:
    return Insn(Class.LDX | Mode.MEM | size, register, base, at)


def store(base: int, register: int, at: int, size: Size = Size.DW) -> Insn:
    return Insn(Class.STX | Mode.MEM | size, base, register, at)


def store_imm(base: int, at: int, value: int, size: Size = Size.DW) -> Insn:
    return Insn(Class.ST | Mode.MEM | size, base, 0, at, value)


def ctx(register: int, base: int, at: int) -> Insn:
    """A field of the context."""
    return load(register, base, at, Size.W)


def wide(register: int, low: int, kind: int = 0, high: int = 0) -> Insn:
    return Insn(LD_IMM64, register, kind, 0, low, high)


def jump(opcode: int, dst: int, second: int, off: int) -> Insn:
    """A branch; `second` is the other register, or the number if the opcode takes one."""
    return Insn(opcode, dst, second, off) if opcode & 8 else Insn(opcode, dst, 0, off, second)


def ahead(rng: random.Random, off: int) -> Insn:
    return Insn(0x05, off=off) if rng.random() < 0.5 else Insn(0x06, imm=off)


def call(number: int) -> Insn:
    return Insn(CALL, imm=number)


def call_function(number: int) -> Insn:
    """A call of function `number`, until its place is known."""
    return Insn(CALL, src=CallSrc.PSEUDO_CALL, imm=number)


def is_cmpxchg(insn: Insn, size: Size) -> bool:
    return insn.opcode == Class.STX | Mode.ATOMIC | size and insn.imm == Atomic.CMPXCHG


def low_half(register: int) -> Insn:
    return Insn(0xBC, register, register)


def is_call(insn: Insn) -> bool:
    return insn.opcode == CALL and insn.src == CallSrc.PSEUDO_CALL


def names_function(insn: Insn) -> bool:
    """Whether it calls a function of the program or has its address."""
    return is_call(insn) or (insn.opcode == LD_IMM64 and insn.src == PseudoSrc.FUNC)


def alu(rng: random.Random, dst: int, src: int) -> Insn:
    """Any arithmetic that is an instruction."""
    code = rng.choice(_ARITHMETIC)
    row, op = OPCODES[code], code & 0xF0
    if row.form is Form.SWAP:
        return Insn(code, dst, imm=rng.choice((16, 32, 64)))
    if row.form is Form.DST:
        return Insn(code, dst)
    off = rng.choice((0, 1)) if op in (Alu.DIV, Alu.MOD) else 0
    if row.form is Form.DST_SRC:
        if op == Alu.MOV:
            off = rng.choice((0, 8, 16, 32) if row.bits == 64 else (0, 8, 16))
        return Insn(code, dst, src, off)
    value = imm(rng)
    if op in (Alu.LSH, Alu.RSH, Alu.ARSH):
        value &= row.bits - 1
    elif op in (Alu.DIV, Alu.MOD):
        value = value or 1
    return Insn(code, dst, 0, off, value)


def branch(rng: random.Random, dst: int, src: int, off: int) -> Insn:
    """Any condition."""
    code = rng.choice(_BRANCHES)
    return jump(code, dst, src if code & 8 else imm(rng), off)


def access(
    rng: random.Random, base: int, low: int, high: int, into: int, source: int, *, atomic: bool = True, cmpxchg: bool = True
) -> Insn:
    """A load, store or atomic operation somewhere in `base + low` to `base + high`; atomics not in packets (r6)."""
    size = rng.choice((1, 2, 4, 8, 8))
    aligned = base == FP
    choice = rng.random()
    if atomic and base != 6 and choice < 0.35:
        return _atomic(rng, base, low, high, into, source, cmpxchg=cmpxchg)
    at = rng.randrange(low, high - size + 1, size) if aligned else rng.randint(low, high - size)
    if choice < 0.55:
        return load(into, base, at, _SIZES[size])
    if choice < 0.65 and size < 8:
        return Insn(Class.LDX | Mode.MEMSX | _SIZES[size], into, base, at)
    if choice < 0.75:
        return store_imm(base, at, imm(rng), _SIZES[size])
    return store(base, source, at, _SIZES[size])


def _atomic(rng: random.Random, base: int, low: int, high: int, into: int, source: int, *, cmpxchg: bool) -> Insn:
    choice = rng.random()
    size = rng.choice((1, 2, 4, 8) if choice < 0.2 else (4, 8))
    at = rng.randrange(low, high - size + 1, size)
    code = Class.STX | Mode.ATOMIC | _SIZES[size]
    if choice < 0.1:
        return Insn(code, into, base, at, Atomic.LOAD_ACQ)
    if choice < 0.2:
        return Insn(code, base, source, at, Atomic.STORE_REL)
    kinds = (*_RMW, Atomic.CMPXCHG) if cmpxchg else _RMW
    return Insn(code, base, source, at, rng.choice(kinds))
