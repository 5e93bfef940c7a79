"""Text and bytes of every instruction: three writers and readers agree."""

import subprocess
from pathlib import Path

import pytest
from every_insn import EVERY, name
from hypothesis import given
from hypothesis import strategies as st

from ebpf.errors import FormatError, UsageError
from ebpf.isa import OPCODES, Form, Insn, asm, by_slot, decode, disasm, disasm_one, encode
from ebpf.isa.clang import clang_one
from ebpf.isa.opcodes import CALL, LD_IMM64


def test_opcodes_are_unique_and_every_row_has_a_sample() -> None:
    assert all(code == row.code for code, row in OPCODES.items())
    assert {insn.opcode for insn in EVERY} == set(OPCODES)
    assert len({(row.mnemonic, row.form) for row in OPCODES.values()}) == len(OPCODES)


@pytest.mark.parametrize("insn", EVERY, ids=name)
@pytest.mark.parametrize("style", ["kernel", "clang"])
def test_what_is_disassembled_assembles_to_the_same(insn: Insn, style: str) -> None:
    (line,) = disasm([insn], style=style)
    assert asm(line) == (insn,)


def test_no_opcode_without_a_row_is_written_as_an_instruction() -> None:
    for code in set(range(256)) - set(OPCODES):
        assert clang_one(Insn(code)) == "<unknown>"


insns = st.builds(
    Insn,
    st.sampled_from(sorted(OPCODES)),
    st.integers(0, 10),
    st.integers(0, 10),
    st.integers(-(1 << 15), (1 << 15) - 1),
    st.integers(-(1 << 31), (1 << 31) - 1),
)


@given(st.lists(insns, max_size=20))
def test_decode_of_encode_is_the_identity(program: list[Insn]) -> None:
    assert decode(encode(program)) == tuple(program)
    assert len(by_slot(program)) == len(encode(program)) // 8


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (b"\x95\0\0", "not a whole number"),
        (bytes([LD_IMM64, *([0] * 7)]), "insn 0: ld_imm64 without"),
        (bytes([LD_IMM64, *([0] * 7), 0x95, *([0] * 7)]), "insn 0: ld_imm64 without"),
    ],
    ids=["torn slot", "half at the end", "another insn as second half"],
)
def test_damaged_bytecode_is_refused(code: bytes, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        decode(code)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("r1 = 0x5 ll", Insn(LD_IMM64, 1, imm=5)),
        ("r1 = -1 ll", Insn(LD_IMM64, 1, imm=-1, imm_hi=-1)),
        ("(18) r6 = map[id:37372][0]+8", Insn(LD_IMM64, 6, 2, 0, 37372, 8)),
        ("(18) r6 = map[id:4]", Insn(LD_IMM64, 6, 1, 0, 4)),
        ("(18) r2 = subprog[+3]", Insn(LD_IMM64, 2, 4, 0, 3)),
        ("  6: (85) call bpf_trace_printk#-61360", Insn(CALL, imm=-61360)),
        ("call trace_printk", Insn(CALL, imm=6)),
        ("call bpf_trace_printk#6", Insn(CALL, imm=6)),
        ("call pc+7#bpf_prog_6deef7357e7b4530_f", Insn(CALL, src=1, imm=7)),
        ("w1 = 0xffffffff", Insn(0xB4, 1, imm=-1)),
        ("if r1 > 0xffffffff goto pc+1", Insn(0x25, 1, off=1, imm=-1)),
        ("r1=5;comment", Insn(0xB7, 1, imm=5)),
        ("w0 = *(u8*)(r1+0) // comment", Insn(0x71, 0, 1)),
        ("goto +0x2 <LBB0_2>", Insn(0x05, off=2)),
    ],
)
def test_one_line_assembles(text: str, expected: Insn) -> None:
    assert asm(text) == (expected,)


def test_labels_count_slots() -> None:
    program = asm("top:\n r1 = 5 ll\n if r1 == 5 goto Done\n call top\n call Done\n gotol top\nDone:\n exit")
    assert [(i.off, i.imm) for i in program[1:5]] == [(3, 5), (0, -4), (0, 1), (0, -6)]
    assert [i.src for i in program[2:4]] == [1, 1]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("r1 = r11", "line 1: 'r1 = r11' is not an instruction"),
        ("exit\nr1 += 0x80000000", "line 2: 0x80000000 does not fit"),
        ("r1 = w2", "r and w registers"),
        ("goto nowhere", "no label 'nowhere'"),
        ("call nothing", "no such helper"),
        ("r1 = -r2", "same register"),
        ("*(u8 *)(r1 + 40000) = 1", "16-bit offset"),
        ("(b7) r1 = r2", "is opcode bf, not b7"),
        ("r1 s= 4", "not an instruction"),
        ("r1 = 0x1ffffffffffffffff ll", "64 bits"),
    ],
)
def test_bad_text_is_refused_with_its_line(text: str, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        asm(text)


def test_unknown_styles_are_refused() -> None:
    with pytest.raises(UsageError, match="'intel'"):
        disasm([], style="intel")


def test_kernel_style_is_what_bpftool_prints() -> None:
    code = "18260000fc91000000000000000000006163000000000000b70200000f000000850000005010ffff636100000000000095000000"
    text = disasm(decode(bytes.fromhex(code + "00000000")), name_call=lambda insn, slot: f"bpf_trace_printk#{insn.imm}")
    assert text == [
        "   0: (18) r6 = map[id:37372][0]+0",
        "   2: (61) r3 = *(u32 *)(r6 +0)",
        "   3: (b7) r2 = 15",
        "   4: (85) call bpf_trace_printk#-61360",
        "   5: (63) *(u32 *)(r1 +0) = r6",
        "   6: (95) exit",
    ]


def _clang_can(insn: Insn) -> bool:
    """Its assembler has no words for these: calls of kinds, a call by register, a far gotol, an indexed packet load."""
    row = OPCODES[insn.opcode]
    lacking = {
        Form.CALL: insn.src != 0,
        Form.CALL_REG: True,
        Form.JUMP_WIDE: insn.imm == 70000,
        Form.PACKET_SRC: insn.imm != 0,
    }
    return not lacking.get(row.form, False)


def test_clang_assembles_clang_style_to_the_same_bytes(tmp_path: Path) -> None:
    """Every sample in one file: a disagreement shows as the first line that differs."""
    pytest.importorskip("elftools")
    from elftools.elf.elffile import ELFFile

    from ebpf.toolchain import find_clang

    program = [insn for insn in EVERY if _clang_can(insn)]
    source, target = tmp_path / "all.s", tmp_path / "all.o"
    source.write_text("\n".join(clang_one(insn) for insn in program) + "\n")
    clang = find_clang()
    command = [*clang.command, "--target=bpfel", "-mcpu=v4", "-c", str(source), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with target.open("rb") as file:
        section = ELFFile(file).get_section_by_name(".text")  # type: ignore[no-untyped-call]
        code = decode(section.data())
    assert [clang_one(i) for i in code] == [clang_one(i) for i in program]
    assert code == tuple(program)


def test_plain_wide_immediates_and_calls_of_one_insn() -> None:
    assert disasm_one(Insn(LD_IMM64, 1, imm=-1, imm_hi=1)) == "(18) r1 = 0x1ffffffff"
    assert disasm_one(Insn(CALL, src=1, imm=-3)) == "(85) call pc-3"
