"""One piece of memory reached in several ways is one piece of memory, whatever LLVM thinks it knows of the pointers."""

import ctypes
import platform

import pytest

from ebpf.engine.interp import Machine, Memory
from ebpf.engine.jit import compile_image, load_image
from ebpf.engine.program import Prepared
from ebpf.isa import asm

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="machine code is made for x86-64 alone")

SPILLED = """
    r2 = r10
    r2 += -8
    *(u64 *)(r10 - 16) = r2
    *(u64 *)(r10 - 8) = 1
    r3 = *(u64 *)(r10 - 16)
    *(u64 *)(r3 + 0) = 2
    r0 = *(u64 *)(r10 - 8)
    exit
"""
ACROSS_BLOCKS = """
    r2 = r10
    r2 += -8
    *(u64 *)(r10 - 8) = 1
    if r1 == 0 goto +1
    r2 += -8
    *(u64 *)(r2 + 0) = 5
    r0 = *(u64 *)(r10 - 8)
    exit
"""
BY_SUBPROGRAM = """
    *(u64 *)(r10 - 8) = 1
    r1 = r10
    r1 += -8
    call pc+2
    r0 = *(u64 *)(r10 - 8)
    exit
    *(u64 *)(r10 - 8) = 9
    *(u64 *)(r1 + 0) = 7
    exit
"""
FAR = """
    *(u64 *)(r10 - 8) = 3
    r2 = 8
    r3 = r10
    r3 -= r2
    *(u32 *)(r3 + 4) = 4
    r0 = *(u64 *)(r10 - 8)
    r0 >>= 32
    exit
"""
REUSED = """
    r2 = r10
    r2 += -8
    r2 = 0
    r2 = r10
    r2 += -16
    *(u64 *)(r10 - 8) = 1
    *(u64 *)(r10 - 16) = 6
    r0 = *(u64 *)(r2 + 0)
    exit
"""
OVERLAPPING = """
    r6 = r10
    r6 += -64
    r2 = 0
    r3 = r6
    *(u8 *)(r3 + 0) = 1
    r4 = *(u8 *)(r3 + 0)
    r4 += 1
    *(u8 *)(r3 + 1) = r4
    r3 += 1
    r2 += 1
    if r2 < 40 goto -6
    r0 = *(u8 *)(r10 - 24)
    exit
"""
FETCHED = """
    r2 = r10
    r2 += -8
    *(u64 *)(r10 - 8) = 40
    r1 = 2
    lock *(u64 *)(r2 + 0) += r1
    r0 = *(u64 *)(r10 - 8)
    exit
"""


@pytest.mark.parametrize(
    ("text", "result"),
    [
        pytest.param(SPILLED, 2, id="through-a-spilled-pointer"),
        pytest.param(ACROSS_BLOCKS, 5, id="through-a-pointer-from-another-block"),
        pytest.param(BY_SUBPROGRAM, 7, id="by-a-subprogram"),
        pytest.param(FAR, 4, id="at-an-unknown-distance"),
        pytest.param(REUSED, 6, id="through-a-register-that-was-another-pointer"),
        pytest.param(OVERLAPPING, 41, id="a-loop-that-reads-what-it-wrote"),
        pytest.param(FETCHED, 42, id="by-an-atomic"),
    ],
)
def test_a_write_is_seen_however_it_is_read(text: str, result: int) -> None:
    program = Prepared(asm(text), 6)
    code = load_image(*compile_image(program, cache=False))
    run = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p)(code.entry)
    got = int(run(None, None))
    code.close()
    assert (got, Machine(program, Memory(), {}).run()) == (result, result)


@pytest.mark.parametrize("shift", [0, 1, 3, 64])
def test_a_copying_loop_whose_ends_overlap_copies_byte_by_byte(shift: int) -> None:
    text = f"""
        r2 = 0
        r3 = r1
        r4 = *(u8 *)(r3 + 0)
        *(u8 *)(r3 + {shift}) = r4
        r3 += 1
        r2 += 1
        if r2 < 100 goto -5
        r0 = 0
        exit
    """
    code = load_image(*compile_image(Prepared(asm(text), 6), cache=False))
    data = bytearray(range(200))
    memory = ctypes.create_string_buffer(bytes(data), len(data))
    ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p)(code.entry)(ctypes.addressof(memory), None)
    code.close()
    for i in range(100):
        data[i + shift] = data[i]
    assert memory.raw == bytes(data)
