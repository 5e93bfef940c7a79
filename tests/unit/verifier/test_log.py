"""The log: at levels 1 and 2 it is Linux's, line by line, but for addresses."""

import re
from dataclasses import replace

import pytest

from ebpf.engine.program import Code
from ebpf.engine.verifier import verify
from ebpf.errors import KernelError
from ebpf.isa import asm, encode
from ebpf.isa.opcodes import LD_IMM64
from ebpf.kernels import open_kernel
from ebpf.sys.calls import ProgLoad
from ebpf.uapi import ProgType, PseudoSrc

PROGRAMS = {
    "a branch": "call 7; r6 = r0; r0 = 1; if r6 > 9 goto +1; r0 = 2; exit",
    "a packet": "r2 = *(u32 *)(r1 + 0); r3 = *(u32 *)(r1 + 4); r4 = r2; r4 += 14; r0 = 1; if r4 > r3 goto +1; r0 = *(u8 *)(r2 + 3); r0 = 1; exit",
    "a size that decides": "r1 = r10; r1 += -16; *(u64 *)(r10 - 16) = 0; r2 = 8; r0 = 0; call 6; r0 = 0; exit",
    "spilled and filled": "call 7; r0 &= 7; *(u64 *)(r10 - 8) = r0; r1 = *(u64 *)(r10 - 8); r2 = r10; r2 += -16; r2 += r1; *(u8 *)(r2 + 0) = 1; r0 = 0; exit",
    "a function": "r1 = 7; call pc+3; r0 += 1; r0 = 0; exit; r0 = r1; r0 += 1; exit",
    "a function that is refused": "r1 = 7; call pc+2; r0 = 0; exit; r0 = r7; exit",
    "proved twice": "call 7; r6 = 0; if r0 == 1 goto +1; r6 = 0; r0 = r6; r1 = r6; r2 = r6; r3 = r6; exit",
    "refused behind a branch": "call 7; if r0 == 1 goto +2; r0 = 0; exit; r0 = *(u64 *)(r0 + 0); exit",
    # A path that a first call is still on keeps no state of the next call from being remembered.
    "a function of many callers": "call 7; if r0 > 5 goto third; r1 = -1; call f; r1 = -2; call f; third:; r1 = -3; call f; r1 = -4; call f; r0 = 0; exit; f:; r2 = r10; r2 += r1; r3 = 0; r4 = 0; r0 = 0; r3 += 1; r4 += 1; if r3 != 1 goto +0; if r4 != 1 goto +0; *(u8 *)(r2 - 8) = 0; r0 = 0; exit",
    "stack of a caller": "call 7; r6 = r0; *(u64 *)(r10 - 8) = 1; *(u64 *)(r10 - 16) = 2; if r6 > 5 goto +1; *(u64 *)(r10 - 24) = 3; r1 = r10; r1 += -16; call f; r1 = r10; r1 += -8; call f; r0 = *(u64 *)(r10 - 16); r0 = 0; exit; f:; *(u64 *)(r10 - 8) = r1; r0 = *(u32 *)(r1 + 0); *(u64 *)(r1 + 0) = r0; r2 = *(u64 *)(r10 - 8); r0 = 0; exit",
    "a write that is not always one": "r6 = 0; call 7; r7 = r10; r7 += -8; if r0 == 0 goto +1; r7 += -8; *(u64 *)(r10 - 8) = 1; *(u64 *)(r10 - 16) = 1; *(u64 *)(r7 + 0) = 2; r6 += 1; if r6 != 2 goto -10; r0 = *(u64 *)(r10 - 16); r0 = *(u64 *)(r10 - 8); r0 = 0; exit",
    "a loop of may_goto": "r6 = 0; r7 = 1; *(u64 *)(r10 - 8) = 0; l:; may_goto +4; r6 += 1; r7 = *(u64 *)(r10 - 8); *(u64 *)(r10 - 8) = r6; goto l; r1 = r10; r1 += -16; if r7 == 0 goto +1; r0 = 1; r0 = 0; exit",
    "a loop of may_goto in a function": "r6 = 3; r1 = r10; r1 += -8; *(u64 *)(r10 - 8) = 7; call f; r0 = *(u64 *)(r10 - 8); r0 = r6; exit; f:; r6 = 0; l:; may_goto +4; call 7; if r0 == 5 goto +2; r6 += 1; goto l; *(u64 *)(r1 + 0) = 5; r0 = 0; exit",
    "a search that is lost": "r9 = r1; call 7; r7 = r0; r8 = 1; *(u64 *)(r10 - 8) = r0; r8 += 1; r8 += 2; r8 += 3; if r7 == 1 goto +0; if r7 == 2 goto +0; r2 = *(u32 *)(r9 + 0); r3 = *(u32 *)(r9 + 4); r4 = r2; r4 += 14; r0 = 1; if r4 > r3 goto end; *(u64 *)(r10 - 24) = 0; *(u8 *)(r2 + 0) = 1; r4 -= r2; r4 &= 7; r4 += 1; r1 = r10; r1 += -24; r2 = r4; call 6; r0 = 1; end:; exit",
    "what cannot be": "r0 = 5; if r0 == 5 goto +1; r0 = r9; r0 = 1; exit",
}  # fmt: skip


def _insns(text: str) -> bytes:
    return encode(asm(text.replace("; ", "\n")))


def _plain(log: str) -> list[str]:
    """The lines without the counts at the end."""
    lines = [line.rstrip() for line in log.splitlines() if not re.match(r"processed |verification time|stack depth", line)]
    return [re.sub(r"0xffff[0-9a-f]{12}", "ADDRESS", line) for line in lines]


@pytest.mark.linux
@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("text", PROGRAMS.values(), ids=[name.replace(" ", "-") for name in PROGRAMS])
def test_the_log_is_linuxs(text: str, level: int) -> None:
    with open_kernel("linux") as kernel:
        try:
            loaded = kernel.bpf(ProgLoad(int(ProgType.XDP), _insns(text), "GPL", log_level=level))
            theirs = loaded.log
            kernel.close(loaded.fd)
        except KernelError as error:
            theirs = error.log
    ours = verify(Code(asm(text.replace("; ", "\n")), int(ProgType.XDP)), log_level=level).log
    assert _plain(ours) == _plain(theirs)


def test_level_two_has_functions_live_registers_and_what_decided() -> None:
    log = verify(Code(asm(PROGRAMS["a size that decides"].replace("; ", "\n")), int(ProgType.XDP)), log_level=2).log
    assert _plain(log) == [
        "func#0 @0",
        "Live regs before insn:",
        "      0: .......... (bf) r1 = r10",
        "      1: .1........ (07) r1 += -16",
        "      2: .1........ (7a) *(u64 *)(r10 -16) = 0",
        "      3: .1........ (b7) r2 = 8",
        "      4: .12....... (b7) r0 = 0",
        "      5: .12....... (85) call bpf_trace_printk#6",
        "      6: .......... (b7) r0 = 0",
        "      7: 0......... (95) exit",
        "0: R1=ctx() R10=fp0",
        "0: (bf) r1 = r10                      ; R1=fp0 R10=fp0",
        "1: (07) r1 += -16                     ; R1=fp-16",
        "2: (7a) *(u64 *)(r10 -16) = 0         ; R10=fp0 fp-16=0",
        "3: (b7) r2 = 8                        ; R2=8",
        "4: (b7) r0 = 0                        ; R0=0",
        "5: (85) call bpf_trace_printk#6",
        "mark_precise: frame0: last_idx 5 first_idx 0 subseq_idx -1",
        "mark_precise: frame0: regs=r2 stack= before 4: (b7) r0 = 0",
        "mark_precise: frame0: regs=r2 stack= before 3: (b7) r2 = 8",
        "6: R0=scalar()",
        "6: (b7) r0 = 0                        ; R0=0",
        "7: (95) exit",
        "(0) frame 0 insn 5 +live -16",
        "(0) frame 0 insn 2 +written -16",
        "(0) frame 0 insn 0 +written -16",
        "(0) live stack update done in 2 iterations",
    ]


def test_loops_have_numbers() -> None:
    log = verify(Code(asm("r0 = 0\nr0 += 1\nif r0 < 3 goto -2\nexit"), int(ProgType.XDP)), log_level=2).log
    assert log.splitlines()[2:6] == [
        "      0: .......... (b7) r0 = 0",
        "  1   1: 0......... (07) r0 += 1",
        "  1   2: 0......... (a5) if r0 < 0x3 goto pc-2",
        "      3: 0......... (95) exit",
    ]


def test_what_a_helper_runs_is_told_apart() -> None:
    """Two ways to a call, with another function each: both are walked."""
    text = "call 7; r6 = 0; r6 = 0; r6 = 0; r6 = 0; r6 = 0; r6 = 0; r2 = 10 ll; if r0 == 0 goto +2; r2 = 9 ll; r1 = 5; r3 = 0; r4 = 0; call 181; r0 = 0; exit"
    text += "; r0 = *(u64 *)(r1 + 0); exit; r0 = 0; exit"
    insns = [replace(insn, src=PseudoSrc.FUNC) if insn.opcode == LD_IMM64 else insn for insn in asm(text.replace("; ", "\n"))]
    assert verify(Code(tuple(insns), int(ProgType.XDP))).says == "R1 invalid mem access 'scalar'"
