"""Arithmetic on sets of numbers holds for every member: checked with members drawn by chance."""

import random
from collections.abc import Callable

import pytest

from ebpf.engine.verifier import scalar as s
from ebpf.engine.verifier.branch import refine
from ebpf.engine.verifier.scalar import S64_MAX, S64_MIN, U64, Scalar, known, make, signed, unsigned_range
from ebpf.isa.opcodes import Jmp

BINARY: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "bit_and": lambda a, b: a & b,
    "bit_or": lambda a, b: a | b,
    "bit_xor": lambda a, b: a ^ b,
    "divide": lambda a, b: a // b if b else 0,
    "modulo": lambda a, b: a % b if b else a,
}


def draw(r: random.Random) -> tuple[Scalar, int]:
    """A set and one of its members."""
    kind = r.random()
    if kind < 0.3:
        value = r.choice([0, 1, 5, 255, s.U32, U64, 1 << 63, r.getrandbits(64), r.getrandbits(8)])
        return known(value), value
    if kind < 0.6:
        a, b = sorted(r.getrandbits(r.choice([4, 8, 31, 32, 33, 63, 64])) for _ in range(2))
        return unsigned_range(a, b), r.choice([a, b, r.randint(a, b)])
    if kind < 0.8:
        mask = r.getrandbits(r.choice([8, 64]))
        value = r.getrandbits(64) & ~mask
        return make(value, mask, S64_MIN, S64_MAX, 0, U64), value | (r.getrandbits(64) & mask)
    low = r.randint(-300, 300)
    high = low + r.getrandbits(9)
    return make(0, U64, low, high, 0, U64), r.randint(low, high) & U64


def holds(x: Scalar, value: int) -> bool:
    return x.umin <= value <= x.umax and x.smin <= signed(value) <= x.smax and not (value ^ x.value) & ~x.mask & U64


@pytest.mark.parametrize("name", BINARY)
def test_the_result_of_members_is_a_member_of_the_result(name: str) -> None:
    r = random.Random(name)
    for _ in range(3000):
        (x, a), (y, b) = draw(r), draw(r)
        assert holds(getattr(s, name)(x, y), BINARY[name](a, b) & U64), (x, y, a, b)


def test_shifts_and_widths_hold() -> None:
    r = random.Random(2)
    for _ in range(3000):
        x, a = draw(r)
        n = r.randrange(64)
        assert holds(s.shift_left(x, n), a << n & U64)
        assert holds(s.shift_right(x, n), a >> n)
        assert holds(s.shift_arithmetic(x, n), signed(a) >> n & U64)
        for bits in (8, 16, 32):
            low = a & ((1 << bits) - 1)
            assert holds(s.truncate(x, bits), low)
            assert holds(s.sign_extend(x, bits), (low - (1 << bits) if low >> (bits - 1) else low) & U64)


def truth(op: Jmp, a: int, b: int, bits: int) -> bool:
    a, b = a & ((1 << bits) - 1), b & ((1 << bits) - 1)
    sa, sb = (v - (1 << bits) if v >> (bits - 1) else v for v in (a, b))
    table = {Jmp.JEQ: a == b, Jmp.JNE: a != b, Jmp.JGT: a > b, Jmp.JGE: a >= b, Jmp.JLT: a < b, Jmp.JLE: a <= b, Jmp.JSET: bool(a & b)}
    return {**table, Jmp.JSGT: sa > sb, Jmp.JSGE: sa >= sb, Jmp.JSLT: sa < sb, Jmp.JSLE: sa <= sb}[op]


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("op", [j for j in Jmp if j not in (Jmp.JA, Jmp.CALL, Jmp.EXIT, Jmp.JCOND)], ids=lambda j: j.name)
def test_a_branch_keeps_the_members_that_take_it(op: Jmp, bits: int) -> None:
    r = random.Random(f"{op}{bits}")
    for _ in range(2000):
        (x, a), (y, b) = draw(r), draw(r)
        narrowed = refine(op, x, y, bits, taken=truth(op, a, b, bits))
        assert narrowed is not None, (x, y, a, b)
        assert holds(narrowed[0], a), (x, y, a, b)
        assert holds(narrowed[1], b), (x, y, a, b)
