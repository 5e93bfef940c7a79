"""What differs between the versions of Linux whose verdict can be asked for: one row each."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final


@dataclass(frozen=True, slots=True)
class Rules:
    """A version's rules, those of the newest by default: some only say that it knows more."""

    name: str
    #: Numbers are bounded as by old_bounds.py.
    old_bounds: bool = False
    #: Of the stack less is known: what is read in another size than it was written, and what helpers read.
    old_stack: bool = False
    #: States are compared function by function: what is one thing in one may be two in another.
    forgets_ids: bool = False
    #: Sums that overflow at both ends keep their bounds.
    sharp_add: bool = True
    #: Products of signed bounds.
    sharp_mul: bool = True
    #: What negation gives is known.
    tracks_neg: bool = True
    #: What swapping bytes gives is known.
    tracks_swaps: bool = True
    #: Bits and bounds that leave one number make it known.
    sharp_bits: bool = True
    #: A number that is 0 or -1 is walked as both before & and |.
    splits: bool = True
    #: Where none of some bits is set, bits alone are kept.
    forgets_ranges: bool = True
    #: Numbers that differ by a constant are learnt of together.
    linked_offsets: bool = True
    #: Numbers may differ by subtraction, in 32 bits, and by what is negative, too.
    linked_differences: bool = True
    #: Of numbers that are not read any more nothing is learnt.
    links_live: bool = True
    #: What is learnt of a number that differs from those it is linked to does not make them count as such.
    links_apart: bool = True
    #: What of the stack is still read is found of all paths together.
    live_stack: bool = True
    #: Loops are told by the strongly connected parts of the program.
    loop_parts: bool = True
    #: After so many noted instructions a state is remembered.
    longest_history: int = 40
    #: A fault on a path that a processor only guesses is stopped by a barrier, not refused.
    guesses_mended: bool = True
    #: Bits that differ tell that numbers are not equal.
    overlap: bool = True
    #: The types whose stack is not counted with their callers'.
    private_stack: bool = True
    #: The stacks of functions that call each other take what they need, in 16 bytes; otherwise 32 bytes at least.
    packs_stacks: bool = True
    #: Pointers to kernel objects are known to be trusted, or not.
    trust: bool = True
    #: A pointer that equals one that is not null is not null.
    equal_pointers: bool = True
    #: One call may go through the elements of different maps.
    any_map: bool = True
    #: Tags on arguments of global functions count.
    argument_tags: bool = True
    #: The number of the CPU is below how many there are.
    bounds_cpu: bool = True
    #: The kernel is locked down: it denies some helpers.
    locked_down: bool = True
    #: A loop may be entered in its middle, straight on.
    enters_loops: bool = True
    may_goto: bool = True
    #: It may lead to the next instruction.
    may_goto_nowhere: bool = True
    load_acquire: bool = True
    iterators: bool = True
    #: There are the instructions of cpu v4 (loads and moves that extend the sign, signed division, bswap, long jumps).
    cpu_v4: bool = True
    #: An array has a value under every key in its range.
    nonnull_array: bool = True
    #: Static functions may be called while a lock is held.
    locked_calls: bool = True
    #: A pointer to a number, read from a kernel object, is memory that may be probed.
    untrusted_leaves: bool = True
    #: Programs call functions of the kernel.
    kernel_functions: bool = True
    #: Global functions may be called with preemption off.
    global_in_sections: bool = True
    #: Packets did not move where a tail call comes back.
    failed_tail_calls: bool = True
    #: Timers must not sleep, even those of programs that may.
    timers_stay_awake: bool = True
    #: Functions of the kernel take trusted pointers alone.
    trusted_arguments: bool = True
    #: Of tracing programs those alone may sleep that run before or after a function, or iterate.
    tells_sleepers: bool = True
    #: LSM programs return 0 or an error.
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
        sharp_add=False,
        sharp_mul=False,
        tracks_neg=False,
        tracks_swaps=False,
        sharp_bits=False,
        forgets_ranges=False,
        linked_differences=False,
        links_live=False,
        links_apart=False,
        live_stack=False,
        loop_parts=False,
        guesses_mended=False,
        private_stack=False,
        locked_down=False,
        may_goto_nowhere=False,
        load_acquire=False,
        nonnull_array=False,
        untrusted_leaves=False,
        global_in_sections=False,
        failed_tail_calls=False,
        timers_stay_awake=False,
        trusted_arguments=False,
    ),
    Rules(
        "6.1",
        old_bounds=True,
        old_stack=True,
        forgets_ids=True,
        sharp_add=False,
        sharp_mul=False,
        tracks_neg=False,
        tracks_swaps=False,
        sharp_bits=False,
        splits=False,
        forgets_ranges=False,
        linked_offsets=False,
        overlap=False,
        linked_differences=False,
        links_live=False,
        links_apart=False,
        live_stack=False,
        loop_parts=False,
        longest_history=1 << 30,
        guesses_mended=False,
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
        timers_stay_awake=False,
        trusted_arguments=False,
        kernel_functions=False,
        tells_sleepers=False,
        hook_ranges=False,
        argument_tags=False,
        any_map=False,
        bounds_cpu=False,
        locked_down=False,
        packs_stacks=False,
        trust=False,
        equal_pointers=False,
    ),
)
RULES: Final[Mapping[str, Rules]] = {row.name: row for row in _ROWS}
NEWEST: Final = _ROWS[0]
