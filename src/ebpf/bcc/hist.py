"""Histograms as BCC draws them."""

from collections.abc import Mapping

_STARS = 40


def _bar(value: int, largest: int, width: int) -> str:
    """`width` columns of stars, the largest value's full; one that does not fit ends in a plus."""
    if not largest:
        return " " * width
    count = min(width, int(width * value / largest))
    text = "*" * count + " " * (width - count)
    return text[:-1] + "+" if value > largest else text


def log2_hist(slots: Mapping[int, int], val_type: str, *, strip_leading_zero: bool = False) -> str:
    """Slots as powers of two: slot 1 holds 0 and 1, slot n holds 2**(n-1) to 2**n - 1."""
    if not any(slots.values()):
        return ""
    top = max(slot for slot, count in slots.items() if count)
    largest = max(slots.values())
    wide = top > 32
    caption, stars = (39, _STARS // 2) if wide else (19, _STARS)
    lines = [f"     {val_type:<{caption}} : count     distribution"]
    leading = strip_leading_zero
    for slot in range(1, top + 1):
        low = (1 << slot) >> 1
        high = (1 << slot) - 1
        low -= low == high
        count = slots.get(slot, 0)
        if leading and not count:
            continue
        leading = False
        number = 20 if wide else 10
        lines.append(f"{low:>{number}} -> {high:<{number}} : {count:<8} |{_bar(count, largest, stars)}|")
    return "\n".join(lines)


def linear_hist(slots: Mapping[int, int], val_type: str, *, strip_leading_zero: bool = False) -> str:
    """Slots as single values."""
    if not any(slots.values()):
        return ""
    top = max(slot for slot, count in slots.items() if count)
    largest = max(slots.values())
    lines = [f"     {val_type:<13} : count     distribution"]
    leading = strip_leading_zero
    for slot in range(top + 1):
        count = slots.get(slot, 0)
        if leading and not count:
            continue
        leading = False
        lines.append(f"        {slot:<10} : {count:<8} |{_bar(count, largest, _STARS)}|")
    return "\n".join(lines)
