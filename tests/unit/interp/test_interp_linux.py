"""Every case of the interpreter gives the same in Linux's kernel, and so do programs made by chance."""

import os

import pytest
from cases import CASES, Case
from chance import programs
from hypothesis import given, settings

from ebpf.engine.interp import Machine, Memory
from ebpf.engine.program import Prepared
from ebpf.isa import Insn, asm, encode
from support import linux_bpf


def on_linux(insns: tuple[Insn, ...]) -> int:
    """All 64 bits of r0, by two runs: the program is a function, so that its r0 can be shifted afterwards."""
    answer = 0
    for shift, begin in ((0, "call pc+1\nexit\n"), (32, "call pc+2\nr0 >>= 32\nexit\n")):
        fd, log = linux_bpf.load(encode((*asm(begin), *insns)), log_level=1)
        assert fd >= 0, log
        try:
            answer |= linux_bpf.run(fd) << shift
        finally:
            os.close(fd)
    return answer


@pytest.mark.linux
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_linux_gives_the_result_of_the_case(case: Case) -> None:
    assert on_linux(asm(case.text)) == case.result


@pytest.mark.linux
@settings(max_examples=60, deadline=None)
@given(programs())
def test_arithmetic_made_by_chance_is_linuxs(program: tuple[Insn, ...]) -> None:
    assert Machine(Prepared(program, 1), Memory(), {}).run() == on_linux(program)
