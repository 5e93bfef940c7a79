"""Every case of the interpreter gives the same in Linux's kernel: all 64 bits of r0, by two runs."""

import os

import pytest
from cases import CASES, Case

from ebpf.isa import asm, encode
from support import linux_bpf


@pytest.mark.linux
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_linux_gives_the_result_of_the_case(case: Case) -> None:
    answer = 0
    # The case is a function that this calls, so that its r0 can be shifted afterwards.
    for shift, begin in ((0, "call pc+1\nexit\n"), (32, "call pc+2\nr0 >>= 32\nexit\n")):
        fd, log = linux_bpf.load(encode((*asm(begin), *asm(case.text))), log_level=1)
        assert fd >= 0, log
        try:
            answer |= linux_bpf.run(fd) << shift
        finally:
            os.close(fd)
    assert answer == case.result
