"""ebpfd under load: 200 clients at once, each 10,000 operations; memory over load/unload pairs; list commands beside bpftool.

python bench/daemon.py [--clients 200] [--operations 10000] [--pairs 100000]
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

from ebpf.kernels.remote import RemoteKernel
from ebpf.sys.calls import MapCreate, MapLookup, MapUpdate, ObjGet, ObjPin, ProgLoad
from ebpf.uapi import MapType, ProgType

PIN = "/sys/fs/bpf/bench"
WORKERS = 10


def clients(many: int, operations: int, first: int) -> tuple[int, list[float]]:
    """Several clients in one process, taking turns; the number of operations, and their times in microseconds."""
    kernels = [RemoteKernel() for _ in range(many)]
    fds = [kernel.bpf(ObjGet(PIN)) for kernel in kernels]
    times: list[float] = []
    done = 0
    for step in range(operations // 2):
        for number, (kernel, fd) in enumerate(zip(kernels, fds, strict=True)):
            key, value = (first + number).to_bytes(4, "little"), step.to_bytes(8, "little")
            began = time.perf_counter()
            kernel.bpf(MapUpdate(fd, key, value))
            between = time.perf_counter()
            answer = kernel.bpf(MapLookup(fd, key, 8))
            times += [(between - began) * 1e6, (time.perf_counter() - between) * 1e6]
            if answer != value:
                raise SystemExit(f"lost: client {first + number} wrote {step} and read {int.from_bytes(answer, 'little')}")
            done += 2
    for kernel in kernels:
        kernel.shutdown()
    times.sort()
    return done, times[:: max(len(times) // 1000, 1)]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--operations", type=int, default=10000)
    parser.add_argument("--pairs", type=int, default=100000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_RUNTIME_DIR"] = folder
        os.environ.pop("EBPF_DAEMON", None)
        with RemoteKernel() as kernel:
            kernel.bpf(ObjPin(PIN, kernel.bpf(MapCreate(MapType.HASH, 4, 8, 4096, name="bench"))))
            workers = min(WORKERS, options.clients)
            each = options.clients // workers
            began = time.monotonic()
            with get_context("spawn").Pool(workers) as pool:
                parts = pool.starmap(clients, [(each, options.operations, n * each) for n in range(workers)])
            took = time.monotonic() - began
            done, times = sum(d for d, _ in parts), sorted(t for _, part in parts for t in part)
            rank = [times[int(len(times) * share)] for share in (0.5, 0.99)]
            print(
                f"{workers * each} clients x {options.operations} operations: {done} done, 0 lost, {done / took / 1000:.1f} k/s, "
                f"p50 {rank[0]:.0f} us, p99 {rank[1]:.0f} us"
            )
            begin = 0
            for pair in range(options.pairs):
                kernel.close(kernel.bpf(ProgLoad(ProgType.XDP, bytes.fromhex("b7000000020000009500000000000000"), "GPL")).fd)
                if pair == options.pairs // 10:
                    begin = int(kernel.status()["resident_bytes"])
            end = int(kernel.status()["resident_bytes"])
            print(f"{options.pairs} loads and unloads: {begin / 1e6:.1f} MB after a tenth, {end / 1e6:.1f} MB at the end")
            lists()
            kernel.unpin(PIN)
            kernel.stop()


def lists() -> None:
    """Time `prog list` and `map list` as whole processes, beside bpftool's where there is one."""
    tool = shutil.which("bpftool") or shutil.which("/usr/sbin/bpftool")
    for noun in ("prog", "map"):
        ours = [_time([sys.executable, "-m", "ebpf", "--kernel", "user", noun, "list"]) for _ in range(15)]
        line = f"{noun} list: {statistics.median(ours):.0f} ms"
        if tool and os.geteuid() == 0:
            theirs = statistics.median(_time([tool, noun, "list"]) for _ in range(15))
            linux = statistics.median(_time([sys.executable, "-m", "ebpf", "--kernel", "linux", noun, "list"]) for _ in range(15))
            line += f" (on Linux's kernel {linux:.0f} ms; bpftool {theirs:.0f} ms: {linux / theirs:.1f} times as long)"
        print(line)


def _time(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).parent)
    return (time.perf_counter() - began) * 1000


if __name__ == "__main__":
    main()
