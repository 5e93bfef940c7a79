"""The JIT's machine code gives what the interpreter gives, on every case and on programs made by chance."""

import ctypes
import platform

import pytest
from cases import CASES, Case
from chance import programs
from hypothesis import given, settings

from ebpf.engine.interp import Machine, Memory
from ebpf.engine.jit import compile_image, load_image
from ebpf.engine.program import Prepared
from ebpf.engine.runtime.abi import Env
from ebpf.isa import Insn, asm

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="machine code is made for x86-64 alone")


def compiled(insns: tuple[Insn, ...], *, stop: int = 0) -> int:
    image, table = compile_image(Prepared(insns, 1), cache=False)
    assert table == ()
    code = load_image(image, ())
    try:
        function = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p)(code.entry)
        env = Env(stop=stop)
        return int(function(None, ctypes.addressof(env)))
    finally:
        code.close()


def interpreted(insns: tuple[Insn, ...]) -> int:
    return Machine(Prepared(insns, 1), Memory(), {}).run()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_compiled_case_gives_its_result(case: Case) -> None:
    assert compiled(asm(case.text)) == case.result


def test_the_budget_of_may_goto_is_used_up_once_and_a_run_that_is_stopped_has_none() -> None:
    # Both loops together go round 8388608 times; were it a budget for each, or none, r0 would be more.
    text = "r0 = 0\nmay_goto +2\nr0 += 1\ngoto -3\nmay_goto +2\nr0 += 1\ngoto -3\nexit"
    assert compiled(asm(text)) == 1 << 23
    assert compiled(asm(text), stop=1) == 0


@settings(max_examples=40, deadline=None)
@given(programs())
def test_compiled_arithmetic_made_by_chance_is_the_interpreters(program: tuple[Insn, ...]) -> None:
    assert compiled(program) == interpreted(program)
