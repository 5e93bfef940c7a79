"""What is known of numbers holds for every member: checked with members drawn by chance, by each version's rules."""

import random
from collections.abc import Callable

import pytest

from ebpf.engine.verifier import alu, branch
from ebpf.engine.verifier.num import (
    S32_MAX,
    S32_MIN,
    S64_MAX,
    S64_MIN,
    U32,
    U64,
    Num,
    cast,
    known,
    of_bits,
    s32,
    s64,
    settle,
    sign_extend,
    sign_extend32,
    signed_range,
    unsigned_range,
    zero_extend,
)
from ebpf.engine.verifier.rules import RULES, Rules
from ebpf.isa.opcodes import Alu, Jmp

BINARY: dict[Alu, Callable[[int, int, int], int]] = {
    Alu.ADD: lambda a, b, n: a + b,
    Alu.SUB: lambda a, b, n: a - b,
    Alu.MUL: lambda a, b, n: a * b,
    Alu.AND: lambda a, b, n: a & b,
    Alu.OR: lambda a, b, n: a | b,
    Alu.XOR: lambda a, b, n: a ^ b,
    Alu.LSH: lambda a, b, n: a << (b & n - 1),
    Alu.RSH: lambda a, b, n: a >> (b & n - 1),
    Alu.ARSH: lambda a, b, n: (s64(a) if n == 64 else s32(a)) >> (b & n - 1),
}
COMPARE: dict[Jmp, Callable[[int, int, int, int], bool]] = {
    Jmp.JEQ: lambda a, b, x, y: a == b,
    Jmp.JNE: lambda a, b, x, y: a != b,
    Jmp.JGT: lambda a, b, x, y: a > b,
    Jmp.JGE: lambda a, b, x, y: a >= b,
    Jmp.JLT: lambda a, b, x, y: a < b,
    Jmp.JLE: lambda a, b, x, y: a <= b,
    Jmp.JSGT: lambda a, b, x, y: x > y,
    Jmp.JSGE: lambda a, b, x, y: x >= y,
    Jmp.JSLT: lambda a, b, x, y: x < y,
    Jmp.JSLE: lambda a, b, x, y: x <= y,
    Jmp.JSET: lambda a, b, x, y: bool(a & b),
}


def draw(r: random.Random, rules: Rules) -> tuple[Num, int]:
    """What is known of a number, and the number."""
    kind = r.random()
    if kind < 0.25:
        value = r.choice([0, 1, 5, 31, 32, 255, U32, U64, 1 << 63, r.getrandbits(64), r.getrandbits(6)])
        return known(value), value
    if kind < 0.45:
        a, b = sorted(r.getrandbits(r.choice([4, 8, 31, 32, 33, 63, 64])) for _ in range(2))
        return unsigned_range(a, b), r.choice([a, b, r.randint(a, b)])
    if kind < 0.6:
        mask = r.getrandbits(r.choice([8, 64]))
        value = r.getrandbits(64) & ~mask
        return of_bits(value, mask, rules), value | (r.getrandbits(64) & mask)
    if kind < 0.75:
        low = r.randint(-300, 300)
        high = low + r.getrandbits(9)
        return signed_range(low, high), r.randint(low, high) & U64
    value = r.getrandbits(r.choice([8, 32, 64]))
    # Any parts that the number fits.
    low, high = value & U32, s32(value)
    return (
        settle(
            0,
            U64,
            max(S64_MIN, s64(value) - r.getrandbits(20)),
            min(S64_MAX, s64(value) + r.getrandbits(40)),
            max(0, value - r.getrandbits(40)),
            min(U64, value + r.getrandbits(20)),
            max(S32_MIN, high - r.getrandbits(10)),
            min(S32_MAX, high + r.getrandbits(30)),
            max(0, low - r.getrandbits(30)),
            min(U32, low + r.getrandbits(10)),
            rules,
        ),
        value,
    )


@pytest.mark.parametrize("version", RULES)
@pytest.mark.parametrize("op", BINARY, ids=lambda op: op.name)
def test_the_result_of_members_is_a_member_of_the_result(op: Alu, version: str) -> None:
    rules = RULES[version]
    r = random.Random(f"{op} {version}")
    for _ in range(1500):
        (x, a), (y, b) = draw(r, rules), draw(r, rules)
        if op in (Alu.LSH, Alu.RSH, Alu.ARSH):
            b = r.randrange(32)
            y = known(b)
        wide = BINARY[op](a, b, 64) & U64
        narrow = BINARY[op](a & U32, b & U32, 32) & U32
        assert alu.binary(op, x, y, rules, wide=True).has(wide), (x, y, a, b)
        assert alu.binary(op, x, y, rules, wide=False).has(narrow), (x, y, a, b)


@pytest.mark.parametrize("version", RULES)
def test_widths_and_signs_hold(version: str) -> None:
    rules = RULES[version]
    r = random.Random(version)
    for _ in range(3000):
        x, a = draw(r, rules)
        assert x.has(a)
        assert zero_extend(x, rules).has(a & U32), (x, a)
        assert alu.negate(x, rules, wide=True).has(-a & U64)
        assert alu.negate(x, rules, wide=False).has(-a & U32)
        for size in (1, 2, 4):
            low = a & ((1 << 8 * size) - 1)
            signed = low - (1 << 8 * size) if low >> 8 * size - 1 else low
            assert cast(x, size, rules).has(low), (x, a, size)
            assert sign_extend(x, size, rules).has(signed & U64), (x, a, size)
            if size < 4:
                assert sign_extend32(x, size, rules).has(signed & U32), (x, a, size)


@pytest.mark.parametrize("version", RULES)
@pytest.mark.parametrize("op", COMPARE, ids=lambda op: op.name)
def test_a_comparison_keeps_every_pair_on_its_side(op: Jmp, version: str) -> None:
    rules = RULES[version]
    r = random.Random(f"{op} {version}")
    for _ in range(1500):
        (x, a), (y, b) = draw(r, rules), draw(r, rules)
        if r.random() < 0.2:
            y, b = x, a
        for wide in (True, False):
            truth = COMPARE[op](a, b, s64(a), s64(b)) if wide else COMPARE[op](a & U32, b & U32, s32(a), s32(b))
            decided = branch.decided(op, x, y, rules, wide=wide)
            assert decided is None or decided == truth, (x, y, a, b)
            if decided is None:
                left, right = branch.refine(op if truth else branch.OPPOSITE[op], x, y, rules, wide=wide)
                assert left.has(a), (op, x, y, a, b, left)
                assert right.has(b), (op, x, y, a, b, right)
