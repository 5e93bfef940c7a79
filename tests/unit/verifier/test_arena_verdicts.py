"""Arenas: what is done with an address in one, and where it must not go; Linux was asked the same (bench/agreement)."""

from dataclasses import dataclass
from typing import Final

import pytest

from ebpf.btf import Btf
from ebpf.btf.build import Builder
from ebpf.engine.program import Code, MapDesc, Verdict
from ebpf.engine.verifier import RULES, verify
from ebpf.isa import Insn, asm
from ebpf.uapi import MapType, ProgType


def _kernel() -> tuple[Btf, int]:
    """A kernel with bpf_arena_alloc_pages(), and its number."""
    build = Builder()
    number = build.integer("int", 4, signed=True)
    void = build.ptr(0)
    members = [("p__map", void), ("addr__ign", void), ("page_cnt", number), ("node_id", number), ("flags", number)]
    alloc = build.func("bpf_arena_alloc_pages", build.func_proto(void, members))
    return build.build(), alloc


KERNEL, ALLOC = _kernel()
NAMED: Final = "r9 = map[id:5]; "
#: r1 is an address in the arena.
CAST: Final = NAMED + "r1 = 4096; CAST; "
PAGES: Final = f"r3 = 1; r4 = -1; r5 = 0; call kfunc#{ALLOC}; "


@dataclass(frozen=True)
class Row:
    """A program: text, the last line of Linux's words ("": accepted)."""

    name: str
    text: str
    says: str = ""
    type: ProgType = ProgType.SYSCALL


ROWS: Final = [
    Row("it is read anywhere", CAST + "r0 = *(u64 *)(r1 - 30000); exit"),
    Row("it is written", CAST + "*(u64 *)(r1 + 8) = r10; r0 = 0; exit"),
    Row("what is read is any number", CAST + "r0 = *(u8 *)(r1 + 0); if r0 > 255 goto +1; exit; r0 = 0; exit"),
    Row("any arithmetic", CAST + "r1 *= 3; r1 &= 255; w1 += 1; r1 += r10; r1 <<= 3; r0 = *(u8 *)(r1 + 3); exit"),
    Row("added to a number", CAST + "r2 = 5; r2 += r1; r0 = *(u8 *)(r2 + 3); exit"),
    Row("back it is a number", CAST + "BACK; r0 = *(u8 *)(r1 + 3); exit", "R1 invalid mem access 'scalar'"),
    Row("its low half is a number", CAST + "w2 = w1; r0 = *(u8 *)(r2 + 3); exit", "R2 invalid mem access 'scalar'"),
    Row("it is spilled", CAST + "*(u64 *)(r10 - 8) = r1; r2 = *(u64 *)(r10 - 8); r0 = *(u8 *)(r2 + 3); exit"),
    Row("no memory for helpers", CAST + "r3 = 0; r2 = 8; call 113; r0 = 0; exit", "*"),
    Row("the arena's own address is a number", "r1 = map[id:5][0]+0; r0 = *(u8 *)(r1 + 0); exit", "R1 invalid mem access 'scalar'"),
    Row("no arena", "r1 = 4096; CAST; r0 = 0; exit", "addr_space_cast insn can only be used in a program that has an associated arena"),
    Row("two arenas", NAMED + "r8 = map[id:6]; r0 = 0; exit", "Only one arena per program"),
    Row("an arena of no address", "r8 = map[id:7]; r0 = 0; exit", "arena's user address must be set via map_extra or mmap()"),
    Row("pages", "r1 = map[id:5]; r2 = 0; " + PAGES + "r1 = r0; CAST; *(u64 *)(r1 + 0) = 1; r0 = 0; exit"),
    Row("pages of no map", "r1 = r10; r1 += -8; r2 = 0; " + PAGES + "r0 = 0; exit", "pointer in R1 isn't map pointer"),
    Row(
        "pages where nothing may sleep",
        "r1 = map[id:5]; r2 = 0; " + PAGES + "r0 = 0; exit",
        "program must be sleepable to call sleepable kfunc bpf_arena_alloc_pages",
        ProgType.SCHED_CLS,
    ),
    Row(
        "the same load of the stack",
        CAST + "r6 = r1; call 7; if r0 == 0 goto +2; r6 = r10; r6 += -8; *(u8 *)(r6 + 0) = 1; r0 = 0; exit",
        "same insn cannot be used with different pointers",
    ),
]


def _insns(text: str) -> tuple[Insn, ...]:
    """A program: CAST makes an address in the arena of r1, BACK one of its own."""
    out: list[Insn] = []
    for line in text.split("; "):
        if line in ("CAST", "BACK"):
            out.append(Insn(0xBF, 1, 1, 1, 1 if line == "CAST" else 1 << 16))
        else:
            out.extend(asm(line))
    return tuple(out)


def _judged(row: Row, **others: bool) -> Verdict:
    maps = {fd: MapDesc(fd, MapType.ARENA, 0, 0, 2, 1024, placed=fd != 7) for fd in (5, 6, 7)}
    sleepable = row.type == ProgType.SYSCALL
    code = Code(_insns(row.text), int(row.type), maps, "f", gpl=True, kernel_btf=KERNEL, sleepable=sleepable, **others)
    return verify(code, rules=RULES["6.18"])


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.name.replace(" ", "-"))
def test_addresses_in_an_arena(row: Row) -> None:
    verdict = _judged(row)
    assert not verdict.unknown
    assert verdict.accepted == (not row.says), verdict.log
    if row.says not in ("", "*"):
        assert verdict.says.split("\n")[-1] == row.says


def test_an_arena_takes_perfmon() -> None:
    assert _judged(ROWS[0], privileged=False).says == "CAP_BPF and CAP_PERFMON are required to use arena"
