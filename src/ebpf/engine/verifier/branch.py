"""What a comparison teaches on either side of a branch."""

from ebpf.engine.verifier.arith import packet_limit
from ebpf.engine.verifier.scalar import S64_MIN, U32, U64, Scalar, is_empty, known, make
from ebpf.engine.verifier.state import Kind, Reg, State
from ebpf.isa.opcodes import Jmp

_OPPOSITE = {
    Jmp.JEQ: Jmp.JNE,
    Jmp.JNE: Jmp.JEQ,
    Jmp.JGT: Jmp.JLE,
    Jmp.JLE: Jmp.JGT,
    Jmp.JGE: Jmp.JLT,
    Jmp.JLT: Jmp.JGE,
    Jmp.JSGT: Jmp.JSLE,
    Jmp.JSLE: Jmp.JSGT,
    Jmp.JSGE: Jmp.JSLT,
    Jmp.JSLT: Jmp.JSGE,
}
_SWAPPED = {
    Jmp.JEQ: Jmp.JEQ,
    Jmp.JNE: Jmp.JNE,
    Jmp.JGT: Jmp.JLT,
    Jmp.JLT: Jmp.JGT,
    Jmp.JGE: Jmp.JLE,
    Jmp.JLE: Jmp.JGE,
    Jmp.JSGT: Jmp.JSLT,
    Jmp.JSLT: Jmp.JSGT,
    Jmp.JSGE: Jmp.JSLE,
    Jmp.JSLE: Jmp.JSGE,
}

Pair = tuple[Scalar, Scalar]


def refine(op: Jmp, a: Scalar, b: Scalar, bits: int, *, taken: bool) -> Pair | None:
    """Both sides of `a op b` when it is (or is not) true; None if it cannot be."""
    if op == Jmp.JSET:
        return _refine_set(a, b, bits, taken=taken)
    if not taken:
        op = _OPPOSITE[op]
    if bits == 32:
        # Only where 32-bit numbers are the whole 64-bit ones does the comparison say something of those.
        limit = 0x7FFFFFFF if op in (Jmp.JSGT, Jmp.JSGE, Jmp.JSLT, Jmp.JSLE) else U32
        if a.umax > limit or b.umax > limit:
            return _refine_narrow(op, a, b)
    return _refine_wide(op, a, b)


def _refine_narrow(op: Jmp, a: Scalar, b: Scalar) -> Pair | None:
    """A 32-bit comparison of numbers whose high halves matter: decided only when the low halves are known."""
    low_a, low_b = a.const, b.const
    if low_a is None or low_b is None:
        return a, b
    x, y = low_a & U32, low_b & U32
    sx, sy = x - (1 << 32 if x >> 31 else 0), y - (1 << 32 if y >> 31 else 0)
    truth = {
        Jmp.JEQ: x == y,
        Jmp.JNE: x != y,
        Jmp.JGT: x > y,
        Jmp.JGE: x >= y,
        Jmp.JLT: x < y,
        Jmp.JLE: x <= y,
        Jmp.JSGT: sx > sy,
        Jmp.JSGE: sx >= sy,
        Jmp.JSLT: sx < sy,
        Jmp.JSLE: sx <= sy,
    }
    return (a, b) if truth[op] else None


def _bounded(x: Scalar, smin: int, smax: int, umin: int, umax: int) -> Scalar | None:
    smin, smax, umin, umax = max(x.smin, smin), min(x.smax, smax), max(x.umin, umin), min(x.umax, umax)
    if is_empty(x.value, x.mask, smin, smax, umin, umax):
        return None
    return make(x.value, x.mask, smin, smax, umin, umax)


def _refine_wide(op: Jmp, a: Scalar, b: Scalar) -> Pair | None:
    smin, smax = S64_MIN, -S64_MIN - 1
    if op == Jmp.JEQ:
        if (a.value ^ b.value) & ~a.mask & ~b.mask & U64:
            return None
        both = _bounded(a, b.smin, b.smax, b.umin, b.umax)
        if both is None:
            return None
        value, mask = both.value | b.value & ~b.mask, both.mask & b.mask
        if is_empty(value & ~mask, mask, both.smin, both.smax, both.umin, both.umax):
            return None
        both = make(value & ~mask, mask, both.smin, both.smax, both.umin, both.umax)
        return both, both
    if op == Jmp.JNE:
        if a.const is not None and a.const == b.const:
            return None
        return _without(a, b.const), _without(b, a.const)
    if op in (Jmp.JLT, Jmp.JLE, Jmp.JSLT, Jmp.JSLE):
        swapped = _refine_wide(_SWAPPED[op], b, a)
        return None if swapped is None else (swapped[1], swapped[0])
    gap = 1 if op in (Jmp.JGT, Jmp.JSGT) else 0
    if op in (Jmp.JGT, Jmp.JGE):
        x = _bounded(a, smin, smax, b.umin + gap, U64)
        y = _bounded(b, smin, smax, 0, a.umax - gap)
    else:
        x = _bounded(a, b.smin + gap, smax, 0, U64)
        y = _bounded(b, smin, a.smax - gap, 0, U64)
    return None if x is None or y is None else (x, y)


def _without(x: Scalar, excluded: int | None) -> Scalar:
    """`x` without one number, when that is at an end."""
    if excluded is None or x.const is not None:
        return x
    umin, umax = x.umin + (x.umin == excluded), x.umax - (x.umax == excluded)
    as_signed = excluded - (1 << 64) if excluded >> 63 else excluded
    smin, smax = x.smin + (x.smin == as_signed), x.smax - (x.smax == as_signed)
    return make(x.value, x.mask, smin, smax, umin, umax)


def _refine_set(a: Scalar, b: Scalar, bits: int, *, taken: bool) -> Pair | None:
    constant = b.const
    if constant is None:
        return a, b
    if bits == 32:
        constant &= U32
    must = a.value & ~a.mask & constant
    may = (a.value | a.mask) & constant
    if taken:
        return (a, b) if may else None
    if must:
        return None
    # None of the bits is set.
    mask = a.mask & ~constant
    if is_empty(a.value, mask, a.smin, a.smax, a.umin, a.umax):
        return a, b
    return make(a.value, mask, a.smin, a.smax, a.umin, a.umax), b


def pointer_branch(state: State, op: Jmp, dst: Reg, src: Reg, *, taken: bool) -> bool | None:
    """Learn from a comparison with a pointer: False if this side cannot be, None if nothing is learnt, True if it was."""
    if op in (Jmp.JEQ, Jmp.JNE) and src.kind == Kind.SCALAR and src.num.const == 0 and dst.is_pointer:
        is_null = (op == Jmp.JEQ) == taken
        if dst.null:
            settle_null(state, dst.id, dst.ref, is_null=is_null)
            return True
        # What is no maybe-pointer is never null.
        return not is_null
    if dst.kind == Kind.PACKET_END or src.kind == Kind.PACKET_END or Kind.PACKET_META in (dst.kind, src.kind):
        return _packet_branch(state, op, dst, src, taken=taken)
    return None


def settle_null(state: State, id: int, ref: int, *, is_null: bool) -> None:
    """Every copy of a maybe-pointer is known to be one, or to be zero."""
    zero = Reg(Kind.SCALAR, known(0))
    for frame in state.frames:
        for number, reg in enumerate(frame.regs):
            if reg.null and reg.id == id:
                frame.regs[number] = zero if is_null else reg.copy(null=False)
        for at, held in frame.stack.items():
            if isinstance(held, Reg) and held.null and held.id == id:
                frame.stack[at] = zero if is_null else held.copy(null=False)
    if is_null and ref:
        state.refs.pop(ref, None)


def _packet_branch(state: State, op: Jmp, dst: Reg, src: Reg, *, taken: bool) -> bool | None:
    """`packet + n <= end` proves n bytes; of the data_meta area the packet's beginning is the end."""
    if op not in (Jmp.JGT, Jmp.JGE, Jmp.JLT, Jmp.JLE):
        return None
    ended: Jmp
    if src.kind == Kind.PACKET_END and dst.kind == Kind.PACKET:
        pointer, ended = dst, Jmp(op)
    elif dst.kind == Kind.PACKET_END and src.kind == Kind.PACKET:
        pointer, ended = src, _SWAPPED[op]
    elif dst.kind == Kind.PACKET_META and src.kind == Kind.PACKET and src.off == 0 and src.num.const == 0 and not src.id:
        pointer, ended = dst, Jmp(op)
    elif src.kind == Kind.PACKET_META and dst.kind == Kind.PACKET and dst.off == 0 and dst.num.const == 0 and not dst.id:
        pointer, ended = src, _SWAPPED[op]
    else:
        return None
    relation = ended if taken else _OPPOSITE[ended]
    if relation not in (Jmp.JLE, Jmp.JLT) or not packet_limit(pointer):
        return None
    proved = pointer.off + (1 if relation == Jmp.JLT else 0)
    for frame in state.frames:
        for number, reg in enumerate(frame.regs):
            if reg.kind == pointer.kind and reg.id == pointer.id and reg.rng < proved:
                frame.regs[number] = reg.copy(rng=proved)
        for at, held in frame.stack.items():
            if isinstance(held, Reg) and held.kind == pointer.kind and held.id == pointer.id and held.rng < proved:
                frame.stack[at] = held.copy(rng=proved)
    return True
