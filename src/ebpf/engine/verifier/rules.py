"""What differs between the versions of Linux whose verdict can be asked for: one row each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Rules:
    """A version's rules.

    `deductions`: how often 64- and 32-bit bounds are brought to bear on each other. `crossing`: whether bounds that cross
    the sign are used. `sharp_add`: sums that overflow at both ends keep their bounds. `sharp_mul`: products of signed
    bounds. `tracks_neg`: what negation gives is known. `linked_offsets`: numbers that differ by a constant are learnt of
    together. `private_stack`: the types whose stack is not counted with their callers'. `marks`: the log shows which
    registers were written (`R1_w=0`).
    """

    name: str
    deductions: int = 3
    crossing: bool = True
    sharp_add: bool = True
    sharp_mul: bool = True
    tracks_neg: bool = True
    tracks_swaps: bool = True
    sharp_bits: bool = True
    forgets_ranges: bool = True
    linked_offsets: bool = True
    linked_differences: bool = True
    overlap: bool = True
    private_stack: bool = True
    marks: bool = False
    live_table: bool = True
    uninit_stack_reads: bool = True
    may_goto: bool = True
    load_acquire: bool = True
    iterators: bool = True
    bswap: bool = True
    nonnull_array: bool = True
    locked_calls: bool = True
    jset_sharp: bool = True


_ROWS: Final = (
    Rules("6.18"),
    Rules(
        "6.12",
        deductions=2,
        crossing=False,
        sharp_add=False,
        sharp_mul=False,
        tracks_neg=False,
        tracks_swaps=False,
        sharp_bits=False,
        forgets_ranges=False,
        overlap=False,
        linked_differences=False,
        private_stack=False,
        marks=True,
        live_table=False,
        load_acquire=False,
        nonnull_array=False,
    ),
    Rules(
        "6.1",
        deductions=1,
        crossing=False,
        sharp_add=False,
        sharp_mul=False,
        tracks_neg=False,
        tracks_swaps=False,
        sharp_bits=False,
        forgets_ranges=False,
        linked_offsets=False,
        overlap=False,
        linked_differences=False,
        private_stack=False,
        marks=True,
        live_table=False,
        uninit_stack_reads=False,
        may_goto=False,
        load_acquire=False,
        iterators=False,
        bswap=False,
        locked_calls=False,
        nonnull_array=False,
        jset_sharp=False,
    ),
)
RULES: Final[Mapping[str, Rules]] = {row.name: row for row in _ROWS}
NEWEST: Final = _ROWS[0]
