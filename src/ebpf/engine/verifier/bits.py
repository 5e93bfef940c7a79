"""Arithmetic on numbers of which some bits are unknown: pairs of the known bits and the mask of unknown ones."""

from ebpf.engine.verifier.num import U32, U64, s32, s64


def add(av: int, am: int, bv: int, bm: int) -> tuple[int, int]:
    """a + b: a carry that may or may not be makes all bits that it reaches unknown."""
    masks, values = am + bm, av + bv
    mu = ((masks + values) ^ values | am | bm) & U64
    return values & ~mu & U64, mu


def sub(av: int, am: int, bv: int, bm: int) -> tuple[int, int]:
    """a - b."""
    dv = av - bv & U64
    mu = (dv + am & U64) ^ (dv - bm & U64) | am | bm
    return dv & ~mu & U64, mu & U64


def neg(av: int, am: int) -> tuple[int, int]:
    """0 - a."""
    return sub(0, 0, av, am)


def union(av: int, am: int, bv: int, bm: int) -> tuple[int, int]:
    """What a and b have in common."""
    mu = (av ^ bv) | am | bm
    return av & bv & ~mu & U64, mu & U64


def mul(av: int, am: int, bv: int, bm: int, *, sharp: bool) -> tuple[int, int]:
    """a * b, by adding up what each bit of `a` gives; `sharp` (6.18) lets an unknown bit give one of two sums."""
    if not am and not bm:
        return av * bv & U64, 0
    if sharp:
        value, mask = 0, 0
        while av or am:
            if av & 1:
                value, mask = add(value, mask, bv, bm)
            elif am & 1:
                more = add(value, mask, bv, bm)
                value, mask = union(value, mask, more[0], more[1])
            av, am = av >> 1, am >> 1
            bv, bm = bv << 1 & U64, bm << 1 & U64
        return value, mask
    value, sum_v, sum_m = av * bv & U64, 0, 0
    while av or am:
        if av & 1:
            sum_v, sum_m = add(sum_v, sum_m, 0, bm)
        elif am & 1:
            sum_v, sum_m = add(sum_v, sum_m, 0, bv | bm)
        av, am = av >> 1, am >> 1
        bv, bm = bv << 1 & U64, bm << 1 & U64
    return add(value, 0, sum_v, sum_m)


def band(av: int, am: int, bv: int, bm: int) -> tuple[int, int]:
    """a & b."""
    v = av & bv
    return v, ((av | am) & (bv | bm)) & ~v


def bor(av: int, am: int, bv: int, bm: int) -> tuple[int, int]:
    """a | b."""
    v = av | bv
    return v, (am | bm) & ~v


def xor(av: int, am: int, bv: int, bm: int) -> tuple[int, int]:
    """a ^ b."""
    mu = am | bm
    return (av ^ bv) & ~mu, mu


def arsh(av: int, am: int, count: int, width: int) -> tuple[int, int]:
    """a s>> count, in `width` (32 or 64) bits."""
    if width == 32:
        return (s32(av) >> count) & U32, (s32(am) >> count) & U32
    return (s64(av) >> count) & U64, (s64(am) >> count) & U64


def meet(av: int, am: int, bv: int, bm: int) -> tuple[int, int]:
    """A number that is both a and b."""
    mu = am & bm
    return (av | bv) & ~mu, mu
