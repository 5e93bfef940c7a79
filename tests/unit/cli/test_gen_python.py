"""`ebpf gen python`: a module whose types a checker accepts and whose values are what it says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")
SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
char LICENSE[] SEC("license") = "GPL";
enum color { RED, GREEN = 5 };
struct pair { short a; unsigned char b; };
struct event { int pid; char comm[16]; enum color color; struct pair pairs[2]; union { int from; long long lambda; }; };
const struct event *unused __attribute__((unused));
const volatile int limit = 3; long total = 1; _Bool on = 1; enum color favourite = GREEN;
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 9); __type(key, struct pair); __type(value, __u64); } counts SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); } events SEC(".maps");
SEC("tc") int emit(struct __sk_buff *skb) {
    struct pair key = {.a = -2, .b = 3}; __u64 one = 1; struct event e = {.pid = skb->len, .comm = "hello", .color = GREEN};
    bpf_map_update_elem(&counts, &key, &one, 0);
    e.pairs[1].a = 7; e.from = limit;
    bpf_ringbuf_output(&events, &e, sizeof(e), 0);
    total += limit;
    return limit;
}
"""
USE = """
from ebpf.events import RingBuffer
from ebpf.kernels import open_kernel
from shop import Event, Color, Pair, Shop, decode

with open_kernel("user") as kernel, Shop(kernel) as shop:
    shop.variables.limit = 40
    shop.attach()
    with RingBuffer(shop.maps.events) as ring:
        answer: int = shop.programs.emit.run(bytes(20)).retval
        event: Event = decode(Event, ring.take(1)[0])
    pairs: tuple[Pair, ...] | None = event.pairs
    assert pairs is not None
    count: int = shop.maps.counts[Pair(a=-2, b=3)]
    total: int = shop.variables.total
    limit: int = shop.variables.limit
    print(answer, event.pid, event.comm, event.color is Color.GREEN, pairs[1].a, count, total, limit, event.lambda_)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gen")
    (folder / "shop.bpf.c").write_text(SOURCE)
    (folder / "use.py").write_text(USE)
    done = subprocess.run(
        [sys.executable, "-m", "ebpf", "gen", "python", "shop.bpf.c"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


def test_what_the_module_gives_is_what_the_stub_says(folder: Path) -> None:
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "use.py"], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout == "40 20 hello True 7 1 41 40 40\n"


def mypy(folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--cache-dir", os.devnull, name]
    source = str(Path(__file__).parents[3] / "src")
    return subprocess.run(command, cwd=folder, env={**os.environ, "MYPYPATH": source}, capture_output=True, text=True, check=False)


def test_a_type_checker_accepts_it_and_finds_mistakes(folder: Path) -> None:
    done = mypy(folder, "use.py")
    assert done.returncode == 0, done.stdout
    (folder / "wrong.py").write_text(
        "from shop import Event, Shop\nshop = Shop()\nshop.variables.limit = 'x'\nshop.programs.emitt\nEvent(pid='x')\nshop.maps.counts[3]\n"
    )
    done = mypy(folder, "wrong.py")
    for line, what in ((3, "str"), (4, "emitt"), (5, "pid"), (6, "Pair")):
        assert any(row.startswith(f"wrong.py:{line}: ") and what in row for row in done.stdout.splitlines()), done.stdout


def test_a_name_that_is_no_module_is_refused(folder: Path) -> None:
    command = [sys.executable, "-m", "ebpf", "gen", "python", "shop.bpf.c", "-o", "shop.txt"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (255, "Error: gen python: 'shop.txt' is no name of a Python module: it ends in .py\n")
