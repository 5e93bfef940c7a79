"""Verdicts: small programs that are accepted or refused, with the words of the refusal; Linux is asked the same."""

import gc
from dataclasses import dataclass, replace

import pytest

from ebpf.engine.program import Code, MapDesc, Verdict
from ebpf.engine.verifier import RULES, verify
from ebpf.errors import KernelError
from ebpf.isa import asm, encode
from ebpf.kernels import open_kernel
from ebpf.sys.calls import MapCreate, ProgLoad
from ebpf.uapi import MapType, ProgType

XDP, KPROBE, TRACEPOINT = ProgType.XDP, ProgType.KPROBE, ProgType.TRACEPOINT


@dataclass(frozen=True)
class Row:
    """A program: assembler text, what the refusal's cause says ("": accepted)."""

    name: str
    text: str
    cause: str = ""
    type: ProgType = XDP
    gpl: bool = True


CONSTANT = "*(u32 *)(r10 - 8) = 3; r2 = r10; r2 += -8; r1 = MAP ll; call 1;"
PACKET = "r2 = *(u32 *)(r1 + 0); r3 = *(u32 *)(r1 + 4); r4 = r2; r4 += 14; if r4 > r3 goto +{0};"
ROWS = [
    Row("returns a constant", "r0 = 2; exit"),
    Row("nothing returned", "exit", "r0 is read"),
    Row("falls off the end", "r0 = 0", "does not end"),
    Row("unreachable code", "r0 = 0; exit; r0 = 1; exit", "never be reached"),
    Row("jumps out", "r0 = 0; goto +5; exit", "leads out"),
    Row("a register never written", "r0 = r3; exit", "r3 is read"),
    Row("writes the frame pointer", "r10 = 1; r0 = 0; exit", "cannot be written"),
    Row("an endless loop", "r0 = 0; l: goto l; exit", ""),
    Row("a loop that counts", "r0 = 0; l: r0 += 1; if r0 < 100 goto l; r0 = 2; exit"),
    Row("a loop that does not", "r0 = 0; r1 = 0; l: if r1 == 0 goto l; exit", "never end"),
    Row("stack written then read", "r1 = 7; *(u64 *)(r10 - 8) = r1; r0 = *(u64 *)(r10 - 8); exit"),
    Row("stack beyond 512 bytes", "r1 = 0; *(u64 *)(r10 - 520) = r1; r0 = 0; exit", "leaves the stack"),
    Row("stack above the frame", "r1 = 0; *(u64 *)(r10 + 8) = r1; r0 = 0; exit", "leaves the stack"),
    Row("packet without a check", "r2 = *(u32 *)(r1 + 0); r0 = *(u8 *)(r2 + 0); exit", "bytes 0 to 0 of the packet"),
    Row("packet with a check", PACKET.format(2) + "r0 = *(u8 *)(r2 + 13); exit; r0 = 0; exit"),
    Row("one byte too far", PACKET.format(2) + "r0 = *(u8 *)(r2 + 14); exit; r0 = 0; exit", "bytes 14 to 14 of the packet"),
    Row("on the wrong branch", PACKET.format(2) + "r0 = 0; exit; r0 = *(u8 *)(r2 + 0); exit", "of the packet are needed"),
    Row("writes to a packet", PACKET.format(3) + "*(u8 *)(r2 + 0) = 1; r0 = 2; exit; r0 = 0; exit"),
    Row("reads past data_end itself", "r2 = *(u32 *)(r1 + 4); r0 = *(u8 *)(r2 + 0); exit", "pkt_end"),
    Row("moves data_end", "r2 = *(u32 *)(r1 + 4); r2 += 1; r0 = 0; exit", "cannot be moved"),
    Row("half of a context field", "r0 = *(u8 *)(r1 + 12); exit", "struct xdp_md"),
    Row("context out of range", "r0 = *(u32 *)(r1 + 24); exit", "struct xdp_md"),
    Row("stores to the context", "r2 = 0; *(u32 *)(r1 + 12) = r2; r0 = 0; exit", "struct xdp_md"),
    Row("dereferences a number", "r1 = 64; r0 = *(u64 *)(r1 + 0); exit", "must be a pointer"),
    Row("multiplies a pointer", "r1 *= 2; r0 = 0; exit", "moved by adding"),
    Row("adds two pointers", "r1 += r10; r0 = 0; exit", "only be subtracted"),
    Row("32-bit pointer arithmetic", "w1 += 1; r0 = 0; exit", "64-bit arithmetic"),
    Row("returns a pointer", "r0 = r10; exit"),
    Row("divides by a constant zero", "r0 = 1; r0 /= 0; exit", "none that the kernel knows"),
    Row("shifts too far", "r0 = 1; r0 <<= 64; exit", "none that the kernel knows"),
    Row("an unknown helper", "call 9999; r0 = 0; exit", "no helper with number"),
    Row("a helper of other programs", "r1 = 0; call 35; r0 = 0; exit", ""),
    Row("get_current_comm needs its memory", "r1 = r10; r1 += -16; r2 = 16; call 16; r0 = 0; exit", type=KPROBE),
    Row("get_current_comm past the stack", "r1 = r10; r1 += -8; r2 = 16; call 16; r0 = 0; exit", "leaves the stack", type=KPROBE),
    Row("arguments are clobbered by calls", "r1 = 1; call 7; r0 = r1; exit", "r1 is read"),
    Row("printk without a GPL licence", "r1 = r10; r1 += -8; *(u64 *)(r10 - 8) = 0; r2 = 8; call 6; r0 = 0; exit", "GPL", gpl=False),
    Row("printk of unwritten stack", "r1 = r10; r1 += -8; r2 = 8; call 6; r0 = 0; exit"),
    Row("a map value without a null test", "MAP; r0 = *(u64 *)(r0 + 0); exit", "may be null"),
    Row("a map value with one", "MAP; if r0 == 0 goto +1; r0 = *(u64 *)(r0 + 8); exit"),
    Row("past a map value", "MAP; if r0 == 0 goto +1; r0 = *(u64 *)(r0 + 16); exit", "in a map value of 16 bytes"),
    Row("before a map value", "MAP; if r0 == 0 goto +1; r0 = *(u64 *)(r0 - 8); exit", "bytes -8 to -1"),
    Row("an unbounded index", "MAP; if r0 == 0 goto +3; r6 = *(u64 *)(r0 + 0); r0 += r6; r0 = *(u8 *)(r0 + 0); exit", "may be any"),
    Row("a bounded index", "MAP; if r0 == 0 goto +4; r6 = *(u64 *)(r0 + 0); r6 &= 15; r0 += r6; r0 = *(u8 *)(r0 + 0); exit"),
    Row("an index off by one", "MAP; if r0 == 0 goto +4; r6 = *(u64 *)(r0 + 0); r6 &= 31; r0 += r6; r0 = *(u8 *)(r0 + 0); exit", "byte 31"),
    Row(
        "a negative index",
        "MAP; if r0 == 0 goto +4; r6 = *(u32 *)(r0 + 0); if r6 s> 8 goto +2; r0 += r6; r0 = *(u8 *)(r0 + 0); r0 = 0; exit",
    ),
    Row("a nullable value is moved", "MAP; r0 += 8; r0 = 0; exit", "may be null"),
    Row("a key that is not written", "r2 = r10; r2 += -4; r1 = MAP ll; call 1; r0 = 0; exit"),
    Row("a constant index of an array is there", CONSTANT + "r0 = *(u64 *)(r0 + 0); exit"),
    Row("pt_regs may be read", "r0 = *(u64 *)(r1 + 112); exit", type=KPROBE),
    Row("past pt_regs", "r0 = *(u64 *)(r1 + 168); exit", "struct pt_regs", type=KPROBE),
    Row("a tracepoint's arguments", "r0 = *(u64 *)(r1 + 16); exit", type=TRACEPOINT),
    Row("a spilled pointer comes back", "*(u64 *)(r10 - 8) = r1; r2 = *(u64 *)(r10 - 8); r0 = *(u32 *)(r2 + 12); exit"),
    Row("half of a spilled pointer", "*(u64 *)(r10 - 8) = r1; *(u32 *)(r10 - 8) = 0; r0 = 0; exit"),
    Row("atomic addition to a map value", "MAP; if r0 == 0 goto +2; r1 = 1; lock *(u64 *)(r0 + 0) += r1; r0 = 0; exit"),
    Row(
        "an ordered load into the frame pointer",
        "MAP; if r0 == 0 goto +1; r10 = load_acquire((u64 *)(r0 + 8)); r0 = 0; exit",
        "cannot be written",
    ),
    Row("an ordered load from the context", "r0 = load_acquire((u32 *)(r1 + 0)); exit", "cannot be read"),
    Row("an ordered store into the context", "r0 = 0; store_release((u32 *)(r1 + 0), r0); exit", "struct xdp_md"),
    Row(
        "an ordered store into a packet",
        PACKET.format(3) + "r0 = 0; store_release((u8 *)(r2 + 0), w0); exit; r0 = 0; exit",
        "changed atomically",
    ),
    Row(
        "a number that cannot be moves a pointer",
        "MAP; if r0 == 0 goto +7; r6 = *(u64 *)(r0 + 0); r7 = *(u64 *)(r0 + 8); r6 <<= 40; if r7 >= r6 goto +3; if r6 > 47 goto +2;"
        " r0 += r6; r1 = 0; r0 = 0; exit",
    ),
    Row(
        "what differs by more than half of 32 bits is learnt of with its sign",
        "call 7; r8 = r0; w8 = w8; r7 = r8; r8 += -2147483648; if r8 > 32767 goto +3; r7 >>= 63; if r7 == 1 goto +1; r0 = r9; r0 = 0; exit",
        "r9 is read",
    ),
    Row(
        "a low half that is 0 or -1 is walked as both",
        "MAP; if r0 == 0 goto +7; r6 = *(u32 *)(r0 + 0); r6 |= -8; r6 -= r6; w6 s>>= 15; r6 &= 63; if r6 > 8 goto +1; r0 += r6; r0 = 0; exit",
    ),
    Row(
        "what a helper fills is not known",
        "; ".join(f"*(u64 *)(r10 - {8 * at}) = 0" for at in range(1, 9))
        + "; r2 = r10; r2 += -64; r3 = 64; r4 = 0; call 69; r1 = *(u8 *)(r10 - 64); if r1 == 0 goto +1; r0 = r9; r0 = 0; exit",
        "r9 is read",
    ),
    Row("a map's value where no path leads", "r0 = 0; if r0 == 0 goto +2; r1 = map[id:FD][0]+4096; exit", "array of one can be reached"),
    Row("atomic addition to a packet", PACKET.format(3) + "r1 = 1; lock *(u64 *)(r2 + 0) += r1; r0 = 0; exit", "atomic"),
]
LOOKUP = "call 7; *(u32 *)(r10 - 4) = r0; r2 = r10; r2 += -4; r1 = MAPFD ll; call 1"


def code_of(row: Row, fd: int = 5) -> Code:
    text = (
        row.text.replace("MAP;", LOOKUP + ";")
        .replace("MAP ll", "MAPFD ll")
        .replace("MAPFD ll", f"map[id:{fd}]")
        .replace("id:FD", f"id:{fd}")
    )
    insns = asm(text.replace("l: ", "l:\n").replace("; ", "\n").replace(";", "\n"))
    maps = {fd: MapDesc(fd, MapType.ARRAY, 4, 16, 4)}
    return Code(insns, int(row.type), maps, "f", row.gpl)


def words_of(row: Row) -> Verdict:
    return verify(code_of(row))


DECIDED = [row for row in ROWS if row.name not in ("an endless loop", "a helper of other programs")]


@pytest.mark.parametrize("row", DECIDED, ids=lambda r: r.name.replace(" ", "-"))
def test_verdict(row: Row) -> None:
    verdict = words_of(row)
    assert verdict.accepted == (not row.cause), verdict.cause
    assert row.cause in verdict.cause


@pytest.mark.linux
@pytest.mark.parametrize("row", DECIDED, ids=lambda r: r.name.replace(" ", "-"))
def test_linux_says_the_same(row: Row) -> None:
    with open_kernel("linux") as kernel:
        fd = kernel.bpf(MapCreate(int(MapType.ARRAY), 4, 16, 4))
        insns = encode(code_of(row, fd).insns)
        try:
            kernel.close(kernel.bpf(ProgLoad(int(row.type), insns, "GPL" if row.gpl else "X", log_level=1)).fd)
            refusal = ""
        except KernelError as error:
            refusal = error.log or str(error)
    accepted = not row.cause
    assert (not refusal) == accepted, refusal


def test_a_load_with_a_reserved_field_is_refused_where_no_path_leads() -> None:
    code = code_of(Row("", "r0 = 0; if r0 == 0 goto +1; r0 = *(u64 *)(r7 + 0); exit"))
    damaged = replace(code, insns=tuple(replace(insn, imm=int(insn.opcode & 7 == 1)) for insn in code.insns))
    assert verify(code).accepted
    assert verify(damaged).says == "BPF_LDX uses reserved fields"


#: What Linux 6.1 lacks and 6.12 has, and its words for it.
NEWER = [
    ("bswap", "r0 = 1; r0 = bswap16 r0; exit", "unknown opcode d7"),
    ("a signed load", "*(u64 *)(r10 - 8) = 1; r0 = *(s8 *)(r10 - 8); exit", "BPF_LDX uses reserved fields"),
    ("a signed move", "r1 = 1; r0 = (s8)r1; exit", "BPF_MOV uses reserved fields"),
    ("signed division", "r0 = 7; r0 s/= 2; exit", "BPF_ALU uses reserved fields"),
    ("a long jump", "gotol +0; r0 = 1; exit", "unknown opcode 06"),
]


@pytest.mark.parametrize(("name", "text", "says"), NEWER, ids=lambda x: str(x).replace(" ", "-"))
def test_linux_6_1_refuses_what_it_lacks(name: str, text: str, says: str) -> None:
    code = code_of(Row(name, text))
    assert verify(code, rules=RULES["6.1"]).says == says
    assert verify(code, rules=RULES["6.12"]).accepted


LINKED = "call 7; r0 &= 255; r1 = r0; r1 += 4; if r1 < 10 goto l; r2 = r0; if r1 < 14 goto l; if r0 >= 10 goto l; r10 = 0; l: r0 = 0; exit"
APART = "call 7; w0 = w0; r0 >>= 30; r0 <<= 30; r1 = r0; r1 += 1024; if r1 != r0 goto +1; r10 = 0; r0 = 0; exit"
#: What 6.12 refuses and 6.18 does not, and its words; both know that numbers whose bits differ are not equal.
STRICTER = [
    ("a may_goto to what follows", "may_goto +0; r0 = 1; exit", "invalid may_goto off 0 imm 0"),
    ("a copy of what was learnt by a difference", LINKED, "frame pointer is read only"),
    ("bits that differ", APART, ""),
]


@pytest.mark.parametrize(("name", "text", "says"), STRICTER, ids=lambda x: str(x).replace(" ", "-")[:40])
def test_linux_6_12_refuses_what_6_18_does_not(name: str, text: str, says: str) -> None:
    code = code_of(Row(name, text))
    assert verify(code, rules=RULES["6.12"]).says == says
    assert verify(code, rules=RULES["6.18"]).accepted


def test_a_helper_newer_than_the_version_is_refused() -> None:
    code = code_of(Row("cgrp_storage_delete", "r1 = MAP ll; r2 = 0; call 211; r0 = 0; exit", type=ProgType.CGROUP_SKB))
    assert verify(code, rules=RULES["6.1"]).says == "invalid func unknown#211"
    assert not verify(code, rules=RULES["6.12"]).says.startswith("invalid func")


@pytest.mark.parametrize("text", ["r0 = 2; exit", "r0 = r3; exit"], ids=["accepted", "refused"])
@pytest.mark.parametrize("enabled", [True, False], ids=["on", "off"])
def test_the_collector_of_cycles_is_left_as_it_was(text: str, enabled: bool) -> None:
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        words_of(Row("", text))
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()
