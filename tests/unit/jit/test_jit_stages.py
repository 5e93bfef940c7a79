"""A large program runs at once, by code that is quickly made, and goes on in optimised code when that is there."""

import ctypes
import platform
import threading
from pathlib import Path

import pytest

from ebpf.engine.jit import Compiled, Slot, compile_image
from ebpf.engine.jit.stages import LARGE
from ebpf.engine.program import MapDesc, Prepared
from ebpf.isa import Insn, asm
from ebpf.uapi import MapType, PseudoSrc

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="machine code is made for x86-64 alone")

FD = 5


def large(rounds: int = LARGE // 3 + 1) -> Prepared:
    """A program that counts up a number in an array's data, and returns it."""
    start = Insn(0x18, dst=1, src=PseudoSrc.MAP_VALUE, imm=FD)
    turn = asm("r0 = *(u64 *)(r1 + 0)\nr0 += 1\n*(u64 *)(r1 + 0) = r0")
    return Prepared((start, *asm("r0 = 0"), *turn * rounds, *asm("exit")), 6, {FD: MapDesc(FD, MapType.ARRAY, 4, 8, 1)})


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def finish() -> None:
    for thread in threading.enumerate():
        if thread.name == "ebpf-jit":
            thread.join()


def run(code: Compiled, memory: ctypes.c_uint64) -> int:
    memory.value = 3
    return int(ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p)(code.entry)(None, None))


def test_it_runs_at_once_and_later_better_at_the_same_entry() -> None:
    memory = ctypes.c_uint64()
    filled: list[Slot] = []

    def fill(table: object) -> list[int]:
        filled.extend(table)
        return [ctypes.addressof(memory)] * len(table)

    code = Compiled(large(), fill)
    entry, first = code.entry, run(code, memory)
    finish()
    assert code.optimised
    assert (code.entry, run(code, memory)) == (entry, first) == (entry, 3 + LARGE // 3 + 1)
    assert filled == [Slot("data", FD)] * 2
    again = Compiled(large(), fill)
    assert again.optimised
    assert run(again, memory) == first
    for each in (code, again):
        each.close()
        each.close()


def test_the_better_code_is_what_runs() -> None:
    """Its data lies elsewhere here, and that is what the second run changes."""
    memories = [ctypes.c_uint64(), ctypes.c_uint64()]
    places = iter(memories)
    code = Compiled(large(), lambda table: [ctypes.addressof(next(places))])
    run(code, memories[0])
    finish()
    memories[0].value = 0
    run(code, memories[1])
    assert memories[0].value == 0
    assert memories[1].value > 3
    code.close()


def test_closed_before_it_was_better_it_stays_closed() -> None:
    code = Compiled(large(), lambda table: [0])
    code.close()
    finish()
    assert not code.optimised
    assert compile_image(large())[1] == (Slot("data", FD),)


def test_a_small_program_has_one_stage() -> None:
    code = Compiled(large(3), lambda table: [0])
    assert code.optimised
    code.close()
