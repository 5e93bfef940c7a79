"""Dynptrs: what may be done with them, and Linux's words where it may not; Linux is asked the same."""

from dataclasses import dataclass

import pytest

from ebpf.engine.program import Code, MapDesc, Verdict
from ebpf.engine.verifier import verify
from ebpf.errors import KernelError
from ebpf.isa import Insn, asm, encode
from ebpf.kernels import open_kernel
from ebpf.sys.calls import MapCreate, ProgLoad
from ebpf.uapi import MapType, ProgType

AREA, RING = 5, 6
#: r6 is a map's value of 64 bytes.
VALUE = "*(u32 *)(r10 - 4) = 0; r2 = r10; r2 += -4; r1 = AREA ll; call 1; r6 = r0; "
LOCAL = VALUE + "r1 = r6; r2 = 64; r3 = 0; r4 = r10; r4 += -24; call 197; "
RESERVE = "r1 = RING ll; r2 = 16; r3 = 0; r4 = r10; r4 += -24; call 198; "
SUBMIT = "r1 = r10; r1 += -24; r2 = 0; call 199; "
DATA = "r1 = r10; r1 += -24; r2 = 0; r3 = 8; call 203; "
END = "r0 = 0; exit"


@dataclass(frozen=True)
class Row:
    """A program, and the last line of Linux's words ("": accepted)."""

    name: str
    text: str
    says: str = ""


ROWS = [
    Row("of a map's value", LOCAL + END),
    Row("of the stack", "r1 = r10; r1 += -32; r2 = 8; r3 = 0; r4 = r10; r4 += -24; call 197; " + END, "Unsupported reg type fp for bpf_dynptr_from_mem data"),
    Row("reserved and submitted", RESERVE + SUBMIT + END),
    Row("reserved and left", RESERVE + END, "BPF_EXIT instruction in main prog would lead to reference leak"),
    Row("submitted twice", RESERVE + SUBMIT + SUBMIT + END, "arg 1 is an unacquired reference"),
    Row("a local one submitted", LOCAL + SUBMIT + END, "arg 1 is an unacquired reference"),
    Row("never made", DATA + END, "Expected an initialized dynptr as arg #0"),
    Row("its second half", LOCAL + "r1 = r10; r1 += -16; r2 = 0; r3 = 8; call 203; " + END, "Expected an initialized dynptr as arg #0"),
    Row("at an odd place", LOCAL + "r1 = r10; r1 += -20; r2 = 0; r3 = 8; call 203; " + END, "Expected an initialized dynptr as arg #0"),
    Row("made beyond the frame", VALUE + "r1 = r6; r2 = 64; r3 = 0; r4 = r10; r4 += -8; call 197; " + END, "Dynptr has to be an uninitialized dynptr"),
    Row("its memory is tested", LOCAL + DATA + "if r0 == 0 goto +1; *(u64 *)(r0 + 0) = 1; " + END),
    Row("its memory may be null", LOCAL + DATA + "*(u64 *)(r0 + 0) = 1; " + END, "R0 invalid mem access 'mem_or_null'"),
    Row("past its memory", LOCAL + DATA + "if r0 == 0 goto +1; *(u64 *)(r0 + 4) = 1; " + END, "R0 min value is outside of the allowed memory range"),
    Row("its memory after the dynptr was overwritten", LOCAL + DATA + "if r0 == 0 goto +2; *(u64 *)(r10 - 24) = 1; *(u64 *)(r0 + 0) = 1; " + END, "R0 invalid mem access 'scalar'"),
    Row("a ring's memory after it was submitted", RESERVE + DATA + "r7 = r0; " + SUBMIT + "if r7 == 0 goto +1; *(u64 *)(r7 + 0) = 1; " + END, "R7 invalid mem access 'scalar'"),
    Row("a ring's overwritten", RESERVE + "*(u8 *)(r10 - 20) = 1; " + SUBMIT + END, "cannot overwrite referenced dynptr"),
    Row("read as bytes", LOCAL + "r0 = *(u64 *)(r10 - 24); " + END, "invalid read from stack off -24+0 size 8"),
    Row("made twice at one place", LOCAL + "r1 = r6; r2 = 8; r3 = 0; r4 = r10; r4 += -16; call 197; " + END),
    Row("used where another half was made anew", LOCAL + "r1 = r6; r2 = 8; r3 = 0; r4 = r10; r4 += -32; call 197; " + DATA + END, "Expected an initialized dynptr as arg #0"),
    Row("as a number", VALUE + "r1 = 7; r2 = 0; r3 = 8; call 203; " + END, "R1 type=scalar expected=fp, dynptr_ptr"),
]  # fmt: skip


def _insns(row: Row, area: int = AREA, ring: int = RING) -> tuple[Insn, ...]:
    text = row.text.replace("call 1; r6 = r0; ", "call 1; if r0 == 0 goto out; r6 = r0; ").replace("exit", "exit; out: r0 = 0; exit", 1)
    text = text.replace("AREA ll", f"map[id:{area}]").replace("RING ll", f"map[id:{ring}]")
    if "goto out" not in text:
        text = text.replace("; out: r0 = 0; exit", "")
    return asm(text.replace("out: ", "out:\n").replace("; ", "\n"))


def _judged(row: Row) -> Verdict:
    maps = {AREA: MapDesc(AREA, MapType.HASH, 4, 64, 1), RING: MapDesc(RING, MapType.RINGBUF, 0, 0, 4096)}
    return verify(Code(_insns(row), int(ProgType.XDP), maps))


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.name.replace(" ", "-"))
def test_dynptrs_are_judged(row: Row) -> None:
    verdict = _judged(row)
    assert not verdict.unknown
    assert verdict.says.split("\n")[-1] == row.says


@pytest.mark.linux
@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.name.replace(" ", "-"))
def test_linux_says_the_same_of_dynptrs(row: Row) -> None:
    with open_kernel("linux") as kernel:
        area = kernel.bpf(MapCreate(int(MapType.HASH), 4, 64, 1))
        ring = kernel.bpf(MapCreate(int(MapType.RINGBUF), 0, 0, 4096))
        try:
            kernel.close(kernel.bpf(ProgLoad(int(ProgType.XDP), encode(_insns(row, area, ring)), "GPL", log_level=1)).fd)
            log = ""
        except KernelError as error:
            log = error.log
        finally:
            kernel.close(area)
            kernel.close(ring)
    said = [line for line in log.splitlines() if not line.startswith("processed ")]
    assert (said[-1] if said else "") == row.says
