"""How long commands that list take, from process start to exit, against bpftool's in the same run.

    python bench/commands.py [--rounds N]

Medians, after one round that is not counted. The user kernel's lists come from an ebpfd that runs already.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

TARGET_MS = 80
LISTS = (["prog", "list"], ["map", "list"], ["link", "list"], ["net", "list"], ["btf", "list"])


def measure(command: list[str], env: dict[str, str], rounds: int) -> float:
    """The median of `rounds` runs, in milliseconds."""
    took = []
    for _ in range(rounds + 1):
        begin = time.monotonic()
        subprocess.run(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        took.append((time.monotonic() - begin) * 1000)
    return statistics.median(took[1:])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    bpftool = shutil.which("bpftool", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    kernels = ["user"] + (["linux"] if os.geteuid() == 0 else [])
    with tempfile.TemporaryDirectory() as folder:
        env = {**{k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}, "XDG_RUNTIME_DIR": folder}
        ebpf = [sys.executable, "-m", "ebpf"]
        made = [*ebpf, "--kernel", "user", "map", "create", "/sys/fs/bpf/bench", "type", "hash", "key", "4", "value", "4"]
        subprocess.run([*made, "entries", "4", "name", "bench"], env=env, check=True)
        print(f"python alone: {measure([sys.executable, '-c', 'pass'], env, rounds):.0f} ms; target {TARGET_MS} ms")
        for words in LISTS:
            theirs = measure([bpftool, *words], env, rounds) if bpftool and os.geteuid() == 0 else None
            for kernel in kernels:
                ours = measure([*ebpf, "--kernel", kernel, *words], env, rounds)
                against = f"  {ours / theirs:.0f} x bpftool's {theirs:.1f} ms" if theirs is not None and kernel == "linux" else ""
                print(f"{' '.join(words):<10} {kernel:<6} {ours:6.0f} ms{against}")
        subprocess.run([*ebpf, "daemon", "stop"], env=env, stdout=subprocess.DEVNULL, check=False)


if __name__ == "__main__":
    main()
