"""Interpreter = machine code = Linux on programs made by chance: results, packets and maps. The long run is `python -m fuzz`."""

import platform
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from fuzz.agree import Engines, difference
from fuzz.engines import Outcome
from fuzz.programs import make

from ebpf.engine.interp import OPS
from ebpf.isa import OPCODES, Form
from ebpf.isa.opcodes import CALLX

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="machine code is made for x86-64 alone")

#: The seeds of each kernel's programs: on Linux all three engines run them.
SEEDS = {"user": (0, 1000), "linux": (1000, 2000)}
PART = 100


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


def test_programs_made_by_chance_have_every_instruction() -> None:
    """All but those that XDP programs cannot have, or that need what there is not yet."""
    seen = {insn.opcode for seed in range(600) for insn in make(seed).insns}
    missing = {code for code, row in OPCODES.items() if code not in seen and row.form not in (Form.PACKET, Form.PACKET_SRC)}
    assert missing == {CALLX}


def test_outcomes_are_told_apart() -> None:
    one = Outcome(1, b"a", ((b"k", b"v"),))
    assert difference({"a": one, "b": one}) == ""
    assert difference({"a": one, "b": Outcome(2, b"a", one.maps)}) == "retval"
    assert difference({"a": one, "b": Outcome(1, b"b", one.maps)}) == "packet"
    assert difference({"a": one, "b": Outcome(1, b"a", ((b"k", b"w"),))}) == "map 0"
    assert difference({"a": one, "b": Outcome(refused="no")}) == "verdict"
    assert difference({"a": Outcome(refused="no"), "b": Outcome(refused="never")}) == ""
