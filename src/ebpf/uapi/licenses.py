"""Which licences count as GPL-compatible to Linux. Source: include/linux/license.h, as a list of words."""

from typing import Final

_COMPATIBLE: Final = frozenset({"GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL"})


def is_gpl(text: str) -> bool:
    """Whether a licence counts as GPL-compatible, by the kernel's own list."""
    return text in _COMPATIBLE
