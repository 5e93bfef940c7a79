"""Numbers as Linux 6.1 bounds them: it learns less, so that it walks ways that later ones know to be none."""

from dataclasses import dataclass
from typing import Final

import pytest

from ebpf.engine.program import Code
from ebpf.engine.verifier import RULES, old_bounds, verify
from ebpf.engine.verifier.num import S32_MAX, S32_MIN, U32, U64, known
from ebpf.isa import asm
from ebpf.isa.opcodes import Jmp
from ebpf.uapi import ProgType


@dataclass(frozen=True)
class Row:
    """A program whose last way is wrong, for those who do not know that it cannot be gone: do they, in 6.1 and in later ones?"""

    name: str
    text: str
    old: bool
    new: bool = True


TWO: Final = "call 7; r6 = r0; r6 &= 3; call 7; "
WRONG: Final = "r0 = 0; exit; r10 = 0; exit"
ROWS: Final = [
    Row("ranges that do not meet are not equal", TWO + "r0 |= 8; r0 &= 15; if r0 == r6 goto +2; " + WRONG, old=False),
    Row("a constant out of the range is not equal", TWO + "if r6 == 9 goto +2; " + WRONG, old=False),
    Row("a constant beyond the range is more", TWO + "if r6 > 9 goto +2; " + WRONG, old=True),
    Row("less than a number of a range", "call 7; r6 = r0; call 7; r6 &= 3; if r0 > r6 goto +1; if r0 > 3 goto +2; " + WRONG, old=False),
    Row("less than a constant", "call 7; r6 = 3; if r0 > r6 goto +1; if r0 > 3 goto +2; " + WRONG, old=True),
    Row("products of two ranges", TWO + "r0 &= 3; r0 *= r6; if r0 > 9 goto +2; " + WRONG, old=False),
    Row("products with a constant", TWO + "r6 *= 3; if r6 > 9 goto +2; " + WRONG, old=True),
    Row("what equals a number of a range", "call 7; r6 = r0; call 7; r6 &= 3; if r0 != r6 goto +1; if r0 > 3 goto +2; " + WRONG, old=True),
]


@pytest.mark.parametrize("release", RULES)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name.replace(" ", "-"))
def test_what_6_1_does_not_know_it_walks(row: Row, release: str) -> None:
    verdict = verify(Code(asm(row.text.replace("; ", "\n")), int(ProgType.SOCKET_FILTER)), rules=RULES[release])
    assert verdict.accepted == (row.old if release == "6.1" else row.new), verdict.log
    assert verdict.accepted or "frame pointer" in verdict.says


def test_a_comparison_of_all_bits_bounds_the_low_half_anew() -> None:
    number = old_bounds.settled(0, U64, S32_MIN, 1 << 40, 0, U64, 5, 9, 5, 9)
    learnt = old_bounds.learnt(int(Jmp.JLT), number, 1 << 41, wide=True)
    assert (learnt.umin32, learnt.smax32) == (0, 15)
    assert old_bounds.learnt(int(Jmp.JLT), number, 8, wide=True).umax32 == 7


def test_bounds_that_contradict_each_other_stay() -> None:
    number = old_bounds.learnt(int(Jmp.JGT), old_bounds.settled(0, 7, 0, 7, 0, 7, 0, 7, 0, 7), 100, wide=True)
    assert (number.umin, number.umax) != (0, U64)
    assert old_bounds.contradicts(number, wide=True)
    assert not old_bounds.contradicts(known(3), wide=True)
    assert not old_bounds.contradicts(old_bounds.settled(0, U32, 0, U32, 0, U32, S32_MIN, S32_MAX, 0, U32), wide=False)
