"""What is known of a number: a tristate number (which bits) and its signed and unsigned 64-bit bounds."""

from typing import Final

U64: Final = (1 << 64) - 1
U32: Final = (1 << 32) - 1
S64_MIN: Final = -(1 << 63)
S64_MAX: Final = (1 << 63) - 1


class Scalar:
    """An immutable set of 64-bit numbers: bits known by (`value`, `mask` of unknown bits), and bounds."""

    __slots__ = ("mask", "smax", "smin", "umax", "umin", "value")

    def __init__(self, value: int, mask: int, smin: int, smax: int, umin: int, umax: int) -> None:
        self.value = value
        self.mask = mask
        self.smin = smin
        self.smax = smax
        self.umin = umin
        self.umax = umax

    @property
    def const(self) -> int | None:
        """The number (unsigned) if it is known, else None."""
        return self.umin if self.umin == self.umax else None

    def contains(self, other: "Scalar") -> bool:
        """Whether every number of `other` is one of ours."""
        return (
            self.umin <= other.umin
            and self.umax >= other.umax
            and self.smin <= other.smin
            and self.smax >= other.smax
            and not other.mask & ~self.mask
            and (other.value ^ self.value) & ~self.mask == 0
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scalar) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[int, ...]:
        return (self.value, self.mask, self.smin, self.smax, self.umin, self.umax)

    def __repr__(self) -> str:
        if (known := self.const) is not None:
            return str(signed(known))
        parts = []
        if self.smin != S64_MIN:
            parts.append(f"smin={self.smin}")
        if self.smax != S64_MAX:
            parts.append(f"smax={self.smax}")
        if self.umin:
            parts.append(f"umin={self.umin}")
        if self.umax != U64:
            parts.append(f"umax={self.umax}")
        if self.mask != U64:
            parts.append(f"var_off=(0x{self.value:x}; 0x{self.mask:x})")
        return f"scalar({','.join(parts)})"


UNKNOWN: Final = Scalar(0, U64, S64_MIN, S64_MAX, 0, U64)


def signed(value: int) -> int:
    """A 64-bit pattern as a signed number."""
    value &= U64
    return value - (1 << 64) if value >> 63 else value


def known(value: int) -> Scalar:
    """One number."""
    value &= U64
    s = signed(value)
    return Scalar(value, 0, s, s, value, value)


def unsigned_range(low: int, high: int) -> Scalar:
    """The numbers from `low` to `high`, unsigned."""
    return make(0, U64, S64_MIN, S64_MAX, low, high)


def make(value: int, mask: int, smin: int, smax: int, umin: int, umax: int) -> Scalar:
    """A scalar with each kind of knowledge sharpened by the others; an impossible one comes back unknown."""
    for _ in range(2):
        # Bits bound the number.
        umin = max(umin, value)
        umax = min(umax, value | mask)
        # Where the sign is known, signed and unsigned bounds are the same thing.
        if umax <= S64_MAX:
            smin, smax = max(smin, umin), min(smax, umax)
        elif umin > S64_MAX:
            smin, smax = max(smin, umin - (1 << 64)), min(smax, umax - (1 << 64))
        if smin >= 0:
            umin, umax = max(umin, smin), min(umax, smax)
        elif smax < 0:
            umin, umax = max(umin, smin & U64), min(umax, smax & U64)
        if umin > umax or smin > smax:
            return UNKNOWN
        # Bounds fix the high bits that they share.
        differ = umin ^ umax
        spread = (1 << differ.bit_length()) - 1
        fixed = ~spread & U64
        value = (value | (umin & fixed & mask)) & ~(spread & mask) if mask else value
        mask &= spread
        value &= ~mask
    return Scalar(value & U64, mask, smin, smax, umin, umax)


def is_empty(value: int, mask: int, smin: int, smax: int, umin: int, umax: int) -> bool:
    """Whether no number satisfies all bounds: a branch that cannot be taken."""
    return umin > umax or smin > smax or max(umin, value) > min(umax, value | mask)


def truncate(x: Scalar, bits: int) -> Scalar:
    """The low bits, zero-extended."""
    limit = (1 << bits) - 1
    if x.umax <= limit:
        return x
    value, mask = x.value & limit, x.mask & limit
    low, high = 0, limit
    if x.umin >> bits == x.umax >> bits:
        low, high = x.umin & limit, x.umax & limit
    return make(value, mask, S64_MIN, S64_MAX, low, high)


def sign_extend(x: Scalar, bits: int) -> Scalar:
    """The low bits, sign-extended to 64."""
    low = truncate(x, bits)
    half = 1 << (bits - 1)
    if low.umax < half:
        return low
    if low.umin >= half:
        shift = (1 << 64) - (1 << bits)
        return make(low.value | (shift if not low.mask >> (bits - 1) & 1 else 0), U64, low.umin - 2 * half, low.umax - 2 * half, 0, U64)
    return make(0, U64, -half, half - 1, 0, U64)


def add(a: Scalar, b: Scalar) -> Scalar:
    """a + b."""
    smin, smax = a.smin + b.smin, a.smax + b.smax
    if smin < S64_MIN or smax > S64_MAX:
        smin, smax = S64_MIN, S64_MAX
    umin, umax = a.umin + b.umin, a.umax + b.umax
    if umax > U64:
        umin, umax = (0, U64) if umin <= U64 else (umin & U64, umax & U64)
    sm, sv = (a.mask + b.mask) & U64, (a.value + b.value) & U64
    mask = ((sm + sv & U64) ^ sv) | a.mask | b.mask
    return make(sv & ~mask, mask & U64, smin, smax, umin, umax)


def sub(a: Scalar, b: Scalar) -> Scalar:
    """a - b."""
    smin, smax = a.smin - b.smax, a.smax - b.smin
    if smin < S64_MIN or smax > S64_MAX:
        smin, smax = S64_MIN, S64_MAX
    umin, umax = (a.umin - b.umax, a.umax - b.umin) if a.umin >= b.umax else (0, U64)
    dv = (a.value - b.value) & U64
    mask = ((dv + a.mask & U64) ^ (dv - b.mask & U64)) | a.mask | b.mask
    return make(dv & ~mask, mask & U64, smin, smax, umin, umax)


def mul(a: Scalar, b: Scalar) -> Scalar:
    """a * b."""
    if a.const is not None and b.const is not None:
        return known(a.const * b.const)
    if a.umax * b.umax <= U64:
        return unsigned_range(a.umin * b.umin, a.umax * b.umax)
    return UNKNOWN


def bit_and(a: Scalar, b: Scalar) -> Scalar:
    """a & b."""
    alpha, beta = a.value | a.mask, b.value | b.mask
    value = a.value & b.value
    return make(value, alpha & beta & ~value, S64_MIN, S64_MAX, 0, min(a.umax, b.umax))


def bit_or(a: Scalar, b: Scalar) -> Scalar:
    """a | b."""
    value = a.value | b.value
    mask = (a.mask | b.mask) & ~value
    return make(value, mask, S64_MIN, S64_MAX, max(a.umin, b.umin), U64)


def bit_xor(a: Scalar, b: Scalar) -> Scalar:
    """a ^ b."""
    mask = a.mask | b.mask
    return make((a.value ^ b.value) & ~mask, mask, S64_MIN, S64_MAX, 0, U64)


def shift_left(a: Scalar, n: int) -> Scalar:
    """a << n."""
    low, high = (a.umin << n, a.umax << n) if a.umax << n <= U64 else (0, U64)
    return make(a.value << n & U64, a.mask << n & U64, S64_MIN, S64_MAX, low, high)


def shift_right(a: Scalar, n: int) -> Scalar:
    """a >> n, zeros coming in."""
    return make(a.value >> n, a.mask >> n, S64_MIN, S64_MAX, a.umin >> n, a.umax >> n)


def shift_arithmetic(a: Scalar, n: int) -> Scalar:
    """a >> n, the sign coming in."""
    return make(0, U64, a.smin >> n, a.smax >> n, 0, U64)


def divide(a: Scalar, b: Scalar) -> Scalar:
    """a / b unsigned; by zero it is 0."""
    if b.const:
        return unsigned_range(a.umin // b.const, a.umax // b.const)
    return unsigned_range(0, a.umax)


def modulo(a: Scalar, b: Scalar) -> Scalar:
    """a % b unsigned; by zero it is a."""
    if b.const:
        return a if a.umax < b.const else unsigned_range(0, b.const - 1)
    return unsigned_range(0, a.umax)
