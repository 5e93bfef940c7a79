"""What differs between the versions of Linux whose verdict can be asked for: one row each."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final


@dataclass(frozen=True, slots=True)
class Rules:
    """A version's rules.

    `deductions`: how often 64- and 32-bit bounds are brought to bear on each other. `crossing`: whether bounds that cross the
    sign are used. `sharp_add`: sums that overflow at both ends keep their bounds. `sharp_mul`: products of signed bounds.
    `of_unknown`: products, | and ^ of an unknown number keep bounds. `apart`: numbers of ranges that do not meet are not
    equal. `tracks_neg`: what negation gives is known. `linked_offsets`: numbers that differ by a constant are learnt of
    together. `links_live`: of numbers that are not read any more nothing is learnt. `guesses_mended`: a fault on a path that
    a processor only guesses is stopped by a barrier, not refused. `private_stack`: the types whose stack is not counted with
    their callers'. `tells_sleepers`: of tracing programs those alone may sleep that run before or after a function, or
    iterate. `hook_ranges`: LSM programs return 0 or an error. `cpu_v4`: there are the instructions of cpu v4 (loads and moves
    that extend the sign, signed division, bswap, long jumps). `enters_loops`: a loop may be entered in its middle, straight on.
    `failed_tail_calls`: packets did not move where a tail call comes back.
    """

    name: str
    deductions: int = 3
    crossing: bool = True
    sharp_add: bool = True
    sharp_mul: bool = True
    tracks_neg: bool = True
    tracks_swaps: bool = True
    sharp_bits: bool = True
    splits_low_half: bool = True
    forgets_ranges: bool = True
    linked_offsets: bool = True
    linked_differences: bool = True
    links_live: bool = True
    guesses_mended: bool = True
    overlap: bool = True
    apart: bool = True
    private_stack: bool = True
    of_unknown: bool = True
    enters_loops: bool = True
    may_goto: bool = True
    load_acquire: bool = True
    iterators: bool = True
    cpu_v4: bool = True
    nonnull_array: bool = True
    locked_calls: bool = True
    untrusted_leaves: bool = True
    kernel_functions: bool = True
    global_in_sections: bool = True
    failed_tail_calls: bool = True
    trusted_arguments: bool = True
    tells_sleepers: bool = True
    hook_ranges: bool = True

    def has(self, since: str) -> bool:
        """Whether this Linux has what there is since version `since`."""
        return _version(since) <= _version(self.name)


@cache
def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


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
        links_live=False,
        guesses_mended=False,
        private_stack=False,
        load_acquire=False,
        nonnull_array=False,
        untrusted_leaves=False,
        global_in_sections=False,
        failed_tail_calls=False,
        trusted_arguments=False,
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
        splits_low_half=False,
        forgets_ranges=False,
        linked_offsets=False,
        apart=False,
        overlap=False,
        linked_differences=False,
        links_live=False,
        guesses_mended=False,
        of_unknown=False,
        private_stack=False,
        enters_loops=False,
        may_goto=False,
        load_acquire=False,
        iterators=False,
        cpu_v4=False,
        locked_calls=False,
        nonnull_array=False,
        untrusted_leaves=False,
        global_in_sections=False,
        failed_tail_calls=False,
        trusted_arguments=False,
        kernel_functions=False,
        tells_sleepers=False,
        hook_ranges=False,
    ),
)
RULES: Final[Mapping[str, Rules]] = {row.name: row for row in _ROWS}
NEWEST: Final = _ROWS[0]
