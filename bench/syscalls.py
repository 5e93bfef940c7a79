"""What watching costs the watched: fork and exec of a traced tree against an untraced one, and a call that nobody asked for.

    python bench/syscalls.py [--rounds N] [--execs N]

Rows: untraced; hooks at entry; hooks at entry and exit; hooks at entry while the script's main thread computes. Each round runs all
four in turn; the figures are medians of the rounds and of the ratios to the same round's untraced run.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ebpf.toolchain import find_clang, run

LOOP = """
long call(long n, long a, long b, long c) {
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return r;
}
static char *path = "/bin/true";
static long number(char *s) { long n = 0; while (*s) n = n * 10 + *s++ - '0'; return n; }
void start(long *stack) {
    char **argv = (char **)(stack + 1);
    long n = number(argv[2]);
    if (argv[1][0] == 'e')
        for (long i = 0; i < n; i++) {
            long pid = call(57, 0, 0, 0);
            if (!pid) {
                char *words[] = {path, 0};
                call(59, (long)path, (long)words, 0);
                call(60, 1, 0, 0);
            }
            call(61, pid, 0, 0);
        }
    else
        for (long i = 0; i < n; i++)
            call(110, 0, 0, 0);
    call(231, 0, 0, 0);
}
__asm__(".globl _start\\n_start: mov %rsp, %rdi\\n and $-16, %rsp\\n call start\\n");
"""
SCRIPT = """
from bcc import BPF
b = BPF(text='int f(void *ctx) {{ return 0; }} int g(void *ctx) {{ return 0; }}')
b.attach_kprobe(event=b.get_syscall_fnname("execve"), fn_name="f")
{exits}
import time
try:
    time.sleep(0)
    while True:
        {wait}
except KeyboardInterrupt:
    pass
"""
EXITS = 'b.attach_kretprobe(event=b.get_syscall_fnname("execve"), fn_name="g")'


def build(folder: Path) -> Path:
    """The tree that is watched: a program of a few instructions that forks, execs and waits, or calls getppid."""
    clang = find_clang(None)
    source, out, target = folder / "loop.c", folder / "loop.o", folder / "loop"
    source.write_text(LOOP)
    for step in (
        [*clang.command, "-target", "x86_64-linux-gnu", "-O2", "-ffreestanding", "-fno-stack-protector", "-c", str(source), "-o", str(out)],
        [*clang.linker, "-o", str(target), str(out)],
    ):
        answer = run(step)
        if answer.returncode:
            sys.exit(answer.stderr.decode())
    return target


def timed(command: list[str], inner: Path) -> float:
    """The time of the tree itself: it is wrapped in a shell that notes the clock around it."""
    script = f's=$(date +%s%N); "$@"; e=$(date +%s%N); echo $((e - s)) > {inner}'
    subprocess.run([*command[: command.index("--") + 1], "/bin/sh", "-c", script, "sh", *command[command.index("--") + 1 :]], check=True)
    return int(inner.read_text()) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--execs", type=int, default=1000)
    parser.add_argument("--calls", type=int, default=2_000_000)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loop, inner = build(folder), folder / "time"
        texts = {
            "entry": ("", "time.sleep(1)"),
            "entry and exit": (EXITS, "time.sleep(1)"),
            "entry, script computes": ("", "sum(range(1000))"),
        }
        ebpf = [sys.executable, "-m", "ebpf", "--kernel", "user", "run"]
        plain: list[str] = ["env", "--"]
        cases: dict[str, list[str]] = {"untraced": plain}
        for place, (title, (exits, wait)) in enumerate(texts.items()):
            script = folder / f"s{place}.py"
            script.write_text(SCRIPT.format(exits=exits, wait=wait))
            cases[title] = [*ebpf, str(script), "--"]
        table("fork + exec", "us", words.execs, 1e6, words.rounds, cases, lambda c: timed([*c, str(loop), "e", str(words.execs)], inner))
        two = {"untraced": plain, "under a filter for execve": cases["entry"]}
        table("getppid", "ns", words.calls, 1e9, words.rounds, two, lambda c: timed([*c, str(loop), "g", str(words.calls)], inner))


def table(
    what: str, unit: str, count: int, scale: float, rounds: int, cases: dict[str, list[str]], once: Callable[[list[str]], float]
) -> None:
    """Run each case in turn, `rounds` times, and print medians."""
    times: dict[str, list[float]] = {title: [] for title in cases}
    for _ in range(rounds):
        for title, command in cases.items():
            times[title].append(once(command) / count * scale)
    print(f"{what:<28}{unit + ' each':>12}{'ratio':>8}{'more, ' + unit:>12}   (medians of {rounds})")
    base = times["untraced"]
    for title, row in times.items():
        ratio = statistics.median(a / b for a, b in zip(row, base, strict=True))
        more = statistics.median(a - b for a, b in zip(row, base, strict=True))
        print(f"{title:<28}{statistics.median(row):>12.1f}{ratio:>8.2f}{more:>12.1f}")


if __name__ == "__main__":
    started = time.monotonic()
    main()
    print(f"in {time.monotonic() - started:.0f} s on {os.cpu_count()} processors")
