"""What the arithmetic and the conditions mean: functions of unsigned numbers of `bits` bits. Source: RFC 9669."""

from collections.abc import Callable, Mapping
from typing import Final

from ebpf.isa.opcodes import Alu, Atomic, Jmp

Binary = Callable[[int, int, int], int]
Test = Callable[[int, int, int], bool]


def mask(bits: int) -> int:
    """The greatest number of `bits` bits."""
    return (1 << bits) - 1


def signed(value: int, bits: int) -> int:
    """The low `bits` bits of a number, read as two's complement."""
    value &= mask(bits)
    return value - (1 << bits) if value >> (bits - 1) else value


def _div(a: int, b: int, bits: int) -> int:
    del bits
    return a // b if b else 0


def _mod(a: int, b: int, bits: int) -> int:
    del bits
    return a % b if b else a


def _sdiv(a: int, b: int, bits: int) -> int:
    """Rounds towards zero, as C; the least number by -1 wraps to itself when the caller masks it."""
    x, y = signed(a, bits), signed(b, bits)
    if y == 0:
        return 0
    quotient = abs(x) // abs(y)
    return quotient if (x < 0) == (y < 0) else -quotient


def _smod(a: int, b: int, bits: int) -> int:
    """Has the sign of the dividend."""
    x, y = signed(a, bits), signed(b, bits)
    if y == 0:
        return a
    rest = abs(x) % abs(y)
    return -rest if x < 0 else rest


#: Arithmetic with two operands. Results may be any integers: the low `bits` bits count.
ALU: Final[Mapping[Alu, Binary]] = {
    Alu.ADD: lambda a, b, _: a + b,
    Alu.SUB: lambda a, b, _: a - b,
    Alu.MUL: lambda a, b, _: a * b,
    Alu.DIV: _div,
    Alu.MOD: _mod,
    Alu.OR: lambda a, b, _: a | b,
    Alu.AND: lambda a, b, _: a & b,
    Alu.XOR: lambda a, b, _: a ^ b,
    Alu.LSH: lambda a, b, bits: a << (b & (bits - 1)),
    Alu.RSH: lambda a, b, bits: a >> (b & (bits - 1)),
    Alu.ARSH: lambda a, b, bits: signed(a, bits) >> (b & (bits - 1)),
}
#: The same with offset 1.
SIGNED_ALU: Final[Mapping[Alu, Binary]] = {Alu.DIV: _sdiv, Alu.MOD: _smod}

#: Conditions of jumps.
JUMP: Final[Mapping[Jmp, Test]] = {
    Jmp.JEQ: lambda a, b, _: a == b,
    Jmp.JNE: lambda a, b, _: a != b,
    Jmp.JGT: lambda a, b, _: a > b,
    Jmp.JGE: lambda a, b, _: a >= b,
    Jmp.JLT: lambda a, b, _: a < b,
    Jmp.JLE: lambda a, b, _: a <= b,
    Jmp.JSET: lambda a, b, _: a & b != 0,
    Jmp.JSGT: lambda a, b, bits: signed(a, bits) > signed(b, bits),
    Jmp.JSGE: lambda a, b, bits: signed(a, bits) >= signed(b, bits),
    Jmp.JSLT: lambda a, b, bits: signed(a, bits) < signed(b, bits),
    Jmp.JSLE: lambda a, b, bits: signed(a, bits) <= signed(b, bits),
}

#: What an atomic read-modify-write stores, by its immediate without FETCH.
ATOMIC: Final[Mapping[Atomic, Callable[[int, int], int]]] = {
    Atomic.ADD: lambda old, by: old + by,
    Atomic.OR: lambda old, by: old | by,
    Atomic.AND: lambda old, by: old & by,
    Atomic.XOR: lambda old, by: old ^ by,
}


def swap(value: int, bits: int) -> int:
    """The low `bits` bits with their bytes in reverse order."""
    return int.from_bytes((value & mask(bits)).to_bytes(bits // 8, "little"), "big")
