"""What the verifier says of registers is so: accepted programs made by chance, run step by step. The long run is `python -m fuzz --states`."""

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3]))
from fuzz.programs import make_alone
from fuzz.soundness import Watched, contains

from ebpf.engine.interp import OPS
from ebpf.engine.verifier import callbacks
from ebpf.engine.verifier.num import UNKNOWN, known
from ebpf.engine.verifier.reg import SCALAR, Reg
from ebpf.kernels.user.kernel import UserKernel

PROGRAMS, PART = 400, 100
SKIPPED = "skipped"


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[UserKernel]:
    monkeypatch.setenv("EBPF_ENGINE", "interp")
    with UserKernel() as opened:
        yield opened


def watched(kernel: UserKernel, seed: int) -> str:
    program = Watched(kernel, make_alone(seed))
    try:
        if program.skipped:
            return SKIPPED
        return next(filter(None, (program.run(random.Random(f"{seed} {run}")) for run in range(2))), "")
    finally:
        program.close()


@pytest.mark.parametrize("part", range(PROGRAMS // PART))
def test_registers_and_stack_lie_in_the_verifiers_states(kernel: UserKernel, part: int) -> None:
    answers = {seed: watched(kernel, seed) for seed in range(part * PART, (part + 1) * PART)}
    assert {seed: wrong for seed, wrong in answers.items() if wrong not in ("", SKIPPED)} == {}
    # Of a few programs the paths are too many.
    assert list(answers.values()).count(SKIPPED) <= PART // 50


def test_a_register_outside_is_found(kernel: UserKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask that does not mask, in the interpreter alone."""
    monkeypatch.setitem(OPS, 0x57, OPS[0xB7])
    assert any("is not" in watched(kernel, seed) for seed in range(20))


def test_a_callback_whose_argument_is_said_to_be_what_it_is_not_is_found(kernel: UserKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index of a round as a number that is always 0, in the verifier alone: what is wrong is seen inside of the callback."""
    monkeypatch.setattr(callbacks, "ANY", Reg(SCALAR, known(0)))
    assert any("is not 0" in watched(kernel, seed) for seed in range(60))


@pytest.mark.parametrize(("number", "value", "inside"), [(known(5), 5, True), (known(5), 6, False), (UNKNOWN, 1 << 63, True)])
def test_numbers_that_a_num_stands_for(number: object, value: int, inside: bool) -> None:
    assert contains(number, value) is inside
