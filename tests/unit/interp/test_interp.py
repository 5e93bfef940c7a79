"""The interpreter does what RFC 9669 says, and stops at what no program may do."""

import ctypes
from collections.abc import Sequence

import pytest
from cases import CASES, Case
from hypothesis import given
from hypothesis import strategies as st

from ebpf.engine.interp import OPS, InterpreterFault, Machine, Memory
from ebpf.engine.interp.machine import MAY_GOTO_LIMIT
from ebpf.engine.program import MapDesc, Prepared
from ebpf.errors import NotSupportedError
from ebpf.isa import OPCODES, Form, Insn, asm


def machine(text: str | Sequence[Insn], memory: Memory | None = None, **options: object) -> Machine:
    insns = asm(text) if isinstance(text, str) else tuple(text)
    return Machine(Prepared(insns, 1, name="t"), memory or Memory(), {}, **options)  # type: ignore[arg-type]


def test_every_opcode_that_runs_has_a_row() -> None:
    assert set(OPS) == set(OPCODES)


def test_the_cases_use_every_row() -> None:
    used = {insn.opcode for case in CASES for insn in asm(case.text)}
    # Calls by register are in the tests of `ebpf vm`, because no kernel takes them; loads of packets in those of packets.
    assert {OPCODES[code].form for code in set(OPS) - used} == {Form.CALL_REG, Form.PACKET, Form.PACKET_SRC}


def test_case_names_are_unique() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_gives_its_result(case: Case) -> None:
    assert machine(case.text).run() == case.result


numbers = st.integers(0, (1 << 64) - 1) | st.sampled_from([0, 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1])
_CTYPES = {64: (ctypes.c_int64, ctypes.c_uint64), 32: (ctypes.c_int32, ctypes.c_uint32)}


def _reference(op: str, a: int, b: int, bits: int) -> int:
    """C's own arithmetic, by ctypes and floor division: written apart from the interpreter's."""
    s, u = _CTYPES[bits]
    ua, ub, sa, sb = u(a).value, u(b).value, s(a).value, s(b).value
    shift = b % bits
    table = {
        "+=": lambda: ua + ub,
        "-=": lambda: ua - ub,
        "*=": lambda: ua * ub,
        "/=": lambda: ua // ub if ub else 0,
        "%=": lambda: ua % ub if ub else ua,
        "s/=": lambda: (sa // sb + (sa % sb != 0 and (sa < 0) != (sb < 0))) if sb else 0,
        "s%=": lambda: sa - sb * (sa // sb + (sa % sb != 0 and (sa < 0) != (sb < 0))) if sb else sa,
        "|=": lambda: ua | ub,
        "&=": lambda: ua & ub,
        "^=": lambda: ua ^ ub,
        "<<=": lambda: ua * 2**shift,
        ">>=": lambda: ua // 2**shift,
        "s>>=": lambda: sa // 2**shift,
    }
    return int(u(table[op]()).value)


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("op", ["+=", "-=", "*=", "/=", "%=", "s/=", "s%=", "|=", "&=", "^=", "<<=", ">>=", "s>>="])
@given(a=numbers, b=numbers)
def test_arithmetic_is_that_of_c(op: str, bits: int, a: int, b: int) -> None:
    reg = "r" if bits == 64 else "w"
    m = machine(f"r0 = {a} ll\nr1 = {b} ll\n{reg}0 {op} {reg}1\nexit")
    assert m.run() == _reference(op, a, b, bits)


def test_a_program_reads_and_writes_the_memory_it_was_given() -> None:
    memory, packet = Memory(), bytearray(b"abcdefgh")
    region = memory.add_buffer(packet)
    assert machine("r0 = *(u16 *)(r1 + 2)\n*(u8 *)(r1 + 7) = 65\nexit", memory).run(region.base) == 0x6463
    assert packet == b"abcdefgA"


@pytest.mark.parametrize(
    ("text", "why", "slot"),
    [
        ("r2 = 5 ll\nr0 = *(u8 *)(r1 + 8)\nexit", "read of 1 bytes at 0x[0-9a-f]+: outside of all memory", 2),
        ("r0 = *(u32 *)(r1 + 5)\nexit", "read of 4 bytes at", 0),
        ("r0 = *(u8 *)(r1 - 1)\nexit", "outside of all memory", 0),
        ("*(u8 *)(r1 + 0) = 1\nexit", "region packet is read-only", 0),
        ("r0 = *(u8 *)(r0 + 0)\nexit", "read of 1 bytes at 0x0: outside", 0),
        ("*(u64 *)(r10 - 520) = 1\nexit", "write of 8 bytes", 0),
        ("*(u64 *)(r10 - 4) = 1\nexit", "write of 8 bytes", 0),
        ("*(u64 *)(r10 + 0) = 1\nexit", "write of 8 bytes", 0),
        ("r2 = 0\nr2 = atomic_fetch_add((u64 *)(r10 - 12), r2)\nexit", "not aligned to 8 bytes", 1),
        ("r10 = 1\nexit", "r10 cannot be written", 0),
        ("r0 = 1", "ran past its end", 1),
        ("goto +1\nr1 = 5 ll\nexit", "middle of a ld_imm64", 2),
        ("l: goto l".replace(": ", ":\n"), "did not end within 1000 instructions", 0),
        ("f:\ncall f\nexit", "deeper than 8 functions", 0),
        ("r1 = subprog[+0]\nr1 = map[id:3]\nexit", "ld_imm64 of kind 1 with 3", 2),
    ],
)
def test_a_wild_program_stops_with_a_fault(text: str, why: str, slot: int) -> None:
    memory = Memory()
    region = memory.add_buffer(bytearray(8), writable=False, name="packet")
    with pytest.raises(InterpreterFault, match=why) as caught:
        machine(text, memory, limit=1000).run(region.base)
    assert caught.value.slot == slot


@pytest.mark.parametrize(
    ("insn", "why"),
    [
        (Insn(0xFF), "opcode 0xff is not an instruction"),
        (Insn(0xC3, 10, 1, -8, 0x99), "atomic operation 0x99 is none"),
        (Insn(0xD3, 10, 1, -8, 0), "atomic operation 0x0 on 1 bytes"),
        (Insn(0xD4, 0, 0, 0, 8), "byte order of 8 bits"),
        (Insn(0xBF, 0, 0, 1), "move with offset 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.opcode:02x}",
)
def test_what_is_no_instruction_is_a_fault(insn: Insn, why: str) -> None:
    with pytest.raises(InterpreterFault, match=why):
        machine([insn, Insn(0x95)]).run()


def test_helpers_get_five_arguments_and_their_answer_is_r0() -> None:
    seen: list[tuple[int, ...]] = []

    def body(*args: int) -> int:
        seen.append(args)
        return -1

    program = Prepared(asm("r1 = 1\nr2 = 2\nr3 = 3\nr4 = 4\nr5 = 5\ncall trace_printk\nexit"), 1)
    assert Machine(program, Memory(), {6: body}).run() == (1 << 64) - 1
    assert seen == [(1, 2, 3, 4, 5)]


@pytest.mark.parametrize(("call", "what"), [("call trace_printk", "helper trace_printk"), ("call kfunc#7", "kernel functions")])
def test_calls_without_a_body_are_not_supported(call: str, what: str) -> None:
    with pytest.raises(NotSupportedError, match=what):
        machine(f"{call}\nexit").run()


def test_maps_are_their_addresses() -> None:
    maps = {4: MapDesc(4, 2, 4, 8, 1, address=0x1000)}
    program = Prepared(asm("r0 = map[id:4]\nr1 = map[id:4][0]+24\nr0 += r1\nexit"), 1, maps)
    assert Machine(program, Memory(), {}, map_value={4: 0x20000}.__getitem__).run() == 0x1000 + 0x20000 + 24


def test_a_helper_calls_back() -> None:
    """A loop helper: r1 times, the function in r2 with (index, r3)."""
    program = Prepared(asm("r1 = 3\nr2 = subprog[+6]\nr3 = 10\nr6 = 7\ncall loop\nr0 += r6\nexit\nr0 = r1\nr0 += r2\nexit"), 1)
    answers: list[int] = []

    def loop(count: int, function: int, argument: int, *_: int) -> int:
        answers.extend(m.call(function, index, argument) for index in range(count))
        return sum(answers)

    m = Machine(program, Memory(), {181: loop})
    assert m.run() == 40
    assert answers == [10, 11, 12]


def test_calling_back_what_is_no_function_is_a_fault() -> None:
    m = machine("exit")
    with pytest.raises(InterpreterFault, match="0x5 is not a function"):
        m.call(5)


def test_steps_can_be_watched() -> None:
    m = machine("r0 = 1\nr1 = 5 ll\nr0 += r1\nexit")
    trail = []
    while m.running:
        trail.append((m.pc, m.registers[0]))
        m.step()
    assert trail == [(0, 0), (1, 1), (3, 1), (4, 6)]
    assert m.steps == 4


def test_a_run_starts_over_with_a_clean_stack() -> None:
    m = machine("r0 = *(u64 *)(r10 - 8)\n*(u64 *)(r10 - 8) = 7\nexit")
    assert [m.run(), m.run()] == [0, 0]


def test_may_goto_leaves_the_loop_when_its_budget_is_used_up() -> None:
    m = machine("may_goto +1\ngoto -2\nexit", limit=1000)
    m.frames[-1].budget = 3
    steps = 0
    while m.step():
        steps += 1
    assert steps == 2 * 3 + 1
    assert MAY_GOTO_LIMIT == 8 * 1024 * 1024


def test_regions_may_nest_and_are_removed() -> None:
    memory, buffer = Memory(), bytearray(64)
    outer = memory.add_buffer(buffer)
    inner = memory.add(outer.base + 16, 8, writable=False, name="inner")
    assert memory.why_not(outer.base + 20, 8, writing=True) == ""
    memory.remove(outer)
    assert memory.why_not(outer.base + 16, 8, writing=False) == ""
    assert memory.why_not(outer.base + 20, 8, writing=False) != ""
    assert memory.why_not(outer.base + 16, 8, writing=True) == "region inner is read-only"
    assert memory.regions == (inner,)
