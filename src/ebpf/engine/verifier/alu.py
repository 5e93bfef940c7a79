"""What an ALU operation makes of two numbers, in the way Linux bounds the result."""

from typing import Final

from ebpf.engine.verifier import bits, old_bounds
from ebpf.engine.verifier.num import (
    S32_MAX,
    S32_MIN,
    S64_MAX,
    S64_MIN,
    U32,
    U64,
    UNKNOWN,
    Num,
    known,
    of_bits,
    s32,
    s64,
    settle,
    sized,
)
from ebpf.engine.verifier.rules import Rules
from ebpf.isa.opcodes import Alu

_ADD: Final = int(Alu.ADD)
_SUB: Final = int(Alu.SUB)
_MUL: Final = int(Alu.MUL)
_OR: Final = int(Alu.OR)
_AND: Final = int(Alu.AND)
_LSH: Final = int(Alu.LSH)
_RSH: Final = int(Alu.RSH)
_XOR: Final = int(Alu.XOR)
_ARSH: Final = int(Alu.ARSH)
_BOUNDED: Final = (_ADD, _SUB, _MUL, _OR, _AND, _LSH, _RSH, _XOR, _ARSH)
_Range = tuple[int, int]
_S64: Final = (S64_MIN, S64_MAX)
_U64: Final = (0, U64)
_S32: Final = (S32_MIN, S32_MAX)
_U32: Final = (0, U32)


def binary(op: int, a: Num, b: Num, rules: Rules, *, wide: bool) -> Num:
    """`a op b` for an operation of isa.Alu, of 64 bits (`wide`) or 32."""
    if rules.old_bounds:
        if old_bounds.contradicts(b, wide=wide) or (op not in (_ADD, _SUB, _AND) and b.mask & (U64 if wide else U32)):
            return UNKNOWN
        if op not in _BOUNDED or (op in (_LSH, _RSH, _ARSH) and b.umax >= (64 if wide else 32)):
            return UNKNOWN if wide else sized(4)
    if op in (_LSH, _RSH, _ARSH):
        return _shift(op, a, b, rules, wide=wide)
    if op == _ADD:
        if not a.mask and not b.mask:
            return known(a.value + b.value if wide else (a.value + b.value) & U32)
        v, m = bits.add(a.value, a.mask, b.value, b.mask)
        signed, unsigned = _sum(a.smin + b.smin, a.smax + b.smax, a.umin + b.umin, a.umax + b.umax, 64, rules)
        low_s, low_u = _sum(a.smin32 + b.smin32, a.smax32 + b.smax32, a.umin32 + b.umin32, a.umax32 + b.umax32, 32, rules)
    elif op == _SUB:
        if not a.mask and not b.mask:
            return known(a.value - b.value if wide else (a.value - b.value) & U32)
        v, m = bits.sub(a.value, a.mask, b.value, b.mask)
        signed, unsigned = _sum(a.smin - b.smax, a.smax - b.smin, a.umin - b.umax, a.umax - b.umin, 64, rules)
        low_s, low_u = _sum(a.smin32 - b.smax32, a.smax32 - b.smin32, a.umin32 - b.umax32, a.umax32 - b.umin32, 32, rules)
    elif op == _MUL:
        if not a.mask and not b.mask:
            return known(a.value * b.value if wide else (a.value * b.value) & U32)
        v, m = bits.mul(a.value, a.mask, b.value, b.mask, sharp=rules.sharp_mul)
        signed, unsigned = _product((a.smin, a.smax), (b.smin, b.smax), (a.umin, a.umax), (b.umin, b.umax), 64, rules)
        low_s, low_u = _product((a.smin32, a.smax32), (b.smin32, b.smax32), (a.umin32, a.umax32), (b.umin32, b.umax32), 32, rules)
    elif op in (_AND, _OR, _XOR):
        if op == _AND:
            v, m = bits.band(a.value, a.mask, b.value, b.mask)
            unsigned, low_u = (v, min(a.umax, b.umax)), (v & U32, min(a.umax32, b.umax32))
        elif op == _OR:
            v, m = bits.bor(a.value, a.mask, b.value, b.mask)
            unsigned = (max(a.umin, b.umin), v | m)
            low_u = (max(a.umin32, b.umin32), (v | m) & U32)
        else:
            v, m = bits.xor(a.value, a.mask, b.value, b.mask)
            unsigned, low_u = (v, v | m), (v & U32, (v | m) & U32)
        if not m:
            return known(v if wide else v & U32)
        x, y = s64(unsigned[0]), s64(unsigned[1])
        signed = (x, y) if x <= y and not (rules.old_bounds and (a.smin < 0 or b.smin < 0)) else _S64
        x, y = s32(low_u[0]), s32(low_u[1])
        low_s = (x, y) if x <= y and not (rules.old_bounds and (a.smin32 < 0 or b.smin32 < 0)) else _S32
        if not m & U32:
            low_s, low_u = (s32(v), s32(v)), (v & U32, v & U32)
    else:
        return UNKNOWN
    return _made(v, m, signed, unsigned, low_s, low_u, rules, wide=wide)


def negate(a: Num, rules: Rules, *, wide: bool) -> Num:
    """-a."""
    if not rules.tracks_neg:
        return UNKNOWN
    return binary(_SUB, known(0), a, rules, wide=wide)


def _made(v: int, m: int, signed: _Range, unsigned: _Range, low_s: _Range, low_u: _Range, rules: Rules, *, wide: bool) -> Num:
    if wide:
        return settle(v, m, signed[0], signed[1], unsigned[0], unsigned[1], low_s[0], low_s[1], low_u[0], low_u[1], rules)
    # The upper half is zero: 64-bit bounds follow those of the lower one.
    if not m & U32:
        return known(v & U32)
    smin, smax = low_s if low_s[0] >= 0 and low_s[1] >= 0 else (0, U32)
    return settle(v & U32, m & U32, smin, smax, low_u[0], low_u[1], low_s[0], low_s[1], low_u[0], low_u[1], rules)


def _sum(smin: int, smax: int, umin: int, umax: int, width: int, rules: Rules) -> tuple[_Range, _Range]:
    """The bounds of a sum or difference from the ends in whole numbers: none where an end leaves the width."""
    half, whole = 1 << width - 1, 1 << width
    signed = (smin, smax) if -half <= smin < half and -half <= smax < half else (-half, half - 1)
    low_out, high_out = not 0 <= umin < whole, not 0 <= umax < whole
    if low_out == high_out and (rules.sharp_add or not low_out):
        # Where both ends leave the width, all between do.
        return signed, (umin % whole, umax % whole)
    return signed, (0, whole - 1)


def _product(s_a: _Range, s_b: _Range, u_a: _Range, u_b: _Range, width: int, rules: Rules) -> tuple[_Range, _Range]:
    half, whole = 1 << width - 1, 1 << width
    signed, unsigned = (-half, half - 1), (0, whole - 1)
    if rules.sharp_mul:
        if u_a[1] * u_b[1] < whole:
            unsigned = (u_a[0] * u_b[0], u_a[1] * u_b[1])
        ends = (s_a[0] * s_b[0], s_a[0] * s_b[1], s_a[1] * s_b[0], s_a[1] * s_b[1])
        low, high = min(ends), max(ends)
        if -half <= low and high < half:
            signed = (low, high)
        return signed, unsigned
    if s_a[0] < 0 or s_b[0] < 0 or u_a[1] >= 1 << width // 2 or u_b[1] >= 1 << width // 2:
        return signed, unsigned
    unsigned = (u_a[0] * u_b[0], u_a[1] * u_b[1])
    if unsigned[1] < half:
        signed = unsigned
    return signed, unsigned


def _shift(op: int, a: Num, b: Num, rules: Rules, *, wide: bool) -> Num:
    width = 64 if wide else 32
    if (b.mask if wide else b.mask & U32) or b.umax >= width:
        return UNKNOWN
    n = b.value if wide else b.value & U32
    if wide:
        return _shift_wide(op, a, n, rules)
    v, m = a.value & U32, a.mask & U32
    signed, unsigned = _S32, _U32
    if op == _LSH:
        if a.umax32 <= 1 << 31 - n:
            unsigned = (a.umin32 << n, a.umax32 << n)
        v, m = v << n & U32, m << n & U32
    elif op == _RSH:
        unsigned = (a.umin32 >> n, a.umax32 >> n)
        v, m = v >> n, m >> n
    else:
        signed = (a.smin32 >> n, a.smax32 >> n)
        v, m = bits.arsh(v, m, n, 32)
    return _made(v, m, _S64, _U64, signed, unsigned, rules, wide=False)


def _shift_wide(op: int, a: Num, n: int, rules: Rules) -> Num:
    v, m = a.value, a.mask
    signed, unsigned, low_s, low_u = _S64, _U64, _S32, _U32
    if op == _LSH:
        if n == 32:
            # The first half of sign-extending the lower half by two shifts.
            signed = (a.smin32 << 32, a.smax32 << 32)
        if a.umax <= 1 << 63 - n:
            unsigned = (a.umin << n, a.umax << n)
        if n <= 31 and a.umax32 <= 1 << 31 - n:
            low_u = (a.umin32 << n, a.umax32 << n)
        v, m = v << n & U64, m << n & U64
    elif op == _RSH:
        unsigned = (a.umin >> n, a.umax >> n)
        v, m = v >> n, m >> n
    else:
        signed = (a.smin >> n, a.smax >> n)
        v, m = bits.arsh(v, m, n, 64)
    return _made(v, m, signed, unsigned, low_s, low_u, rules, wide=True)


def swap(a: Num, width: int, rules: Rules, *, reverse: bool) -> Num:
    """The low `width` bits of a number, with their bytes reversed or not."""
    if not rules.tracks_swaps:
        return UNKNOWN
    top = (1 << width) - 1
    v, m = a.value & top, a.mask & top
    if reverse:
        v = int.from_bytes(v.to_bytes(width // 8, "little"), "big")
        m = int.from_bytes(m.to_bytes(width // 8, "little"), "big")
    return of_bits(v, m, rules)
