"""`ebpf vm`: raw bytecode by both engines; what a wild program does is an error that names the instruction, and nothing more."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings

sys.path.insert(0, str(Path(__file__).parents[1] / "interp"))
sys.path.insert(0, str(Path(__file__).parents[3]))
from cases import CASES, Case
from chance import programs
from fuzz.programs import make_bare, make_wild
from fuzz.shapes import Made

from ebpf.cli.vm import _ENGINES, _HELPERS, _run_unchecked, read_program
from ebpf.elf.write import Out, OutSymbol, write_elf
from ebpf.errors import EbpfError
from ebpf.isa import Insn, asm, encode

ENGINES = ["interp"] + (["jit"] if platform.machine() == "x86_64" else [])
EBPF = [sys.executable, "-m", "ebpf", "vm"]


def run(text: str, engine: str, memory: bytes = b"", limit: int = 100_000) -> tuple[int, bytes]:
    return _ENGINES[engine](read_program(encode(asm(text)), "x.bin"), memory, _HELPERS, limit)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_case_gives_its_result(engine: str) -> None:
    wrong = {case.name: got for case in CASES if (got := run(case.text, engine)[0]) != case.result}
    assert wrong == {}


CALLS = [
    Case("the address and the size of memory", "r0 = *(u8 *)(r1 + 2)\nr0 += r2\nexit", 3 + 5),
    Case("bytes that are gathered", "r1 = 1\nr2 = 2\nr3 = 3\nr4 = 4\nr5 = 0x105\ncall 0\nexit", 0x0102030405),
    Case("memory that is changed", "r2 = 3\nr6 = r1\ncall 1\nr0 = *(u8 *)(r6 + 2)\nexit", 3 ^ 42),
    Case("a root", "r1 = 1000000\ncall 3\nexit", 1000),
    Case("strings that are equal", "*(u64 *)(r10 - 8) = 0x6162\nr1 = r10\nr1 += -8\nr2 = r1\ncall 4\nexit", 0),
    Case("a call that does not unwind", "r1 = -1\ncall 5\nr0 = 2\nexit", 2),
    Case("a call that unwinds", "r1 = 0\ncall 5\nr0 = 2\nexit", 0),
    Case("unwinding out of a function", "call inner\nr0 = 7\nexit\ninner:\nr1 = 0\ncall 5\nr0 = 2\nexit", 0),
]

#: What RFC 9669 defines, though no kernel takes it.
UNTAKEN = [
    Case("a division by the number 0", "r0 = 7\nr0 /= 0\nexit", 0),
    Case("a signed division by the number 0", "r0 = -7\nw0 s/= 0\nexit", 0),
    Case("a remainder by the number 0", "r0 = -7\nr0 s%= 0\nexit", (1 << 64) - 7),
    Case("a narrow remainder by the number 0", "r0 = -7\nw0 %= 0\nexit", (1 << 32) - 7),
    Case("a shift by more than there is", "r0 = 1\nr0 <<= 65\nexit", 2),
    Case("a narrow shift by more than there is", "r0 = 1\nw0 <<= 40\nexit", 256),
    Case("a shift by less than nothing", "r0 = -1\nw0 >>= -24\nexit", 0xFFFFFF),
    Case("code that is never reached", "r0 = 1\nexit\nr0 = 0\nexit", 1),
    Case("an exit that is not last", "goto two\none:\nexit\ntwo:\nr0 = 3\ngotol one", 3),
    Case("memory at odd addresses", "*(u64 *)(r1 + 1) = -2\nr0 = *(u64 *)(r1 + 1)\nexit", (1 << 64) - 2),
]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", UNTAKEN, ids=lambda case: case.name)
def test_what_no_kernel_takes_does_what_the_standard_says(engine: str, case: Case) -> None:
    assert run(case.text, engine, bytes(9))[0] == case.result


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", CALLS, ids=lambda case: case.name)
def test_helpers_of_the_suite(engine: str, case: Case) -> None:
    assert run(case.text, engine, bytes([1, 2, 3, 4, 5]))[0] == case.result


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("place", ["dst", "src", "imm"])
def test_a_call_by_register(engine: str, place: str) -> None:
    call = {"dst": Insn(0x8D, 2), "src": Insn(0x8D, 0, 2), "imm": Insn(0x8D, imm=2)}[place]
    program = read_program(encode([*asm("r1 = -1\nr2 = 5"), call, *asm("r0 = 2\nexit")]), "x")
    assert _ENGINES[engine](program, b"", _HELPERS, 1000)[0] == 2
    to_function = [Insn(0x18, 3, 4, imm=4), Insn(0x8D, 3), *asm("r0 += 1\nexit\nr0 = 40\nexit")]
    assert _ENGINES[engine](read_program(encode(to_function), "x"), b"", _HELPERS, 1000)[0] == 41


WILD = [
    ("r1 = 0\nr0 = *(u64 *)(r1 + 0)\nexit", 1, "read of 8 bytes at 0x0"),
    ("r0 = *(u64 *)(r1 - 2)\nexit", 0, "read of 8 bytes"),
    ("r0 = *(u32 *)(r1 + 2)\nexit", 0, "read of 4 bytes"),
    ("*(u64 *)(r10 - 520) = 1\nexit", 0, "write of 8 bytes"),
    ("*(u8 *)(r10 + 0) = 1\nexit", 0, "write of 1 bytes"),
    ("r3 = -1\nr3 += r1\nr0 = *(u8 *)(r3 + 0)\nexit", 2, "read of 1 bytes at 0x"),
    ("r1 += 1\nr2 = 1\nlock *(u32 *)(r1 + 0) += r2\nexit", 2, "not aligned to 4"),
    ("again:\ngoto again", 0, "did not end within"),
    ("r0 = 0\nagain:\nr0 += 1\nif r0 != 0 goto again\nexit", 2, "did not end within"),
    ("f:\ncall f\nexit", 0, "calls nest deeper than 8"),
    ("r0 = 1", 1, "ran past its end"),
]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("text", "slot", "why"), WILD, ids=lambda value: value.replace("\n", "; ")[:40] if isinstance(value, str) else "")
def test_what_a_wild_program_does_is_an_error(engine: str, text: str, slot: int, why: str) -> None:
    with pytest.raises(EbpfError, match=why) as caught:
        run(text, engine, bytes(5), limit=1000)
    if engine == "jit" or "within" not in why:
        assert f"at insn {slot}" in str(caught.value)


@pytest.mark.parametrize(
    ("insns", "why"),
    [
        ([Insn(0xFF)], "opcode 0xff is none"),
        ([Insn(0x05, off=5)], "leads to insn 6"),
        ([Insn(0x05, off=1), Insn(0x18, 1), Insn(0x95)], "leads to insn 2"),
        ([Insn(0x85, src=2, imm=42), Insn(0x95)], "kernel function"),
        ([Insn(0xB7, 10), Insn(0x95)], "r10, which is read-only"),
        ([Insn(0xB7, 12), Insn(0x95)], "a register that there is not"),
        ([Insn(0xD7, 1, imm=24), Insn(0x95)], "changes the order of 24 bits"),
        ([Insn(0xBC, 1, 2, off=32), Insn(0x95)], "extends the sign of 32 bits"),
        ([Insn(0x37, 1, off=2, imm=3), Insn(0x95)], "divides with offset 2"),
        ([Insn(0xDB, 10, 1, imm=0x20), Insn(0x95)], "atomic operation 0x20 is none"),
        ([Insn(0xD3, 10, 1, imm=1), Insn(0x95)], "atomic operation on 1 bytes"),
        ([Insn(0xDB, 1, 10, imm=1), Insn(0x95)], "r10, which is read-only"),
        ([Insn(0x30, imm=1), Insn(0x95)], "reads a packet"),
        ([Insn(0x07, 0, off=1, imm=1), Insn(0x95)], "has 1 in off, which it does not use"),
        ([Insn(0xB7, 0, 3), Insn(0x95)], "has 3 in src"),
        ([Insn(0xBF, 0, 1, imm=5), Insn(0x95)], "has 5 in imm"),
        ([Insn(0x3F, 0, 1, imm=5), Insn(0x95)], "has 5 in imm"),
        ([Insn(0x87, 0, 1), Insn(0x95)], "has 1 in src"),
        ([Insn(0xDC, 0, 1, imm=16), Insn(0x95)], "has 1 in src"),
        ([Insn(0x18, 0, off=4), Insn(0x95)], "has 4 in off"),
        ([Insn(0x61, 0, 10, -4, 1), Insn(0x95)], "has 1 in imm"),
        ([Insn(0x62, 10, 1, -4), Insn(0x95)], "has 1 in src"),
        ([Insn(0x63, 10, 1, -4, 1), Insn(0x95)], "has 1 in imm"),
        ([Insn(0x05, imm=1), Insn(0x95)], "has 1 in imm"),
        ([Insn(0x06, off=1), Insn(0x95)], "has 1 in off"),
        ([Insn(0x15, 0, 1), Insn(0x95)], "has 1 in src"),
        ([Insn(0x1D, 0, 1, imm=1), Insn(0x95)], "has 1 in imm"),
        ([Insn(0x85, 1, imm=2), Insn(0x95)], "has 1 in dst"),
        ([Insn(0x85, off=1, imm=2), Insn(0x95)], "has 1 in off"),
        ([Insn(0x95, imm=1)], "has 1 in imm"),
        ([Insn(0x85, src=1, imm=1), Insn(0x95), Insn(0xB7), Insn(0x05, off=-3)], "out of its function"),
        ([Insn(0x85, src=1, imm=1), Insn(0xB7), Insn(0xB7), Insn(0x95)], "runs on into the function at insn 2"),
    ],
)
def test_what_is_no_program_is_refused(insns: list[Insn], why: str) -> None:
    with pytest.raises(EbpfError, match=why):
        read_program(encode(insns), "x.bin")


@pytest.mark.skipif("jit" not in ENGINES, reason="machine code is made for x86-64 alone")
@settings(max_examples=30, deadline=None)
@given(programs())
def test_checked_code_gives_what_the_interpreter_gives(program: tuple[Insn, ...]) -> None:
    prepared = read_program(encode(program), "x")
    assert _ENGINES["jit"](prepared, b"", {}, 1000) == _ENGINES["interp"](prepared, b"", {}, 1000)


def outcome(made: Made, engine: str) -> tuple[int, bytes] | None:
    """What came of a program that was made by chance, or None if it did what it may not."""
    try:
        return _ENGINES[engine](read_program(encode(made.insns), "x"), made.packet, {}, 50_000 if engine == "interp" else 5_000)
    except EbpfError:
        return None


@pytest.mark.skipif("jit" not in ENGINES, reason="machine code is made for x86-64 alone")
def test_programs_on_memory_alone_are_the_same_in_both() -> None:
    different = [
        seed for seed in range(80) if (got := outcome(make_bare(seed), "jit")) is None or got != outcome(make_bare(seed), "interp")
    ]
    assert different == []


@pytest.mark.skipif("jit" not in ENGINES, reason="machine code is made for x86-64 alone")
def test_programs_that_may_do_anything_end_alike() -> None:
    """With a result or with an error, in both engines the same."""
    outcomes = {seed: [outcome(make_wild(seed), engine) for engine in ("interp", "jit")] for seed in range(80)}
    assert {seed: both for seed, both in outcomes.items() if both[0] != both[1]} == {}
    assert {None in both for both in outcomes.values()} == {True, False}


@pytest.mark.skipif("jit" not in ENGINES, reason="machine code is made for x86-64 alone")
def test_unchecked_programs_give_the_same_and_their_endless_loops_end() -> None:
    for seed in range(40):
        made = make_bare(seed)
        assert _run_unchecked(read_program(encode(made.insns), "x"), made.packet, {}, 5_000) == outcome(made, "interp"), seed
    for text in (
        "r0 += 1\nif r0 != 0 goto -2\nexit",
        "goto -1",
        "call pc+1\nexit\ncall pc-1\nexit",
        "r3 = *(u8 *)(r1 + 0)\nif r3 == 0 goto -2\nexit",
    ):
        with pytest.raises(EbpfError, match=r"within its budget|nest deeper"):
            _run_unchecked(read_program(encode(asm(text)), "x"), bytes(8), {}, 1000)


def as_the_runner_writes(data: bytes) -> str:
    return "".join(f"{byte:02x}  " for byte in data)


def plug_in(code: bytes, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*EBPF, "conformance", *words], input=as_the_runner_writes(code) + "\n", capture_output=True, text=True, check=False
    )


#: What the suite's runner puts on a plug-in's command line: memory first, if there is any, then the options, split at each space.
COMMAND_LINES = [
    ["--engine", "{}"],
    ["--engine={}"],
    ["", "--engine", "{}"],
    ["--engine", "{}", ""],
]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("words", COMMAND_LINES, ids=" ".join)
def test_the_plug_in_speaks_the_suites_protocol(engine: str, words: list[str]) -> None:
    words = [word.format(engine) for word in words]
    good = plug_in(encode(asm("r0 = *(u16 *)(r1 + 1)\nexit")), as_the_runner_writes(b"\xaa\xbb\xcc"), *words)
    assert (good.stdout, good.stderr, good.returncode) == ("ccbb\n", "", 0)
    without = plug_in(encode(asm("r0 = r2\nr0 -= 1\nexit")), *words)
    assert (without.stdout, without.stderr, without.returncode) == ("ffffffffffffffff\n", "", 0)
    bad = plug_in(encode([Insn(0x85, src=2, imm=41), Insn(0x95)]), *words)
    assert (bad.stdout, bad.returncode, bad.stderr.count("\n")) == ("", 1, 1)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_plug_in_runs_an_object_of_the_suite(engine: str) -> None:
    """Its section of code has local calls that nothing relocates."""
    code = encode([Insn(0x85, src=1, imm=1), *asm("exit"), *asm("r0 = *(u8 *)(r1 + 2)\nexit")])
    symbol = OutSymbol("main", 0, len(code), 2, 1, 1)
    whole = write_elf({".text": Out(1, 6, 4, bytearray(code), len(code))}, [symbol], b"", b"")
    good = plug_in(whole, as_the_runner_writes(b"\1\2\3"), "--engine", engine, "--elf")
    assert (good.stdout, good.stderr, good.returncode) == ("3\n", "", 0)
    for wrong, why in ((code, "is not an ELF object"), (write_elf({}, [], b"", b""), "has no section of code")):
        bad = plug_in(wrong, "--elf")
        assert (bad.stdout, bad.returncode) == ("", 1)
        assert why in bad.stderr


@pytest.mark.parametrize("engine", ENGINES)
def test_the_suites_call_of_the_runtime_gives_0(engine: str) -> None:
    """Its runner takes no error from a program whose error section is empty: it wants the result."""
    good = plug_in(encode([*asm("r0 = 7"), Insn(0x85, src=2, imm=42), Insn(0x95)]), "--engine", engine)
    assert (good.stdout, good.stderr, good.returncode) == ("0\n", "", 0)
    bad = plug_in(encode([Insn(0x85, src=2, off=1, imm=42), Insn(0x95)]), "--engine", engine)
    assert (bad.stdout, bad.returncode) == ("", 1)


def test_a_file_is_run(tmp_path: Path) -> None:
    (tmp_path / "p.bin").write_bytes(encode(asm("r0 = *(u8 *)(r1 + 1)\n*(u8 *)(r1 + 0) = 9\nexit")))
    (tmp_path / "m").write_bytes(b"\x05\x06\x07")
    command = [*EBPF, "run", str(tmp_path / "p.bin"), "--mem", str(tmp_path / "m")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "0x6\n"
    found = subprocess.run([sys.executable, "-m", "ebpf", "-j", *command[3:]], capture_output=True, text=True, check=True).stdout
    assert found == '{"r0":"0x6","memory":"090607"}\n'
    for words, why in (
        (["run", str(tmp_path / "nosuch")], "no such file"),
        (["run", str(tmp_path / "m")], "no whole number of instructions"),
        (["run", str(tmp_path / "p.bin"), "--engine", "fast"], "no engine 'fast'"),
        (["run", str(tmp_path / "p.bin"), "--bogus"], "unrecognized option '--bogus'"),
        (["run"], "needs one file"),
    ):
        done = subprocess.run([*EBPF, *words], capture_output=True, text=True, check=False)
        assert done.returncode in (1, 2)
        assert why in done.stderr, done.stderr
