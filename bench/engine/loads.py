"""What loading costs: the first time, from the cache, and what a thousand loads leave behind. Each in a process of its own."""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

SMALL = """
r6 = *(u32 *)(r1 + 0)
r7 = *(u32 *)(r1 + 4)
r0 = 1
r2 = r6
r2 += 34
if r2 > r7 goto +13
r3 = *(u16 *)(r6 + 12)
if r3 != 8 goto +11
r4 = *(u8 *)(r6 + 23)
r5 = {number}
*(u32 *)(r10 - 4) = r4
r5 ^= r4
r5 <<= 2
r5 &= 63
r0 = 2
if r5 > 40 goto +3
if r4 != 6 goto +2
r0 = *(u8 *)(r6 + 30)
r0 &= 3
exit
"""
_WANTED = {
    "20 instructions, first": 15,
    "20 instructions, from the cache": 1,
    "4,000 instructions, first": 500,
    "4,000 instructions, from the cache": 1,
}
_LOADS = 1000


def table(rounds: int) -> None:
    rows = [_ask("times") for _ in range(min(rounds, 7))]
    print(f"{'':<36}{'whole load, ms':>16}{'of it verified':>16}")
    for place, line in enumerate(rows[0]):
        name = line[0]
        whole, judged = (statistics.median(float(row[place][at]) for row in rows) for at in (1, 2))
        aim = f"   (wanted: <= {_WANTED[name]})" if name in _WANTED else ""
        print(f"{name:<36}{whole:>16.2f}{judged:>16.2f}{aim}")
    grown = _ask("leak")[0][1]
    print(f"{_LOADS} loads, compiled each, leave {float(grown):.0f} KB behind   (wanted: < 1024)")


def _ask(what: str) -> list[list[str]]:
    with tempfile.TemporaryDirectory() as cache:
        answer = subprocess.run(
            [sys.executable, "-m", "bench.engine.loads", what],
            env={**os.environ, "XDG_CACHE_HOME": cache},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return [line.split("|") for line in answer.stdout.splitlines()]


def _child() -> None:
    """Times are this thread's CPU time: the machine may have other work."""
    import ebpf.engine.verifier as verifier
    from ebpf.compile import compile_c
    from ebpf.elf import read_object
    from ebpf.engine.jit import warm_up
    from ebpf.isa import asm, encode
    from ebpf.kernels.user.kernel import UserKernel
    from ebpf.object import Collection
    from ebpf.sys.calls import ProgLoad
    from ebpf.uapi import ProgType

    what = argparse.ArgumentParser()
    what.add_argument("what")
    kernel = UserKernel()

    def judge(code: bytes) -> tuple[int, float, float]:
        """A program's descriptor, milliseconds of the load, and of the verifier in it."""
        begin = time.thread_time()
        fd = kernel.bpf(ProgLoad(prog_type=ProgType.XDP, insns=code, license="GPL", name="timed")).fd
        whole = time.thread_time() - begin
        return fd, whole * 1e3, spent.pop() * 1e3 if spent else 0.0

    spent: list[float] = []
    verify = verifier.verify

    def timed(*args, **kwargs):
        begin = time.thread_time()
        try:
            return verify(*args, **kwargs)
        finally:
            spent.append(time.thread_time() - begin)

    verifier.verify = timed
    warm_up()
    small = [encode(asm(SMALL.format(number=number))) for number in range(_LOADS + 40)]
    if what.parse_args().what == "leak":
        for code in small[:40]:
            kernel.close(judge(code)[0])
        before = _resident()
        for code in small[40:]:
            kernel.close(judge(code)[0])
        print(f"leak|{_resident() - before}")
        return
    judge(small[0])
    print("20 instructions, first|{}|{}".format(*judge(small[1])[1:]))
    judge(small[1])
    print("20 instructions, from the cache|{}|{}".format(*judge(small[1])[1:]))
    large = read_object(compile_c(str(Path(__file__).with_name("large.c")), flags=["-O2"]).object)
    os.environ["EBPF_ENGINE"] = "interp"
    with Collection.load(large, kernel) as collection:
        del os.environ["EBPF_ENGINE"]
        spent.clear()
        code = collection.programs["large"].insns
        for name in ("first", "from the cache"):
            print("4,000 instructions, {}|{}|{}".format(name, *judge(code)[1:]))
            for thread in threading.enumerate():
                if thread.name == "ebpf-jit":
                    thread.join()


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4


if __name__ == "__main__":
    _child()
