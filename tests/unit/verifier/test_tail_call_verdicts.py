"""Packets after a tail call: they stay where it comes back, and may have moved where the program jumped to returned; Linux is asked the same."""

import struct
from dataclasses import dataclass, replace
from typing import Final

import pytest

from ebpf.btf.build import Builder
from ebpf.engine.program import Code, MapDesc
from ebpf.engine.verifier import RULES, verify
from ebpf.errors import KernelError
from ebpf.isa import asm, encode
from ebpf.kernels import open_kernel
from ebpf.sys.calls import BtfLoad, MapCreate, ProgLoad
from ebpf.uapi import MapType, ProgType

#: r6 is the context, r7 a packet of which 4 bytes are there.
PACKET: Final = "r6 = r1; r7 = *(u32 *)(r1 + 0); r2 = *(u32 *)(r1 + 4); r3 = r7; r3 += 4; if r3 > r2 goto bad; "
JUMP: Final = "r1 = r6; r2 = MAP; r3 = 0; call 12; "
USE: Final = "r0 = *(u32 *)(r7 + 0); exit; bad: r0 = 0; exit; "


@dataclass(frozen=True)
class Row:
    """A program and, after `f:`, its function; Linux's words ("": accepted)."""

    name: str
    text: str
    says: str = ""
    global_: bool = False


ROWS: Final = [
    Row("the program's own packet", PACKET + JUMP + USE),
    Row(
        "the caller's packet", PACKET + "r1 = r6; call f; " + USE + "f: r6 = r1; " + JUMP + "r0 = 0; exit", "R7 invalid mem access 'scalar'"
    ),
    Row("the function's own packet", "call f; exit; f: " + PACKET + JUMP + USE),
    Row(
        "the packet of a global function's caller",
        PACKET + "r1 = r6; call f; " + USE + "f: r6 = r1; " + JUMP + "r0 = 0; exit",
        "R7 invalid mem access 'scalar'",
        global_=True,
    ),
]


def _code(row: Row, fd: int) -> tuple[Code, bytes]:
    """A program as the verifier takes it, and its types."""
    build = Builder()
    number = build.integer("int", 4, signed=True)
    context = build.ptr(build.struct("xdp_md", 24, [("data", number, 0)]))
    types = [build.func(name, build.func_proto(number, [("ctx", context)]), linkage) for name, linkage in (("main", 1), ("f", row.global_))]
    text = row.text.replace("MAP", f"map[id:{fd}]")
    before = text.partition("f: ")[0]
    text = text.replace("; ", "\n").replace("f: ", "f:\n").replace("bad: ", "bad:\n")
    start = sum(insn.slots for insn in asm(before.replace("call f", "call 7").replace("; ", "\n").replace("bad: ", "bad:\n")))
    functions = ((0, types[0]), (start, types[1]))[: 1 + ("f:" in text)]
    maps = {fd: MapDesc(fd, MapType.PROG_ARRAY, 4, 4, 1)}
    code = Code(asm(text), int(ProgType.XDP), maps, "main", True, btf=build.build(), functions=functions)
    return code, build.raw()


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.name.replace(" ", "-"))
def test_packets_after_a_tail_call(row: Row) -> None:
    assert verify(_code(row, 5)[0]).says == row.says


def test_older_linux_forgets_them_in_any_case() -> None:
    assert verify(_code(ROWS[0], 5)[0], rules=RULES["6.12"]).says == "R7 invalid mem access 'scalar'"


@pytest.mark.linux
@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.name.replace(" ", "-"))
def test_linux_says_the_same_of_tail_calls(row: Row) -> None:
    with open_kernel("linux") as kernel:
        fd = kernel.bpf(MapCreate(int(MapType.PROG_ARRAY), 4, 4, 1))
        code, types = _code(row, fd)
        btf = kernel.bpf(BtfLoad(types))
        info = b"".join(struct.pack("<II", *each) for each in code.functions)
        load = ProgLoad(int(ProgType.XDP), encode(code.insns), "GPL", log_level=1, btf_fd=btf, func_info=info, func_info_rec_size=8)
        try:
            kernel.close(kernel.bpf(load).fd)
            said = ""
        except KernelError as error:
            said = error.log or str(error)
    assert (row.says in said) if row.says else not said


#: The number at r10 - 8 is -8 or -1024; a function that may end before overwrites it, then it says where the stack is read.
LEAVES: Final = (
    "r6 = r1; *(u64 *)(r10 - 8) = -8; r3 = 0; r4 = 0; r5 = 0; call 7; if r0 != 42 goto +1; goto +1; *(u64 *)(r10 - 8) = -1024; r1 = r6; "
    "r2 = r10; r2 += -8; call f; r1 = *(u64 *)(r10 - 8); r2 = r10; r2 += r1; r0 = *(u64 *)(r2 + 0); r0 = 0; exit; "
    "f: r6 = r1; r7 = r2; {end}*(u64 *)(r7 + 0) = -16; r0 = 0; exit"
)
ENDS: Final = {"a tail call": ("r2 = MAP; r3 = 0; call 12; ", ProgType.XDP), "a load": ("r0 = *(u8 *)skb[0]; ", ProgType.SCHED_CLS)}


@pytest.mark.parametrize("name", ENDS, ids=lambda name: name.replace(" ", "-"))
def test_what_was_not_written_where_a_function_ended_still_counts(name: str) -> None:
    end, kind = ENDS[name]
    code, _ = _code(Row(name, LEAVES.format(end=end)), 5)
    verdict = verify(replace(code, prog_type=int(kind)))
    assert not verdict.accepted
    assert verdict.says == "invalid read from stack R2 off=-1024 size=8"
    assert verify(_code(Row(name, LEAVES.format(end="")), 5)[0]).accepted
