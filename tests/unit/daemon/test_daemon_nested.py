"""Maps in maps that clients exchange while others run programs on them and are killed: no map lost, none left over, counts exact."""

import os
import random
import signal
import time
from functools import partial

import pytest

from ebpf.isa import Insn, asm, encode
from ebpf.kernels.remote import RemoteKernel
from ebpf.sys.calls import FdById, MapCreate, MapDelete, MapLookup, MapUpdate, ObjGet, ObjPin, ProgLoad, ProgTestRun
from ebpf.uapi import Cmd, MapType, ProgType
from support.daemon import wait_for
from support.processes import fork, may_be_missing

PATIENCE_S = 60
SLOTS, ROUNDS = 6, 40
INNER = MapCreate(MapType.ARRAY, 4, 8, 1, name="inner")
PIN = "/sys/fs/bpf/outer"


def number(value: int) -> bytes:
    return value.to_bytes(4, "little")


def counting(outer: int, slot: int) -> ProgLoad:
    """Adds 1 to the only value of the map that is in a slot, if there is one; says with 2 that it did."""
    insns = [
        *asm(f"*(u32 *)(r10 - 4) = {slot}\n*(u32 *)(r10 - 8) = 0\nr2 = r10\nr2 += -4"),
        Insn(0x18, 1, 1, imm=outer),
        *asm("call 1\nif r0 != 0 goto there\nr0 = 1\nexit\nthere:\nr1 = r0\nr2 = r10\nr2 += -8\ncall 1"),
        *asm("if r0 != 0 goto found\nr0 = 1\nexit\nfound:\nr1 = 1\nlock *(u64 *)(r0 + 0) += r1\nr0 = 2\nexit"),
    ]
    return ProgLoad(ProgType.XDP, encode(insns), "GPL", "counting")


def exchange(seed: int, ready: int) -> None:
    """Put new maps into slots, take them out, and run programs on whatever is there, until killed."""
    drawn, kernel = random.Random(seed), RemoteKernel()
    outer = kernel.bpf(ObjGet(PIN))
    programs = [kernel.bpf(counting(outer, slot)).fd for slot in range(1, SLOTS)]
    os.write(ready, b"x")
    while True:
        slot = drawn.randrange(1, SLOTS)
        what = drawn.randrange(3)
        if what == 0:
            inner = kernel.bpf(INNER)
            kernel.bpf(MapUpdate(outer, number(slot), number(inner)))
            kernel.close(inner)
        elif what == 1:
            with may_be_missing():
                kernel.bpf(MapDelete(outer, number(slot)))
        else:
            kernel.bpf(ProgTestRun(programs[slot - 1], bytes(64), repeat=drawn.choice((1, 2000))))


def count_exactly(ready: int) -> None:
    """Count in the slot that nobody else touches."""
    kernel = RemoteKernel()
    program = kernel.bpf(counting(kernel.bpf(ObjGet(PIN)), 0)).fd
    os.write(ready, b"x")
    for _ in range(ROUNDS):
        assert kernel.bpf(ProgTestRun(program, bytes(64), repeat=1000)).retval == 2


@pytest.mark.parametrize("kind", [MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS])
def test_maps_in_maps_stay_whole_whoever_is_killed(kind: MapType) -> None:
    drawn = random.Random(1)
    with RemoteKernel() as kernel:
        template = kernel.bpf(INNER)
        outer = kernel.bpf(MapCreate(kind, 4, 4, SLOTS, name="outer", inner_map_fd=template))
        kernel.bpf(ObjPin(PIN, outer))
        kernel.bpf(MapUpdate(outer, number(0), number(template)))
        read_end, write_end = os.pipe()
        steady = fork(partial(count_exactly, write_end))
        for round_ in range(5):
            pids = [fork(partial(exchange, 10 * round_ + n, write_end)) for n in range(2)]
            time.sleep(drawn.uniform(0.05, 0.2))
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
                assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        assert os.waitpid(steady, 0)[1] == 0
        for fd in (read_end, write_end):
            os.close(fd)
        assert int.from_bytes(kernel.bpf(MapLookup(template, number(0), 8)), "little") == 1000 * ROUNDS
        there = 0
        for slot in range(SLOTS):
            with may_be_missing():
                found = kernel.bpf(MapLookup(outer, number(slot), 4))
                there += slot > 0
                inner = kernel.bpf(FdById(Cmd.MAP_GET_FD_BY_ID, int.from_bytes(found, "little")))
                assert len(kernel.bpf(MapLookup(inner, number(0), 8))) == 8
                kernel.close(inner)
        wait_for(lambda: kernel.status()["maps"] == 2 + there, PATIENCE_S)
        for slot in range(1, SLOTS):
            with may_be_missing():
                kernel.bpf(MapDelete(outer, number(slot)))
        wait_for(lambda: (kernel.status()["maps"], kernel.status()["programs"], kernel.status()["clients"]) == (2, 0, 1), PATIENCE_S)
        assert kernel.bpf(counting(outer, 3)).fd >= 0
