"""Each instruction, by both engines, is what RFC 9669 says of it in whole numbers: the definitions here are written apart from theirs."""

import ctypes
import platform
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebpf.engine.interp import Machine, Memory
from ebpf.engine.jit import compile_image, load_image
from ebpf.engine.program import Prepared
from ebpf.engine.runtime.abi import Env
from ebpf.isa import OPCODES, Form, Insn, disasm_one
from ebpf.isa.opcodes import BYTES, EXIT, LD_IMM64, MAY_GOTO, Alu, Atomic, Class, Jmp, Mode, Size
from ebpf.uapi import ProgType

EDGES = [0, 1, 2, 3, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 32, (1 << 63) - 1]
EDGES += [1 << 63, (1 << 63) + 1, (1 << 64) - 2, (1 << 64) - 1, 0xFFFFFFFF80000000, 0xFFFFFFFF7FFFFFFF, 31, 32, 33, 63, 64, 65]
NUMBERS = st.sampled_from(EDGES) | st.integers(0, (1 << 64) - 1)
IMMS = (0, 1, -1, 2, 7, 31, 32, 63, 64, 0x7F, -128, 0x8000, 0x7FFFFFFF, -0x80000000, -0x7FFFFFFF, 0x12345678)
FULL = (1 << 64) - 1


def signed(value: int, bits: int) -> int:
    value %= 1 << bits
    return value - (1 << bits) if value >> (bits - 1) else value


def quotient(a: int, b: int) -> int:
    """Towards zero."""
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


#: By operation and offset: what the result is of two numbers below 2**bits, before it is cut to `bits`.
ARITHMETIC: dict[tuple[int, int], Callable[[int, int, int], int]] = {
    (Alu.ADD, 0): lambda a, b, bits: a + b,
    (Alu.SUB, 0): lambda a, b, bits: a - b,
    (Alu.MUL, 0): lambda a, b, bits: a * b,
    (Alu.DIV, 0): lambda a, b, bits: a // b if b else 0,
    (Alu.DIV, 1): lambda a, b, bits: quotient(signed(a, bits), signed(b, bits)) if b else 0,
    (Alu.MOD, 0): lambda a, b, bits: a % b if b else a,
    (Alu.MOD, 1): lambda a, b, bits: signed(a, bits) - signed(b, bits) * quotient(signed(a, bits), signed(b, bits)) if b else a,
    (Alu.OR, 0): lambda a, b, bits: a | b,
    (Alu.AND, 0): lambda a, b, bits: a & b,
    (Alu.XOR, 0): lambda a, b, bits: a ^ b,
    (Alu.LSH, 0): lambda a, b, bits: a << b % bits,
    (Alu.RSH, 0): lambda a, b, bits: a >> b % bits,
    (Alu.ARSH, 0): lambda a, b, bits: signed(a, bits) >> b % bits,
    (Alu.MOV, 0): lambda a, b, bits: b,
    (Alu.MOV, 8): lambda a, b, bits: signed(b, 8),
    (Alu.MOV, 16): lambda a, b, bits: signed(b, 16),
    (Alu.MOV, 32): lambda a, b, bits: signed(b, 32),
}
CONDITIONS: dict[int, Callable[[int, int, int], bool]] = {
    Jmp.JEQ: lambda a, b, bits: a == b,
    Jmp.JNE: lambda a, b, bits: a != b,
    Jmp.JSET: lambda a, b, bits: a & b != 0,
    Jmp.JGT: lambda a, b, bits: a > b,
    Jmp.JGE: lambda a, b, bits: a >= b,
    Jmp.JLT: lambda a, b, bits: a < b,
    Jmp.JLE: lambda a, b, bits: a <= b,
    Jmp.JSGT: lambda a, b, bits: signed(a, bits) > signed(b, bits),
    Jmp.JSGE: lambda a, b, bits: signed(a, bits) >= signed(b, bits),
    Jmp.JSLT: lambda a, b, bits: signed(a, bits) < signed(b, bits),
    Jmp.JSLE: lambda a, b, bits: signed(a, bits) <= signed(b, bits),
}
CHANGES: dict[int, Callable[[int, int], int]] = {
    Atomic.ADD: lambda old, b: old + b,
    Atomic.OR: lambda old, b: old | b,
    Atomic.AND: lambda old, b: old & b,
    Atomic.XOR: lambda old, b: old ^ b,
}


@dataclass(frozen=True)
class Probe:
    """An instruction, and what must be then in r2, r3, r0 and the word at r6 + WORD: a function of what was there."""

    insn: Insn
    expected: Callable[[int, int, int, int], tuple[int, int, int, int]]


#: The memory at r6: a, b, c and d, the word that instructions work on, and the results of all probes.
A, B, C, D, WORD, RESULTS = 0, 8, 16, 24, 32, 40
_LOAD, _STORE = Class.LDX | Mode.MEM | Size.DW, Class.STX | Mode.MEM | Size.DW


def code(probes: Sequence[Probe]) -> tuple[Insn, ...]:
    """A program that carries each out on r2 = a, r3 = b, r0 = c and the word d."""
    out = [Insn(0xBF, 6, 1)]
    for number, probe in enumerate(probes):
        out += [Insn(_LOAD, 4, 6, D), Insn(_STORE, 6, 4, WORD), Insn(_LOAD, 2, 6, A), Insn(_LOAD, 3, 6, B), Insn(_LOAD, 0, 6, C)]
        out += [probe.insn]
        if OPCODES[probe.insn.opcode].form in (Form.BRANCH, Form.BRANCH_IMM):
            out += [Insn(0xB7, 2, imm=0), Insn(0x05, off=1), Insn(0xB7, 2, imm=1)]
        at = RESULTS + 32 * number
        out += [Insn(_LOAD, 4, 6, WORD), *(Insn(_STORE, 6, reg, at + 8 * place) for place, reg in enumerate((2, 3, 0, 4)))]
    return (*out, Insn(0xB7, 0), Insn(EXIT))


def arithmetic() -> Iterator[Probe]:
    for opcode, row in OPCODES.items():
        op, bits = opcode & 0xF0, row.bits
        if row.form is Form.DST_SRC:
            for (kind, off), what in ARITHMETIC.items():
                if kind == op and (off != 32 or bits == 64):
                    yield Probe(Insn(opcode, 2, 3, off), with_result(what, bits, lambda a, b: b))
        elif row.form is Form.DST_IMM:
            for (kind, off), what in ARITHMETIC.items():
                for imm in IMMS:
                    if kind == op and off < 8:
                        yield Probe(Insn(opcode, 2, off=off, imm=imm), with_result(what, bits, lambda a, b, imm=imm: imm))
        elif row.form is Form.DST:
            yield Probe(Insn(opcode, 2), with_result(lambda a, b, bits: -a, bits, lambda a, b: b))
        elif row.form is Form.SWAP:
            for width in (16, 32, 64):
                swapped = "little" if row.mnemonic == "le" else "big"
                yield Probe(Insn(opcode, 2, imm=width), with_result(in_order(width, swapped), 64, lambda a, b: b))
    for imm in IMMS:
        yield Probe(Insn(LD_IMM64, 2, imm=imm, imm_hi=~imm), lambda a, b, c, d, imm=imm: (imm % (1 << 32) | (~imm << 32) & FULL, b, c, d))


def in_order(width: int, order: str) -> Callable[[int, int, int], int]:
    return lambda a, b, bits: int.from_bytes((a % (1 << width)).to_bytes(width // 8, "little"), order)  # type: ignore[arg-type]


def with_result(
    what: Callable[[int, int, int], int], bits: int, second: Callable[[int, int], int]
) -> Callable[..., tuple[int, int, int, int]]:
    def expected(a: int, b: int, c: int, d: int) -> tuple[int, int, int, int]:
        return what(a % (1 << bits), second(a, b) % (1 << bits), bits) % (1 << bits), b, c, d

    return expected


def jumps() -> Iterator[Probe]:
    for opcode, row in OPCODES.items():
        what = CONDITIONS.get(opcode & 0xF0)
        if row.form is Form.BRANCH:
            assert what is not None
            yield Probe(Insn(opcode, 2, 3, 2), with_answer(what, row.bits, None))
        elif row.form is Form.BRANCH_IMM:
            assert what is not None
            for imm in IMMS[::2]:
                yield Probe(Insn(opcode, 2, off=2, imm=imm), with_answer(what, row.bits, imm))


def with_answer(what: Callable[[int, int, int], bool], bits: int, imm: int | None) -> Callable[..., tuple[int, int, int, int]]:
    def expected(a: int, b: int, c: int, d: int) -> tuple[int, int, int, int]:
        second = b if imm is None else imm
        return int(what(a % (1 << bits), second % (1 << bits), bits)), b, c, d

    return expected


def atomics() -> Iterator[Probe]:
    for size, width in BYTES.items():
        opcode, bits = Class.STX | Mode.ATOMIC | size, 8 * width
        yield Probe(Insn(opcode, 2, 6, WORD, Atomic.LOAD_ACQ), lambda a, b, c, d, bits=bits: (d % (1 << bits), b, c, d))
        yield Probe(Insn(opcode, 6, 3, WORD, Atomic.STORE_REL), lambda a, b, c, d, bits=bits: (a, b, c, put(d, b, bits)))
        if width < 4:
            continue
        for kind, what in CHANGES.items():
            yield Probe(Insn(opcode, 6, 3, WORD, kind), lambda a, b, c, d, what=what, bits=bits: (a, b, c, put(d, what(d, b), bits)))
            fetch = Insn(opcode, 6, 3, WORD, kind | 1)
            yield Probe(fetch, lambda a, b, c, d, what=what, bits=bits: (a, d % (1 << bits), c, put(d, what(d, b), bits)))
        yield Probe(Insn(opcode, 6, 3, WORD, Atomic.XCHG), lambda a, b, c, d, bits=bits: (a, d % (1 << bits), c, put(d, b, bits)))

        def compared(a: int, b: int, c: int, d: int, bits: int = bits) -> tuple[int, int, int, int]:
            same = c % (1 << bits) == d % (1 << bits)
            return a, b, d % (1 << bits), put(d, b, bits) if same else d

        yield Probe(Insn(opcode, 6, 3, WORD, Atomic.CMPXCHG), compared)


def put(word: int, value: int, bits: int) -> int:
    """A word whose low `bits` are those of another number."""
    return word - word % (1 << bits) + value % (1 << bits)


def memory() -> Iterator[Probe]:
    for size, width in BYTES.items():
        bits = 8 * width
        for at in range(9 - width):
            yield Probe(
                Insn(Class.LDX | Mode.MEM | size, 2, 6, WORD + at),
                lambda a, b, c, d, at=at, bits=bits: ((d >> 8 * at) % (1 << bits), b, c, d),
            )
            if width < 8:
                sign = Insn(Class.LDX | Mode.MEMSX | size, 2, 6, WORD + at)
                yield Probe(sign, lambda a, b, c, d, at=at, bits=bits: (signed(d >> 8 * at, bits) % (1 << 64), b, c, d))
            yield Probe(
                Insn(Class.STX | Mode.MEM | size, 6, 3, WORD + at), lambda a, b, c, d, at=at, bits=bits: (a, b, c, moved(d, b, at, bits))
            )
            for imm in IMMS[:4]:
                store = Insn(Class.ST | Mode.MEM | size, 6, 0, WORD + at, imm)
                yield Probe(store, lambda a, b, c, d, at=at, bits=bits, imm=imm: (a, b, c, moved(d, imm, at, bits)))


def moved(word: int, value: int, at: int, bits: int) -> int:
    """A word with a number of so many bits put at a byte of it."""
    mask = ((1 << bits) - 1) << 8 * at
    return word & ~mask | (value << 8 * at) & mask


GROUPS = {"arithmetic": [*arithmetic()], "jumps": [*jumps()], "atomics": [*atomics()], "memory": [*memory()]}
ENGINES = ["interp"] + (["jit"] if platform.machine() == "x86_64" else [])
#: As many as offsets reach.
_PART = (0x7FFF - RESULTS) // 32 - 1

Runner = Callable[["ctypes.Array[ctypes.c_ubyte]"], None]


def runner(engine: str, insns: tuple[Insn, ...]) -> Runner:
    prepared = Prepared(insns, int(ProgType.UNSPEC), name="each")
    if engine == "interp":

        def interpret(buffer: "ctypes.Array[ctypes.c_ubyte]") -> None:
            space = Memory()
            space.add(ctypes.addressof(buffer), len(buffer), writable=True, name="memory", keep=buffer)
            Machine(prepared, space, {}).run(ctypes.addressof(buffer))

        return interpret
    image, _ = compile_image(prepared)
    loaded, env = load_image(image, ()), Env()
    entry = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p)(loaded.entry)

    def run(buffer: "ctypes.Array[ctypes.c_ubyte]") -> None:
        assert loaded.entry
        entry(ctypes.addressof(buffer), ctypes.addressof(env))

    return run


def differing(run: Runner, probes: Sequence[Probe], values: tuple[int, int, int, int]) -> dict[str, tuple[object, ...]]:
    """Each instruction that gave something else, with what it gave and what it should have."""
    buffer = (ctypes.c_ubyte * (RESULTS + 32 * len(probes)))()
    struct.pack_into("<4Q", buffer, 0, *values)
    run(buffer)
    out: dict[str, tuple[object, ...]] = {}
    for number, probe in enumerate(probes):
        got, want = struct.unpack_from("<4Q", buffer, RESULTS + 32 * number), probe.expected(*values)
        if got != want:
            out[disasm_one(probe.insn)] = got, want
    return out


RUNNERS: dict[tuple[str, str], list[tuple[Runner, Sequence[Probe]]]] = {}


def runners(engine: str, group: str) -> list[tuple[Runner, Sequence[Probe]]]:
    """Made once: each value goes through all instructions of a group."""
    if (engine, group) not in RUNNERS:
        parts = [GROUPS[group][at : at + _PART] for at in range(0, len(GROUPS[group]), _PART)]
        RUNNERS[engine, group] = [(runner(engine, code(part)), part) for part in parts]
    return RUNNERS[engine, group]


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=60, deadline=None)
@given(values=st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS))
def test_each_instruction_is_what_the_standard_says(engine: str, group: str, values: tuple[int, int, int, int]) -> None:
    for run, probes in runners(engine, group):
        assert differing(run, probes, values) == {}


@pytest.mark.skipif("jit" not in ENGINES, reason="machine code is made for x86-64 alone")
@pytest.mark.parametrize("group", GROUPS)
def test_machine_code_is_right_for_every_pair_of_edges(group: str) -> None:
    for a in EDGES:
        for b in EDGES:
            for run, probes in runners("jit", group):
                assert differing(run, probes, (a, b, b, a ^ (b << 1) & FULL)) == {}


def test_every_instruction_that_works_on_numbers_is_there() -> None:
    """All but those that leave the straight line, and loads of packets."""
    there = {probe.insn.opcode for probes in GROUPS.values() for probe in probes}
    left = {OPCODES[opcode].form for opcode in set(OPCODES) - there}
    assert left == {Form.PACKET, Form.PACKET_SRC, Form.JUMP, Form.JUMP_WIDE, Form.CALL, Form.CALL_REG, Form.EXIT}
    assert MAY_GOTO not in there
    kinds = {probe.insn.imm for probe in GROUPS["atomics"]}
    assert kinds == set(Atomic)


def test_a_wrong_instruction_is_found() -> None:
    probe = Probe(Insn(0x0F, 2, 3), with_result(ARITHMETIC[Alu.SUB, 0], 64, lambda a, b: b))
    assert differing(runner("interp", code([probe])), [probe], (5, 1, 0, 0)) == {"(0f) r2 += r3": ((6, 1, 0, 0), (4, 1, 0, 0))}
