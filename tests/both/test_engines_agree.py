"""Interpreter = machine code = Linux on programs made by chance: results, packets and maps. The long run is `python -m fuzz`."""

import platform
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from fuzz.agree import Engines, difference
from fuzz.engines import Outcome
from fuzz.programs import make
from fuzz.shapes import MAPS

from ebpf.engine.interp import OPS
from ebpf.isa import OPCODES
from ebpf.isa.opcodes import CALL, CALLX, LD_IMM64
from ebpf.uapi import HELPERS, CallSrc, ProgType, PseudoSrc

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="machine code is made for x86-64 alone")

#: The seeds of each kernel's programs: on Linux all three engines run them.
SEEDS = {"user": (0, 750), "linux": (750, 1500)}
PART = 75


@pytest.mark.parametrize("part", range(10))
def test_programs_made_by_chance_are_the_same_in_every_engine(kernel_name: str, part: int) -> None:
    first, end = SEEDS[kernel_name]
    engines = Engines(["interp", "jit"] + (["linux"] if kernel_name == "linux" else []))
    differing = {}
    for seed in range(first + part * PART, min(first + (part + 1) * PART, end)):
        outcomes = engines.run(make(seed))
        what = difference(outcomes)
        if what or outcomes["jit"].refused:
            differing[seed] = what or outcomes["jit"].refused
    assert differing == {}


def test_an_engine_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exclusive or that is not exclusive, in the interpreter alone."""
    monkeypatch.setitem(OPS, 0xAF, OPS[0x4F])
    engines = Engines(["interp", "jit"])
    assert all(difference(engines.run(make(seed))) for seed in range(5))


def test_a_map_that_one_engine_leaves_alone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that does not store, in the interpreter alone: what differs is a map, or the result."""
    monkeypatch.setitem(OPS, 0x7A, OPS[0x62])
    engines = Engines(["interp", "jit"])
    assert {difference(engines.run(make(seed))) for seed in range(5)} - {"", "verdict"}


def test_programs_made_by_chance_have_every_instruction() -> None:
    """All but the call by register, which no kernel takes; every kind of map and of program, and callbacks."""
    made = [make(seed) for seed in range(600)]
    insns = [insn for each in made for part in (each.insns, *each.tails) for insn in part]
    assert set(OPCODES) - {insn.opcode for insn in insns} == {CALLX}
    named = {MAPS[insn.imm].type for insn in insns if insn.opcode == LD_IMM64 and insn.src in (PseudoSrc.MAP_FD, PseudoSrc.MAP_VALUE)}
    assert named == {shape.type for shape in MAPS}
    assert {each.type for each in made} == {ProgType.XDP, ProgType.SCHED_CLS, ProgType.SOCKET_FILTER}
    called = {HELPERS[insn.imm].name for insn in insns if insn.opcode == CALL and insn.src == CallSrc.HELPER}
    assert called >= {"loop", "for_each_map_elem", "tail_call", "ringbuf_submit", "xdp_adjust_head", "skb_store_bytes"}


def test_outcomes_are_told_apart() -> None:
    one = Outcome(1, b"a", ((b"k", b"v"),))
    assert difference({"a": one, "b": one}) == ""
    assert difference({"a": one, "b": Outcome(2, b"a", one.maps)}) == "retval"
    assert difference({"a": one, "b": Outcome(1, b"b", one.maps)}) == "packet"
    assert difference({"a": one, "b": Outcome(1, b"a", ((b"k", b"w"),))}) == "map 0"
    assert difference({"a": one, "b": Outcome(refused="no")}) == "verdict"
    assert difference({"a": Outcome(refused="no"), "b": Outcome(refused="never")}) == ""
