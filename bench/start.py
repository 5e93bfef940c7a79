"""From process start to the first traced line of hello world, cold and warm, and the largest resident set of any process.

    python bench/start.py [--rounds N]

Cold: our caches are empty, files are in the page cache. Warm: it ran before. Peers in the same run where they are installed:
bpftrace (a tracepoint, as root).
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HELLO = Path(__file__).parents[1] / "examples" / "hello.py"


def measure(command: list[str], env: dict[str, str]) -> tuple[float, float]:
    """One start, in a process of its own so that its children's memory can be told."""
    script = (
        "import resource, subprocess, sys, time\n"
        "begin = time.monotonic()\n"
        "child = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); took = time.monotonic() - begin\n"
        "child.stdout.read(); child.wait()\n"
        "print(took, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)\n"
    )
    answer = subprocess.run([sys.executable, "-c", script, *command], env=env, capture_output=True, text=True, check=True)
    took, size = answer.stdout.split()
    return float(took), float(size)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    kernels = ["user"] + (["linux"] if os.geteuid() == 0 else [])
    print(f"{'':<24}{'first line, s':>16}{'largest process, MB':>22}   (median of {rounds})")
    for kernel in kernels:
        command = [sys.executable, "-m", "ebpf", "--kernel", kernel, "run", str(HELLO), "--", "/bin/true"]
        measure(command, env)
        for name in ("cold", "warm"):
            rows = []
            for _ in range(rounds):
                with tempfile.TemporaryDirectory() as empty:
                    rows.append(measure(command, {**env, "XDG_CACHE_HOME": empty} if name == "cold" else env))
            print(f"{kernel + ', ' + name:<24}{statistics.median(r[0] for r in rows):>16.3f}{max(r[1] for r in rows):>22.0f}")
    if shutil.which("bpftrace") and os.geteuid() == 0:
        command = ["bpftrace", "-e", 'BEGIN { printf("x\\n"); exit(); }']
        rows = [measure(command, env) for _ in range(rounds)]
        print(f"{'bpftrace BEGIN':<24}{statistics.median(r[0] for r in rows):>16.3f}{max(r[1] for r in rows):>22.0f}")


if __name__ == "__main__":
    main()
