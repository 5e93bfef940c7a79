"""Numbers as Linux 6.1 bounds them: once settled, never over; what one half learns tells the other half less.

A comparison teaches where one side is a constant, or both are equal. Bounds that contradict each other (a path that cannot be)
stay as they are, and make unknown what is computed of them.
"""

from typing import Final

from ebpf.engine.verifier import bits
from ebpf.engine.verifier.comparisons import JEQ, JGE, JGT, JLE, JLT, JNE, JSET, JSGE, JSGT, JSLE, JSLT
from ebpf.engine.verifier.num import S32_MAX, S32_MIN, S64_MAX, S64_MIN, U32, U64, UNKNOWN, Num, known, s32, s64

_HIGH: Final = U64 ^ U32


def settled(
    value: int,
    mask: int,
    smin: int,
    smax: int,
    umin: int,
    umax: int,
    smin32: int,
    smax32: int,
    umin32: int,
    umax32: int,
) -> Num:
    """A number with its parts brought to bear on each other: bits on bounds, signs on each other, bounds on bits and once more."""
    smin, smax, umin, umax = _by_bits(value, mask, smin, smax, umin, umax, 64)
    smin32, smax32, umin32, umax32 = _by_bits(value & U32, mask & U32, smin32, smax32, umin32, umax32, 32)
    smin32, smax32, umin32, umax32 = _by_sign(smin32, smax32, umin32, umax32, 32)
    smin, smax, umin, umax = _by_sign(smin, smax, umin, umax, 64)
    value, mask = _within(value, mask, umin, umax, 64)
    low_v, low_m = _within(value & U32, mask & U32, umin32, umax32, 32)
    value, mask = value & _HIGH | low_v, mask & _HIGH | low_m
    smin, smax, umin, umax = _by_bits(value, mask, smin, smax, umin, umax, 64)
    smin32, smax32, umin32, umax32 = _by_bits(value & U32, mask & U32, smin32, smax32, umin32, umax32, 32)
    if not mask and smin == smax and umin == umax and smin32 == smax32 and umin32 == umax32:
        return known(value)
    return Num(value, mask, smin, smax, umin, umax, smin32, smax32, umin32, umax32)


def _signed(x: int, width: int) -> int:
    return s64(x) if width == 64 else s32(x)


def _by_bits(value: int, mask: int, smin: int, smax: int, umin: int, umax: int, width: int) -> tuple[int, int, int, int]:
    top = 1 << width - 1
    smin, smax = max(smin, _signed(value | (mask & top), width)), min(smax, _signed(value | (mask & top - 1), width))
    return smin, smax, max(umin, value), min(umax, value | mask)


def _by_sign(smin: int, smax: int, umin: int, umax: int, width: int) -> tuple[int, int, int, int]:
    whole = (1 << width) - 1
    if smin >= 0 or smax < 0:
        umin, umax = max(smin & whole, umin), min(smax & whole, umax)
        return _signed(umin, width), _signed(umax, width), umin, umax
    if _signed(umax, width) >= 0:
        umax = min(smax & whole, umax)
        return _signed(umin, width), _signed(umax, width), umin, umax
    if _signed(umin, width) < 0:
        smax = _signed(umax, width)
        umin = max(smin & whole, umin)
        return _signed(umin, width), smax, umin, umax
    return smin, smax, umin, umax


def _within(value: int, mask: int, low: int, high: int, width: int) -> tuple[int, int]:
    """The bits of a number between `low` and `high`."""
    above = (low ^ high).bit_length()
    if above >= width:
        return value, mask
    unknown = (1 << above) - 1
    return bits.meet(value, mask, low & ~unknown, unknown)


def _as_low_half(value: int, mask: int, n: Num) -> Num:
    """A number after its lower half learnt something: the upper half is zero, or nothing is known of the whole but bits."""
    if not (value | mask) & _HIGH:
        smin, smax = (n.smin32, n.smax32) if n.smin32 >= 0 and n.smax32 >= 0 else (0, U32)
        return settled(value, mask, smin, smax, n.umin32, n.umax32, n.smin32, n.smax32, n.umin32, n.umax32)
    return settled(value, mask, S64_MIN, S64_MAX, 0, U64, n.smin32, n.smax32, n.umin32, n.umax32)


def _as_whole(value: int, mask: int, smin: int, smax: int, umin: int, umax: int) -> Num:
    """A number after the whole of it learnt something: the lower half is bounded anew, where all fits into it."""
    smin32, smax32 = (smin, smax) if S32_MIN <= smin <= S32_MAX and S32_MIN <= smax <= S32_MAX else (S32_MIN, S32_MAX)
    umin32, umax32 = (umin, umax) if umin <= U32 and umax <= U32 else (0, U32)
    return settled(value, mask, smin, smax, umin, umax, smin32, smax32, umin32, umax32)


def contradicts(n: Num, *, wide: bool) -> bool:
    """Whether the bounds of a number contradict each other, or its bits."""
    if wide:
        return (not n.mask and (n.smin != n.smax or n.umin != n.umax)) or n.smin > n.smax or n.umin > n.umax
    fixed = not n.mask & U32
    return (fixed and (n.smin32 != n.smax32 or n.umin32 != n.umax32)) or n.smin32 > n.smax32 or n.umin32 > n.umax32


def cast(n: Num, size: int) -> Num:
    """The low `size` bytes (1, 2 or 4) of a number, as a load of so many gives them."""
    top = (1 << 8 * size) - 1
    low, high = (n.umin & top, n.umax & top) if n.umin & ~top == n.umax & ~top else (0, top)
    if size < 4:
        return _as_whole(n.value & top, n.mask & top, low, high, low, high)
    if not n.mask & top and low == high and n.umin32 == n.umax32 and n.smin32 == n.smax32:
        return known(n.value & top)
    return Num(n.value & top, n.mask & top, low, high, low, high, n.smin32, n.smax32, n.umin32, n.umax32)


# -- comparisons


def decided(op: int, a: Num, b: Num, *, wide: bool) -> bool | None:
    """Whether `a op b` is always true, never (False), or depends (None): `b` must be a constant."""
    if b.mask & (U64 if wide else U32):
        return None
    if wide:
        value, mask, umin, umax, smin, smax, other, sother = a.value, a.mask, a.umin, a.umax, a.smin, a.smax, b.value, s64(b.value)
    else:
        value, mask, other, sother = a.value & U32, a.mask & U32, b.value & U32, s32(b.value)
        umin, umax, smin, smax = a.umin32, a.umax32, a.smin32, a.smax32
    if op in (JEQ, JNE):
        return None if mask else (value == other) == (op == JEQ)
    if op == JSET:
        return True if value & ~mask & other else False if not (value | mask) & other else None
    if op in (JSGT, JSGE, JSLT, JSLE):
        umin, umax, other = smin, smax, sother
    if op in (JGT, JSGT):
        return True if umin > other else False if umax <= other else None
    if op in (JLT, JSLT):
        return True if umax < other else False if umin >= other else None
    if op in (JGE, JSGE):
        return True if umin >= other else False if umax < other else None
    return True if umax <= other else False if umin > other else None


def equal(a: Num, b: Num) -> tuple[Num, Num]:
    """Two numbers, neither a constant, that are equal."""
    value, mask = bits.meet(a.value, a.mask, b.value, b.mask)
    whole = value, mask, max(a.smin, b.smin), min(a.smax, b.smax), max(a.umin, b.umin), min(a.umax, b.umax)
    return (
        settled(*whole, a.smin32, a.smax32, a.umin32, a.umax32),
        settled(*whole, b.smin32, b.smax32, b.umin32, b.umax32),
    )


def learnt(op: int, n: Num, other: int, *, wide: bool) -> Num:
    """What a number is where it stands in relation `op` to a constant (`branch.CLEAR`: it has none of its bits)."""
    value, mask = n.value, n.mask
    if not wide:
        other &= U32
    if op == JEQ:
        if wide:
            return known(other)
        low = Num(0, 0, 0, 0, 0, 0, s32(other), s32(other), other, other)
        return _as_low_half(value & _HIGH | other, mask & _HIGH, low)
    if op == JSET:
        if other and not other & other - 1:
            value, mask = value | other, mask & ~other
    elif op not in _ORDERS and op != JNE:
        value, mask = value & ~other, mask & ~other
        n = UNKNOWN
    if wide:
        smin, smax, umin, umax = _narrowed(op, n.smin, n.smax, n.umin, n.umax, other, 64)
        return _as_whole(value, mask, smin, smax, umin, umax)
    smin, smax, umin, umax = _narrowed(op, n.smin32, n.smax32, n.umin32, n.umax32, other, 32)
    return _as_low_half(value, mask, Num(0, 0, 0, 0, 0, 0, smin, smax, umin, umax))


_ORDERS: Final = (JGT, JGE, JLT, JLE, JSGT, JSGE, JSLT, JSLE)


def _narrowed(op: int, smin: int, smax: int, umin: int, umax: int, other: int, width: int) -> tuple[int, int, int, int]:
    whole = (1 << width) - 1
    if op in (JGT, JGE):
        umin = max(umin, other + (op == JGT) & whole)
    elif op in (JLT, JLE):
        umax = min(umax, other - (op == JLT) & whole)
    elif op in (JSGT, JSGE):
        smin = max(smin, _signed(other + (op == JSGT) & whole, width))
    elif op in (JSLT, JSLE):
        smax = min(smax, _signed(other - (op == JSLT) & whole, width))
    return smin, smax, umin, umax
