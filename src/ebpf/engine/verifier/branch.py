"""What a comparison decides, and what it teaches on either side of a branch."""

from typing import Final

from ebpf.engine.verifier import old_bounds
from ebpf.engine.verifier.comparisons import JEQ, JGE, JGT, JLE, JLT, JNE, JSET, JSGE, JSGT, JSLE, JSLT
from ebpf.engine.verifier.num import S32_MAX, S32_MIN, S64_MAX, S64_MIN, U32, U64, Num, of_bits, s32, s64, settle
from ebpf.engine.verifier.rules import Rules

#: "None of the bits is set": what JSET means when it is not taken. Not an operation of the ISA.
_CLEAR: Final = 0x100
OPPOSITE: Final = {
    JEQ: JNE,
    JNE: JEQ,
    JGT: JLE,
    JLE: JGT,
    JGE: JLT,
    JLT: JGE,
    JSGT: JSLE,
    JSLE: JSGT,
    JSGE: JSLT,
    JSLT: JSGE,
    JSET: _CLEAR,
}
SWAPPED: Final = {
    JEQ: JEQ,
    JNE: JNE,
    JGT: JLT,
    JLT: JGT,
    JGE: JLE,
    JLE: JGE,
    JSGT: JSLT,
    JSLT: JSGT,
    JSGE: JSLE,
    JSLE: JSGE,
    JSET: JSET,
}


def decided(op: int, a: Num, b: Num, rules: Rules, *, wide: bool) -> bool | None:
    """Whether `a op b` is always true, never (False), or depends (None)."""
    if rules.old_bounds:
        return old_bounds.decided(op, a, b, wide=wide)
    if wide:
        av, am, bv, bm = a.value, a.mask, b.value, b.mask
        umin1, umax1, smin1, smax1 = a.umin, a.umax, a.smin, a.smax
        umin2, umax2, smin2, smax2 = b.umin, b.umax, b.smin, b.smax
    else:
        av, am, bv, bm = a.value & U32, a.mask & U32, b.value & U32, b.mask & U32
        umin1, umax1, smin1, smax1 = a.umin32, a.umax32, a.smin32, a.smax32
        umin2, umax2, smin2, smax2 = b.umin32, b.umax32, b.smin32, b.smax32
    if op in (JEQ, JNE):
        equal: bool | None = None
        if not am and not bm:
            equal = av == bv
        elif umin1 > umax2 or umax1 < umin2 or smin1 > smax2 or smax1 < smin2 or (rules.overlap and (av ^ bv) & ~(am | bm)):
            equal = False
        elif wide and (a.umin32 > b.umax32 or a.umax32 < b.umin32 or a.smin32 > b.smax32 or a.smax32 < b.smin32):
            # The halves may differ where the whole numbers' ranges meet.
            equal = False
        return equal if equal is None or op == JEQ else not equal
    if op == JSET:
        if bm:
            if am:
                return None
            av, am, bv, bm = bv, bm, av, am
        if av & ~am & bv:
            return True
        return False if not (av | am) & bv else None
    if op == JGT:
        return True if umin1 > umax2 else False if umax1 <= umin2 else None
    if op == JSGT:
        return True if smin1 > smax2 else False if smax1 <= smin2 else None
    if op == JLT:
        return True if umax1 < umin2 else False if umin1 >= umax2 else None
    if op == JSLT:
        return True if smax1 < smin2 else False if smin1 >= smax2 else None
    if op == JGE:
        return True if umin1 >= umax2 else False if umax1 < umin2 else None
    if op == JSGE:
        return True if smin1 >= smax2 else False if smax1 < smin2 else None
    if op == JLE:
        return True if umax1 <= umin2 else False if umin1 > umax2 else None
    return True if smax1 <= smin2 else False if smin1 > smax2 else None


def refine(op: int, a: Num, b: Num, rules: Rules, *, wide: bool) -> tuple[Num, Num]:
    """What the two numbers are where `a op b` holds; give OPPOSITE[op] for where it does not."""
    if rules.old_bounds:
        return _refine_old(op, a, b, wide=wide)
    if op in (JGT, JGE, JSGT, JSGE):
        y, x = refine(SWAPPED[op], b, a, rules, wide=wide)
        return x, y
    if op in (JSET, _CLEAR):
        return _refine_bits(op, a, b, rules, wide=wide)
    if op == JNE:
        return _refine_other(a, b, rules, wide=wide)
    if wide:
        if op == JEQ:
            umin, umax, smin, smax = max(a.umin, b.umin), min(a.umax, b.umax), max(a.smin, b.smin), min(a.smax, b.smax)
            mask = a.mask & b.mask
            value = (a.value | b.value) & ~mask
            return (
                settle(value, mask, smin, smax, umin, umax, a.smin32, a.smax32, a.umin32, a.umax32, rules),
                settle(value, mask, smin, smax, umin, umax, b.smin32, b.smax32, b.umin32, b.umax32, rules),
            )
        if op in (JLT, JLE):
            gap = 1 if op == JLT else 0
            umax, umin = min(a.umax, b.umax - gap), max(a.umin + gap, b.umin)
            return (
                settle(a.value, a.mask, a.smin, a.smax, a.umin, umax, a.smin32, a.smax32, a.umin32, a.umax32, rules),
                settle(b.value, b.mask, b.smin, b.smax, umin, b.umax, b.smin32, b.smax32, b.umin32, b.umax32, rules),
            )
        gap = 1 if op == JSLT else 0
        smax, smin = min(a.smax, b.smax - gap), max(a.smin + gap, b.smin)
        return (
            settle(a.value, a.mask, a.smin, smax, a.umin, a.umax, a.smin32, a.smax32, a.umin32, a.umax32, rules),
            settle(b.value, b.mask, smin, b.smax, b.umin, b.umax, b.smin32, b.smax32, b.umin32, b.umax32, rules),
        )
    if op == JEQ:
        umin, umax = max(a.umin32, b.umin32), min(a.umax32, b.umax32)
        smin, smax = max(a.smin32, b.smin32), min(a.smax32, b.smax32)
        mask = a.mask & b.mask & U32
        value = (a.value | b.value) & U32 & ~mask
        high = U64 ^ U32
        return (
            settle(a.value & high | value, a.mask & high | mask, a.smin, a.smax, a.umin, a.umax, smin, smax, umin, umax, rules),
            settle(b.value & high | value, b.mask & high | mask, b.smin, b.smax, b.umin, b.umax, smin, smax, umin, umax, rules),
        )
    if op in (JLT, JLE):
        gap = 1 if op == JLT else 0
        umax, umin = min(a.umax32, b.umax32 - gap), max(a.umin32 + gap, b.umin32)
        return (
            settle(a.value, a.mask, a.smin, a.smax, a.umin, a.umax, a.smin32, a.smax32, a.umin32, umax, rules),
            settle(b.value, b.mask, b.smin, b.smax, b.umin, b.umax, b.smin32, b.smax32, umin, b.umax32, rules),
        )
    gap = 1 if op == JSLT else 0
    smax, smin = min(a.smax32, b.smax32 - gap), max(a.smin32 + gap, b.smin32)
    return (
        settle(a.value, a.mask, a.smin, a.smax, a.umin, a.umax, a.smin32, smax, a.umin32, a.umax32, rules),
        settle(b.value, b.mask, b.smin, b.smax, b.umin, b.umax, smin, b.smax32, b.umin32, b.umax32, rules),
    )


def _refine_old(op: int, a: Num, b: Num, *, wide: bool) -> tuple[Num, Num]:
    """Only one of two numbers learns, from the other one, which is a constant; or both, that they are equal."""
    if _known(b, wide=wide):
        return old_bounds.learnt(op, a, b.value, wide=wide), b
    if _known(a, wide=wide):
        return a, old_bounds.learnt(SWAPPED.get(op, op), b, a.value, wide=wide)
    return old_bounds.equal(a, b) if wide and op == JEQ else (a, b)


def refine_itself(op: int, n: Num, rules: Rules, *, wide: bool) -> Num:
    """What a number is where it stands in relation `op` to itself.

    It cannot be less or more than itself, but Linux goes this way too, and narrows both ends; and it settles both sides.
    """
    if rules.old_bounds:
        return _refine_old(op, n, n, wide=wide)[0]
    smin, smax, umin, umax = n.smin, n.smax, n.umin, n.umax
    smin32, smax32, umin32, umax32 = n.smin32, n.smax32, n.umin32, n.umax32
    if op in (JLT, JGT):
        if wide:
            umin, umax = umin + 1, umax - 1
        else:
            umin32, umax32 = umin32 + 1, umax32 - 1
    elif op in (JSLT, JSGT):
        if wide:
            smin, smax = smin + 1, smax - 1
        else:
            smin32, smax32 = smin32 + 1, smax32 - 1
    return _again(settle(n.value, n.mask, smin, smax, umin, umax, smin32, smax32, umin32, umax32, rules), rules)


def _again(n: Num, rules: Rules) -> Num:
    """A number settled once more: that may find more than the first time. One without ranges stays so: its bits may contradict."""
    if n.umin == 0 and n.umax == U64 and n.smin == S64_MIN and n.smax == S64_MAX and n.umin32 == 0 and n.umax32 == U32:
        return n
    return settle(n.value, n.mask, n.smin, n.smax, n.umin, n.umax, n.smin32, n.smax32, n.umin32, n.umax32, rules)


def _known(n: Num, *, wide: bool) -> bool:
    return not n.mask if wide else not n.mask & U32


def _refine_other(a: Num, b: Num, rules: Rules, *, wide: bool) -> tuple[Num, Num]:
    """a is not b: that says something where one is known and the other's range ends there."""
    if not _known(b, wide=wide):
        if not _known(a, wide=wide):
            return _again(a, rules), _again(b, rules)
        y, x = _refine_other(b, a, rules, wide=wide)
        return x, y
    if wide:
        whole, swhole = b.value, s64(b.value)
        umin, umax = a.umin + (a.umin == whole and whole < U64), a.umax - (a.umax == whole and whole > 0)
        smin, smax = a.smin + (a.smin == swhole and swhole < S64_MAX), a.smax - (a.smax == swhole and swhole > S64_MIN)
        return settle(a.value, a.mask, smin, smax, umin, umax, a.smin32, a.smax32, a.umin32, a.umax32, rules), b
    low = b.value & U32
    slow = s32(low)
    umin, umax = a.umin32 + (a.umin32 == low and low < U32), a.umax32 - (a.umax32 == low and low > 0)
    smin, smax = a.smin32 + (a.smin32 == slow and slow < S32_MAX), a.smax32 - (a.smax32 == slow and slow > S32_MIN)
    return settle(a.value, a.mask, a.smin, a.smax, a.umin, a.umax, smin, smax, umin, umax, rules), b


def _refine_bits(op: int, a: Num, b: Num, rules: Rules, *, wide: bool) -> tuple[Num, Num]:
    if not _known(b, wide=wide):
        if not _known(a, wide=wide):
            return _again(a, rules), _again(b, rules)
        y, x = _refine_bits(op, b, a, rules, wide=wide)
        return x, y
    tested = b.value if wide else b.value & U32
    value, mask = a.value, a.mask
    if op == JSET:
        # One of the bits is set: which, is known if it is just one.
        if tested & (tested - 1) or not tested:
            return _again(a, rules), b
        value, mask = value | tested, mask & ~tested
    else:
        value, mask = value & ~tested, mask & ~tested
        if rules.forgets_ranges:
            # Linux keeps the bits alone, because on a way that cannot be the ranges would contradict them.
            return of_bits(value, mask, rules), b
    return settle(value, mask, a.smin, a.smax, a.umin, a.umax, a.smin32, a.smax32, a.umin32, a.umax32, rules), b
