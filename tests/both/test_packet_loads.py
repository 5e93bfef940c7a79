"""LD_ABS and LD_IND: numbers of the packet, and the end of the function where there are none; in both engines as on Linux."""

import struct

import pytest

from ebpf.isa import Insn, asm, encode
from ebpf.sys.calls import ProgLoad, ProgTestRun
from ebpf.sys.kernel import Kernel
from ebpf.uapi import ProgType

PACKET = bytes(range(1, 61)) + b"\xf0\xf1\xf2\xf3"
ABS = {1: 0x30, 2: 0x28, 4: 0x20}
IND = {1: 0x50, 2: 0x48, 4: 0x40}
NETWORK, LINK = -0x100000, -0x200000


def run(kernel: Kernel, kind: ProgType, *body: Insn) -> int:
    """The result of a program whose r6 is the context."""
    insns = [*asm("r6 = r1\nr0 = 7"), *body, *asm("r0 += 1000\nexit")]
    fd = kernel.bpf(ProgLoad(prog_type=kind, insns=encode(insns), license="GPL", name="packet")).fd
    try:
        return kernel.bpf(ProgTestRun(fd, PACKET)).retval
    finally:
        kernel.close(fd)


def expected(start: int, offset: int, size: int) -> int:
    """A number in the network's order, or 0 where the program ends at once."""
    at = start + offset
    if at < 0 or at + size > len(PACKET):
        return 0
    return (int.from_bytes(PACKET[at : at + size], "big") + 1000) & 0xFFFFFFFF


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("kind", [ProgType.SCHED_CLS, ProgType.SOCKET_FILTER], ids=["tc", "socket"])
@pytest.mark.usefixtures("engine")
def test_a_number_at_a_fixed_and_at_a_computed_place(kernel: Kernel, kind: ProgType, size: int) -> None:
    start = 0 if kind == ProgType.SCHED_CLS else 14
    last = len(PACKET) - start - size
    for offset in (0, 1, 13, last, last + 1, 5000, 0x7FFFFFFF):
        want = expected(start, offset, size)
        assert run(kernel, kind, Insn(ABS[size], imm=offset)) == want, offset
        by = Insn(0xB7, 7, imm=offset - 3)
        assert run(kernel, kind, by, Insn(IND[size], src=7, imm=3)) == want, offset


@pytest.mark.parametrize("kind", [ProgType.SCHED_CLS, ProgType.SOCKET_FILTER], ids=["tc", "socket"])
@pytest.mark.usefixtures("engine")
def test_places_that_count_from_a_header(kernel: Kernel, kind: ProgType) -> None:
    for base, start in ((NETWORK, 14), (LINK, 0)):
        for offset in (0, 2, 12, 45):
            assert run(kernel, kind, Insn(ABS[4], imm=base + offset)) == expected(start, offset, 4), (base, offset)
    assert run(kernel, kind, Insn(ABS[4], imm=-1)) == 0
    assert run(kernel, kind, Insn(ABS[4], imm=LINK - 1)) == 0


@pytest.mark.usefixtures("engine")
def test_what_is_in_the_registers_of_callers_stays(kernel: Kernel) -> None:
    assert struct.unpack(">I", PACKET[4:8])[0] + 1000 + 5 == run(
        kernel, ProgType.SCHED_CLS, Insn(0xB7, 9, imm=5), Insn(ABS[4], imm=4), Insn(0x0F, 0, 9)
    )
