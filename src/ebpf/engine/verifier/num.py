"""What is known of a number: each bit (0, 1 or unknown) and its range as a signed and unsigned number of 64 and of 32 bits.

A Num never changes. `value` has the bits known to be 1, `mask` those that are unknown; unsigned fields are below 2^64 or
2^32, signed ones are Python's negative numbers. `settle` brings the parts to bear on each other, in the order in which
Linux does, because verdicts and logs show which bounds were found.
"""

from typing import Final

from ebpf.engine.verifier.rules import NEWEST, Rules

U64: Final = (1 << 64) - 1
U32: Final = (1 << 32) - 1
S64_MIN: Final = -(1 << 63)
S64_MAX: Final = (1 << 63) - 1
S32_MIN: Final = -(1 << 31)
S32_MAX: Final = (1 << 31) - 1
_HIGH: Final = U64 ^ U32


def s64(x: int) -> int:
    """The signed number with the low 64 bits of `x`."""
    x &= U64
    return x - (1 << 64) if x >> 63 else x


def s32(x: int) -> int:
    """The signed number with the low 32 bits of `x`."""
    x &= U32
    return x - (1 << 32) if x >> 31 else x


class Num:
    """What is known of a number."""

    __slots__ = ("mask", "smax", "smax32", "smin", "smin32", "umax", "umax32", "umin", "umin32", "value")

    def __init__(
        self,
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
    ) -> None:
        self.value = value
        self.mask = mask
        self.smin = smin
        self.smax = smax
        self.umin = umin
        self.umax = umax
        self.smin32 = smin32
        self.smax32 = smax32
        self.umin32 = umin32
        self.umax32 = umax32

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, Num)
            and self.value == other.value
            and self.mask == other.mask
            and self.smin == other.smin
            and self.smax == other.smax
            and self.umin == other.umin
            and self.umax == other.umax
            and self.smin32 == other.smin32
            and self.smax32 == other.smax32
            and self.umin32 == other.umin32
            and self.umax32 == other.umax32
        )

    def __hash__(self) -> int:
        return hash((self.value, self.mask, self.smin, self.umax))

    def __repr__(self) -> str:
        return f"{s64(self.value)}" if not self.mask else f"({ranges(self)})"

    def contains(self, other: "Num") -> bool:
        """Whether every number that `other` may be, this may be."""
        if self is other:
            return True
        return (
            self.umin <= other.umin
            and self.umax >= other.umax
            and self.smin <= other.smin
            and self.smax >= other.smax
            and self.umin32 <= other.umin32
            and self.umax32 >= other.umax32
            and self.smin32 <= other.smin32
            and self.smax32 >= other.smax32
            and not other.mask & ~self.mask
            and self.value == other.value & ~self.mask
        )

    def has(self, x: int) -> bool:
        """Whether the number may be `x` (0 to 2^64 - 1)."""
        low = x & U32
        return (
            x & ~self.mask == self.value
            and self.umin <= x <= self.umax
            and self.smin <= s64(x) <= self.smax
            and self.umin32 <= low <= self.umax32
            and self.smin32 <= s32(low) <= self.smax32
        )


_KNOWN: dict[int, Num] = {}


def known(x: int) -> Num:
    """The number `x`."""
    x &= U64
    found = _KNOWN.get(x)
    if found is not None:
        return found
    low = x & U32
    wide = x - (1 << 64) if x >> 63 else x
    narrow = low - (1 << 32) if low >> 31 else low
    made = Num(x, 0, wide, wide, x, x, narrow, narrow, low, low)
    if len(_KNOWN) < 4096:
        _KNOWN[x] = made
    return made


UNKNOWN: Final = Num(0, U64, S64_MIN, S64_MAX, 0, U64, S32_MIN, S32_MAX, 0, U32)
ZERO: Final = known(0)


#: What was settled before: loops come by the same numbers again and again. Emptied when it is full.
_SETTLED: dict[tuple[int, int, int, int, int, int, int, int, int, int, str], Num] = {}
_MOST_SETTLED: Final = 1 << 15


def settle(
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
    rules: Rules = NEWEST,
) -> Num:
    """A number with its parts brought to bear on each other.

    Parts that contradict each other (a path that cannot be) leave the bits alone and make all bounds unknown, as in Linux.
    """
    key = (value, mask, smin, smax, umin, umax, smin32, smax32, umin32, umax32, rules.name)
    found = _SETTLED.get(key)
    if found is None:
        if len(_SETTLED) >= _MOST_SETTLED:
            _SETTLED.clear()
        found = _SETTLED[key] = _settled(value, mask, smin, smax, umin, umax, smin32, smax32, umin32, umax32, rules)
    return found


def _settled(
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
    rules: Rules,
) -> Num:
    if rules.old_bounds:
        from ebpf.engine.verifier.old_bounds import settled

        return settled(value, mask, smin, smax, umin, umax, smin32, smax32, umin32, umax32)
    for last in (False, True):
        # The bits bound the number.
        low_v, low_m = value & U32, mask & U32
        x = s32(low_v | (low_m & 0x80000000))
        if x > smin32:
            smin32 = x
        x = s32(low_v | (low_m & 0x7FFFFFFF))
        if x < smax32:
            smax32 = x
        if low_v > umin32:
            umin32 = low_v
        x = low_v | low_m
        if x < umax32:
            umax32 = x
        x = s64(value | (mask & (1 << 63)))
        if x > smin:
            smin = x
        x = s64(value | (mask & S64_MAX))
        if x < smax:
            smax = x
        if value > umin:
            umin = value
        x = value | mask
        if x < umax:
            umax = x
        if rules.sharp_bits and (mask & (mask + 1) or not mask or umin > umax):
            only = _only(value, mask, umin, umax)
            if only >= 0:
                return known(only)
        if last:
            break
        for _ in range(3):
            before = (smin, smax, umin, umax, smin32, smax32, umin32, umax32)
            # 64-bit ranges whose high halves are one, or two that follow each other, bound the low half.
            if umin >> 32 == umax >> 32:
                a, b = umin & U32, umax & U32
                umin32, umax32 = max(umin32, a), min(umax32, b)
                a, b = s32(a), s32(b)
                if a <= b:
                    smin32, smax32 = max(smin32, a), min(smax32, b)
            if smin >> 32 == smax >> 32:
                a, b = smin & U32, smax & U32
                if a <= b:
                    umin32, umax32 = max(umin32, a), min(umax32, b)
                a, b = s32(a), s32(b)
                if a <= b:
                    smin32, smax32 = max(smin32, a), min(smax32, b)
            if (umin >> 32) + 1 & U32 == umax >> 32:
                a, b = s32(umin), s32(umax)
                if a < 0 <= b:
                    smin32, smax32 = max(smin32, a), min(smax32, b)
            if (smin >> 32) + 1 & U32 == smax >> 32 & U32:
                a, b = s32(smin), s32(smax)
                if a < 0 <= b:
                    smin32, smax32 = max(smin32, a), min(smax32, b)
            # Signed and unsigned bounds of one width, where the range does not cross what divides them.
            a, b = s32(umin32), s32(umax32)
            if a <= b:
                smin32, smax32 = max(smin32, a), min(smax32, b)
            a, b = smin32 & U32, smax32 & U32
            if a <= b:
                umin32, umax32 = max(umin32, a), min(umax32, b)
            elif umax32 < a:
                smin32, umax32 = s32(umin32), min(umax32, b)
            elif b < umin32:
                smax32, umin32 = s32(umax32), max(umin32, a)
            a, b = s64(umin), s64(umax)
            if a <= b:
                smin, smax = max(smin, a), min(smax, b)
            a, b = smin & U64, smax & U64
            if a <= b:
                umin, umax = max(umin, a), min(umax, b)
            elif umax < a:
                # The signed range is [0, smax] and [smin, 2^64): the unsigned one may lie in one of the two alone.
                smin, umax = s64(umin), min(umax, b)
            elif b < umin:
                smax, umin = s64(umax), max(umin, a)
            # The low half's bounds under the high half that the ends have.
            umin, umax = max(umin, umin & _HIGH | umin32), min(umax, umax & _HIGH | umax32)
            smin, smax = max(smin, (smin >> 32 << 32) | umin32), min(smax, (smax >> 32 << 32) | umax32)
            if smin32 & U32 <= smax32 & U32:
                a, b = smin32 & U32, smax32 & U32
                umin, umax = max(umin, umin & _HIGH | a), min(umax, umax & _HIGH | b)
                smin, smax = max(smin, (smin >> 32 << 32) | a), min(smax, (smax >> 32 << 32) | b)
            if smin32 >= 0 and smin >= S32_MIN and smax <= S32_MAX:
                # After a sign-extending load: a low half that is not negative is all there is.
                smin, smax, umin, umax = smin32, smax32, smin32, smax32
                if smin32 <= smax32:
                    bits = (smin32 ^ smax32).bit_length()
                    m = (1 << bits) - 1
                    value, mask = (value | (smin32 & ~m)) & ~(mask & m), mask & m
            if before == (smin, smax, umin, umax, smin32, smax32, umin32, umax32):
                break
        # The ranges bound the bits.
        bits = (umin ^ umax).bit_length()
        m = (1 << bits) - 1
        v = umin & ~m
        value, mask = (value | v) & ~(mask & m), mask & m
        bits = (umin32 ^ umax32).bit_length()
        m = (1 << bits) - 1
        v = umin32 & ~m
        low_m = mask & U32 & m
        low_v = (value & U32 | v) & ~low_m
        value, mask = value & _HIGH | low_v, mask & _HIGH | low_m
    if umin > umax or smin > smax or umin32 > umax32 or smin32 > smax32:
        return Num(value, mask, S64_MIN, S64_MAX, 0, U64, S32_MIN, S32_MAX, 0, U32)
    if not mask:
        return known(value)
    return Num(value, mask, smin, smax, umin, umax, smin32, smax32, umin32, umax32)


def _only(value: int, mask: int, low: int, high: int) -> int:
    """The one number with these bits between `low` and `high`, or -1 if there are more.

    Where there is none (a path that cannot be) it is the one that Linux takes.
    """
    most = value | mask
    following = _after(value, mask, low)
    if following < 0:
        following = most
    if low & ~mask == value:
        return low if following > high else -1
    if following == most:
        return most
    if following > high:
        return -1
    after = _after(value, mask, following)
    return following if after > high or after < 0 else -1


def _after(value: int, mask: int, x: int) -> int:
    """The least number above `x` with these bits, or -1."""
    if x < value:
        return value
    if x >= value | mask:
        return -1
    # What the unknown bits must make at least; where that has a bit that they have not, the next bit above counts up.
    least = x - value + 1
    wrong = least & ~mask
    if wrong:
        block = (1 << wrong.bit_length()) - 1
        least = ((least | ~mask & U64 | block) + 1) & mask & ~block
        if not least:
            return -1
    return value + least


def of_bits(value: int, mask: int, rules: Rules = NEWEST) -> Num:
    """A number of which only bits are known."""
    if not mask:
        return known(value)
    return settle(value, mask, S64_MIN, S64_MAX, 0, U64, S32_MIN, S32_MAX, 0, U32, rules)


def unsigned_range(low: int, high: int) -> Num:
    """A number from `low` to `high`."""
    return settle(0, U64, S64_MIN, S64_MAX, low, high, S32_MIN, S32_MAX, 0, U32)


def signed_range(low: int, high: int) -> Num:
    """A signed number from `low` to `high`."""
    return settle(0, U64, low, high, 0, U64, S32_MIN, S32_MAX, 0, U32)


_SIZED: Final = {size: unsigned_range(0, (1 << 8 * size) - 1) for size in (1, 2, 4)}
_SIZED_SIGNED: Final = {size: signed_range(-(1 << 8 * size - 1), (1 << 8 * size - 1) - 1) for size in (1, 2, 4)}


def sized(size: int) -> Num:
    """A number of `size` bytes (1, 2, 4 or 8)."""
    return UNKNOWN if size == 8 else _SIZED[size]


def sized_signed(size: int) -> Num:
    """A sign-extended number of `size` bytes (1, 2 or 4)."""
    return _SIZED_SIGNED[size]


def with_low_half(n: Num, low: int, rules: Rules = NEWEST) -> Num:
    """The number whose low 32 bits are known to be `low`."""
    bits, mask = n.value & _HIGH | low, n.mask & _HIGH
    return settle(bits, mask, n.smin, n.smax, n.umin, n.umax, s32(low), s32(low), low, low, rules)


def zero_extend(n: Num, rules: Rules = NEWEST) -> Num:
    """The low 32 bits of a number."""
    if n.umax <= U32 and n.umin == n.umin32 and n.umax == n.umax32 and n.smin >= 0 and not n.mask >> 32:
        return n
    if not n.mask & U32 and not rules.old_bounds:
        return known(n.value & U32)
    if n.smin32 >= 0 and n.smax32 >= 0:
        smin, smax = n.smin32, n.smax32
    else:
        smin, smax = 0, U32
    return settle(n.value & U32, n.mask & U32, smin, smax, n.umin32, n.umax32, n.smin32, n.smax32, n.umin32, n.umax32, rules)


def cast(n: Num, size: int, rules: Rules = NEWEST) -> Num:
    """The low `size` bytes of a number, as a load of so many gives them."""
    if size == 8:
        return n
    if rules.old_bounds:
        from ebpf.engine.verifier import old_bounds

        return old_bounds.cast(n, size)
    top = (1 << 8 * size) - 1
    if not n.mask & top:
        return known(n.value & top)
    if n.umin & ~top == n.umax & ~top:
        umin, umax = n.umin & top, n.umax & top
    else:
        umin, umax = 0, top
    if size < 4:
        return settle(n.value & top, n.mask & top, umin, umax, umin, umax, S32_MIN, S32_MAX, 0, U32, rules)
    return settle(n.value & top, n.mask & top, umin, umax, umin, umax, n.smin32, n.smax32, n.umin32, n.umax32, rules)


def sign_extend(n: Num, size: int, rules: Rules = NEWEST) -> Num:
    """The low `size` bytes of a number, sign-extended to 64 bits."""
    bits = 8 * size
    top = (1 << bits) - 1
    if not n.mask:
        x = n.value & top
        return known(x - (1 << bits) if x >> bits - 1 else x)
    unknown = sized_signed(size)
    a, b = n.smax & U64 & ~top, n.smin & U64 & ~top
    if a != b:
        return unknown
    x, y = n.smax & top, n.smin & top
    x = x - (1 << bits) if x >> bits - 1 else x
    y = y - (1 << bits) if y >> bits - 1 else y
    high, low = max(x, y), min(x, y)
    if (high < 0) != (low < 0):
        return unknown
    # Both ends have one sign, and so has all between.
    return settle(0, U64, low, high, low & U64, high & U64, s32(low), s32(high), low & U32, high & U32, rules)


def sign_extend32(n: Num, size: int, rules: Rules = NEWEST) -> Num:
    """The low `size` bytes (1 or 2), sign-extended to 32 bits and then zero-extended."""
    bits = 8 * size
    top = (1 << bits) - 1
    if not n.mask:
        x = n.value & top
        return known((x - (1 << bits) if x >> bits - 1 else x) & U32)
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    if n.smax32 & U32 & ~top == n.smin32 & U32 & ~top:
        x, y = n.smax32 & top, n.smin32 & top
        x = x - (1 << bits) if x >> bits - 1 else x
        y = y - (1 << bits) if y >> bits - 1 else y
        if (max(x, y) < 0) == (min(x, y) < 0):
            low, high = min(x, y), max(x, y)
            narrow = settle(0, U32, S64_MIN, S64_MAX, 0, U64, low, high, low & U32, high & U32, rules)
            return zero_extend(narrow, rules)
    return zero_extend(Num(0, U32, 0, U32, 0, U32, low, high, 0, U32), rules)


# -- text, in Linux's dialect

_TENS: Final = 1 << 16


def unsigned_text(x: int) -> str:
    """A number as the log writes it: decimal if it is small."""
    return str(x) if x < _TENS else f"{x:#x}"


def signed_text(x: int) -> str:
    """A signed number as the log writes it."""
    return str(x) if -32768 <= x <= 32767 else f"{x & U64:#x}"


def ranges(n: Num) -> str:
    """The ranges and bits that say something: `smin=umin=4,smax=...`."""
    rows: list[tuple[str, int, bool]] = [
        ("smin", n.smin, n.smin == S64_MIN),
        ("smax", n.smax, n.smax == S64_MAX),
        ("umin", n.umin, n.umin == 0),
        ("umax", n.umax, n.umax == U64),
        ("smin32", _narrow(n.smin32), n.smin32 == S32_MIN),
        ("smax32", _narrow(n.smax32), n.smax32 == S32_MAX),
        ("umin32", n.umin32, n.umin32 == 0),
        ("umax32", n.umax32, n.umax32 == U32),
    ]
    omitted = [row[2] for row in rows]
    parts = []
    for at, (name, number, _) in enumerate(rows):
        if omitted[at]:
            continue
        names = name
        for other in range(at + 2, 8, 2):
            if not omitted[other] and rows[other][1] == number:
                omitted[other] = True
                names += "=" + rows[other][0]
        parts.append(f"{names}={unsigned_text(number) if name[0] == 'u' else signed_text(number)}")
    if n.mask != U64:
        parts.append(f"var_off={bits_text(n.value, n.mask)}")
    return ",".join(parts)


def _narrow(x: int) -> int:
    """A signed bound of 32 bits as the log takes it: one that it writes in hexadecimal has no sign."""
    return x if -32768 <= x <= 32767 else x & U32


def bits_text(value: int, mask: int) -> str:
    """Bits as the log writes them: `(0x0; 0xff)`, or the number if all are known."""
    return f"({value:#x}; {mask:#x})"
