"""Loops in checked machine code: their accesses are tested beforehand, and all that happens is as if each were tested in its round."""

import ctypes
import platform
import random

import pytest

from ebpf.engine.interp import Machine, Memory
from ebpf.engine.interp.machine import InterpreterFault
from ebpf.engine.jit import Fault, compile_checked
from ebpf.engine.jit.loops import Access, Linear, Rounds, find_loops
from ebpf.engine.program import Prepared
from ebpf.isa import asm, by_slot

needs_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="machine code is made for x86-64 alone")
#: r1 is the memory, r2 its size. Each is entered with r3 = the first place, and goes on by `step` until it is at `last`.
SHAPES = {
    "copies": """
        r4 = r1
        r4 += r3
        r5 = *(u{bits} *)(r4 + 0)
        *(u{bits} *)(r4 + {off}) = r5
        r0 += r5
        r3 += {step}
        if r3 != {last} goto -7
        exit
    """,
    "walks a pointer": """
        r1 += r3
        r6 = r1
        r6 += {last}
        r4 = *(u{bits} *)(r1 + {off})
        r0 ^= r4
        r1 += {step}
        if r1 != r6 goto -4
        exit
    """,
    "tests before": """
        if r3 s> {last} goto +6
        r4 = r1
        r4 += r3
        r5 = *(u{bits} *)(r4 + {off})
        r0 += r5
        r3 += {step}
        goto -7
        exit
    """,
    "leaves early": """
        r4 = r1
        r4 += r3
        r5 = *(u{bits} *)(r4 + 0)
        if r5 == {off} goto +4
        r3 += {step}
        if r3 == {last} goto +2
        r0 += r5
        goto -8
        r0 += r3
        exit
    """,
    "takes one of two ways": """
        r4 = r3
        r4 <<= 1
        r4 += r1
        r5 = *(u8 *)(r4 + 0)
        if r5 > 100 goto +2
        *(u{bits} *)(r4 + {off}) = r3
        goto +1
        r0 += r5
        r3 += {step}
        if r3 != {last} goto -10
        exit
    """,
    "on the stack": """
        r4 = r10
        r4 += -64
        r4 += r3
        *(u{bits} *)(r4 + {off}) = r3
        r5 = *(u{bits} *)(r10 - 64)
        r0 += r5
        r3 += {step}
        if r3 != {last} goto -8
        exit
    """,
    "entered in the middle": """
        goto +2
        r3 += {step}
        if r3 == {last} goto +5
        r4 = r1
        r4 += r3
        *(u{bits} *)(r4 + {off}) = r0
        r0 += 3
        goto -7
        exit
    """,
    "two after each other": """
        r4 = r1
        r4 += r3
        r5 = *(u8 *)(r4 + 0)
        r0 += r5
        r3 += 1
        if r3 != 20 goto -6
        r4 = r1
        r4 += r3
        *(u{bits} *)(r4 + {off}) = r0
        r3 += {step}
        if r3 != {last} goto -5
        exit
    """,
}


def program(shape: str, **values: int) -> Prepared:
    return Prepared(tuple(asm(f"r0 = 0\nr3 = {values['first']}\n" + SHAPES[shape].format(**values))), 0, name=shape)


def made(seed: int) -> tuple[Prepared, bytes]:
    """A loop that may be wholly inside, leave the memory in some round, or never have been in it."""
    chance = random.Random(seed)
    step = chance.choice([1, 1, 2, 4, 8, 3, -1, -4])
    rounds = chance.choice([1, 2, 5, 16, 30])
    first = chance.choice([0, 0, 1, 40, 60, -3]) if step > 0 else chance.choice([60, 40, 8])
    last = first + step * rounds + chance.choice([0] * 6 + [1])
    values = {"first": first, "step": step, "last": last, "bits": chance.choice([8, 16, 32, 64]), "off": chance.choice([0, 0, 7, 64, 130])}
    return program(chance.choice(list(SHAPES)), **values), chance.randbytes(chance.choice([64, 64, 65, 128, 200, 1]))


Outcome = tuple[int, int, bytes]


def interpreted(prepared: Prepared, data: bytes) -> Outcome:
    """What a run gives: r0, or 2^64 and more: the instruction that it ended at; and the memory."""
    regions, buffer = Memory(), words(data)
    regions.add(ctypes.addressof(buffer), len(data), writable=True, name="memory", keep=buffer)
    machine = Machine(prepared, regions, {}, limit=4000)
    machine.start(ctypes.addressof(buffer))
    machine.registers[2] = len(data)
    try:
        while machine.step():
            pass
    except InterpreterFault as fault:
        return 1, -1 if "did not end" in fault.why else fault.slot, buffer.raw
    return 0, machine.registers[0], buffer.raw


def checked(prepared: Prepared, data: bytes, limit: int = 4000) -> Outcome:
    code, buffer = compile_checked(prepared, {}), words(data)
    try:
        return 0, code.run(buffer, len(data), limit=limit), buffer.raw
    except Fault as fault:
        return 1, -1 if "did not end" in fault.why else fault.slot, buffer.raw
    finally:
        code.close()


def words(data: bytes) -> "ctypes.Array[ctypes.c_char]":
    """Memory at an address that suits the widest access."""
    buffer = (ctypes.c_char * len(data)).from_buffer((ctypes.c_uint64 * ((len(data) + 7) // 8))())
    buffer.raw = data
    return buffer


@needs_x86
@pytest.mark.parametrize("part", range(4))
def test_a_loop_ends_as_in_the_interpreter(part: int) -> None:
    outcomes = set()
    for seed in range(part * 20, part * 20 + 20):
        prepared, data = made(seed)
        ours, theirs = checked(prepared, data), interpreted(prepared, data)
        if theirs[:2] == (1, -1):
            # They count otherwise: the interpreter instructions, checked code jumps.
            assert ours[0] == 1, seed
        else:
            assert ours == theirs, (seed, prepared.name)
        outcomes.add(theirs[0])
    assert outcomes == {0, 1}


@needs_x86
@pytest.mark.parametrize("limit", [0, 1, 7, 1000])
def test_the_budget_ends_a_loop_in_the_same_round(limit: int) -> None:
    text = "r3 = *(u64 *)(r1 + 8)\nr3 += 1\n*(u64 *)(r1 + 8) = r3\nif r3 != {last} goto -4\nexit"
    for last in (0, 1 << 30):
        prepared = Prepared(tuple(asm("r0 = 0\nr4 = 0\n" + text.format(last=last))), 0, name="endless")
        failed, slot, memory = checked(prepared, bytes(16), limit)
        assert (failed, slot, int.from_bytes(memory[8:], "little")) == (1, -1, limit + 1)


@needs_x86
def test_the_budget_of_a_loop_whose_rounds_are_known_is_spent() -> None:
    # Each jump that may go back counts, whether it does or not.
    loop = "r4 = r1\nr4 += r3\n*(u8 *)(r4 + 0) = 1\nr3 += 1\nif r3 != 64 goto -5\n"
    prepared = Prepared(tuple(asm(f"r0 = 0\nr3 = 0\n{loop}r3 = 0\n{loop}exit")), 0, name="twice")
    assert checked(prepared, bytes(64), limit=128)[:2] == (0, 0)
    assert checked(prepared, bytes(64), limit=127)[:2] == (1, -1)


def loops(shape: str, **values: int):
    insns = by_slot(tuple(asm(SHAPES[shape].format(**{"bits": 8, "step": 2, "last": 64, "off": 3, **values}))))
    leaders = {0}
    for slot, insn in enumerate(insns):
        if insn is not None and insn.opcode & 7 in (5, 6):
            leaders |= {slot + 1} | ({slot + 1 + insn.off} if insn.opcode != 0x95 else set())
    return find_loops(insns, {place for place in leaders if place < len(insns)}, len(insns))


def test_how_a_loop_moves() -> None:
    (loop,) = loops("copies")
    place = Linear(0, ((1, 1), (3, 1)))
    assert loop.head == 0
    assert loop.accesses == (Access(place, 2, 1), Access(place.plus(Linear(3)), 2, 1))
    assert loop.rounds == Rounds(Linear(2, ((3, 1),)), 2, Linear(64))
    assert loop.backwards == 1


@pytest.mark.parametrize(
    ("shape", "head", "stride", "known"),
    [
        ("walks a pointer", 3, 2, True),
        ("tests before", 0, 2, False),
        ("leaves early", 0, 2, False),
        ("takes one of two ways", 0, 4, True),
        ("on the stack", 0, 2, True),
        ("entered in the middle", 3, 2, True),
    ],
)
def test_what_is_known_of_a_loop(shape: str, head: int, stride: int, known: bool) -> None:
    (loop,) = loops(shape)
    assert (loop.head, loop.accesses[0].stride, loop.rounds is not None) == (head, stride, known)


@pytest.mark.parametrize(
    "text",
    [
        "r3 = *(u64 *)(r1 + 0)\nr1 += r3\nif r3 != 0 goto -3\nexit",
        "r3 = *(u64 *)(r1 + 0)\nr1 = r3\nif r3 != 0 goto -3\nexit",
        "r3 = *(u64 *)(r1 + 0)\ncall 5\nif r3 != 0 goto -3\nexit",
        "if r3 > 5 goto +1\nr1 += 8\nr3 = *(u64 *)(r1 + 0)\nif r3 != 0 goto -4\nexit",
    ],
    ids=["by what it reads", "a list", "a call", "not in every round"],
)
def test_a_loop_that_moves_unevenly_is_left_alone(text: str) -> None:
    SHAPES["other"] = text
    try:
        assert loops("other") == []
    finally:
        del SHAPES["other"]
