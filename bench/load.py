"""Loading: parse, relocate and load an object with CO-RE, ours and libbpf's in the same run; and from process start.

    python bench/load.py [--rounds N] [--steps N] [--debian] [--complete] [OBJECT.o ...]

The object of the comparison is made here: one program of about 4,000 instructions with a CO-RE record in every thirty. "start" is a
process that loads and attaches a small object that is compiled already. With OBJECTs the tags of each program by either loader are
compared instead (as root, with Debian's libbpf); --debian takes those that programs of Debian's libbpf-tools, pcp and libknot13 carry;
--complete gives maps the sizes, and sections that say no type the type, that user space would set.
"""

import argparse
import ctypes
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import EbpfError
from ebpf.kernels import open_kernel
from ebpf.object import Collection
from support import libbpf

HEAD = """
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
char LICENSE[] SEC("license") = "GPL";
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 64); __type(key, int); __type(value, long); } table SEC(".maps");
"""
STEP = """
    task = (struct task_struct *)bpf_get_current_task();
    key = BPF_CORE_READ(task, real_parent, tgid) + {i};
    sum += BPF_CORE_READ(task, {field}); value = bpf_map_lookup_elem(&table, &key); if (value) __sync_fetch_and_add(value, sum);
"""
FIELDS = ("pid", "tgid", "prio", "static_prio", "flags", "start_time")
SMALL = HEAD + 'SEC("tp/syscalls/sys_enter_getpgid") int small(void *ctx) { return 0; }\n'
START = """
import re, sys
from ebpf.attach import by_section
from ebpf.elf import read_object
from ebpf.kernels import open_kernel
from ebpf.object import Collection
with open(sys.argv[1], "rb") as file:
    spec = read_object(file.read(), sys.argv[1])
kernel = open_kernel("linux")
collection = Collection.load(spec, kernel)
link = by_section(collection.programs["small"])
# Not ru_maxrss, which begins with that of the process that forked us.
print(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1], flush=True)
link.close(); collection.close()
"""


def large(steps: int) -> bytes:
    """An object whose one program has `steps` pieces of about 30 instructions."""
    body = "".join(STEP.format(i=i, field=FIELDS[i % len(FIELDS)]) for i in range(steps))
    text = (
        HEAD
        + 'SEC("raw_tp/sys_enter") int big(void *ctx) { struct task_struct *task; int key; long sum = 0, *value;'
        + body
        + "return 0; }\n"
    )
    return compile_c("big.bpf.c", text=text).object


def ours(path: str) -> float:
    """Seconds to parse, relocate and load."""
    begin = time.perf_counter()
    with open(path, "rb") as file:
        spec = read_object(file.read(), path)
    with open_kernel("linux") as kernel, Collection.load(spec, kernel):
        return time.perf_counter() - begin


def theirs(lib: ctypes.CDLL, path: str) -> float:
    """The same by libbpf."""
    begin = time.perf_counter()
    held = lib.bpf_object__open_file(path.encode(), None)
    assert lib.bpf_object__load(held) == 0
    took = time.perf_counter() - begin
    lib.bpf_object__close(held)
    return took


def start(path: str) -> tuple[float, float]:
    """Seconds from process start to attached, and its largest resident set in MB."""
    begin = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", START, path], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        size = int(child.stdout.readline())
        took = time.perf_counter() - begin
    return took, size / 1024


def compare(lib: ctypes.CDLL, paths: list[str], *, complete: bool) -> int:
    """Load each program of each object by either loader; how many come out differently."""
    same = refused = different = 0
    for path in paths:
        try:
            spec = read_object(Path(path).read_bytes(), path)
        except EbpfError as error:
            opened = lib.bpf_object__open_file(path.encode(), None)
            different += bool(opened)
            print(f"{error}; libbpf {'opens it' if opened else 'does not open it either'}")
            continue
        if complete:
            spec = libbpf.completed(spec)
        with open_kernel("linux") as kernel:
            for name, verdict in libbpf.verdicts(lib, path, complete=complete).items():
                try:
                    with Collection.load(spec, kernel, programs=[name], load=False) as held:
                        held.programs[name].load()
                        tag, number = held.programs[name].info().tag.hex(), 0
                except EbpfError as error:
                    tag, number = "", error.errno
                if (tag, number) == (verdict.tag, verdict.errno):
                    same, refused = same + (not number), refused + bool(number)
                else:
                    different += 1
                    print(f"{path}: {name}: ours {tag or number}, libbpf's {verdict.tag or verdict.errno}")
    print(f"{len(paths)} objects: {same} programs with libbpf's tag, {refused} refused with libbpf's number, {different} different")
    return different


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--debian", action="store_true")
    parser.add_argument("--complete", action="store_true")
    parser.add_argument("objects", nargs="*")
    options = parser.parse_args()
    lib = libbpf.library()
    if lib is None:
        print("libbpf.so.1 is not installed: nothing to compare with", file=sys.stderr)
        return 2
    if options.debian:
        from bench.agreement.corpus import embedded_objects

        options.objects += [str(path) for _, path in embedded_objects()]
    if options.objects:
        return int(compare(lib, options.objects, complete=options.complete) > 0)
    with tempfile.TemporaryDirectory() as folder:
        big, small = Path(folder) / "big.bpf.o", Path(folder) / "small.bpf.o"
        big.write_bytes(large(options.steps))
        small.write_bytes(compile_c("small.bpf.c", text=SMALL).object)
        spec = read_object(big.read_bytes())
        (program,) = spec.programs.values()
        rows = [(ours(str(big)), theirs(lib, str(big))) for _ in range(options.rounds)]
        mine, his = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"{len(program.insns) // 8} instructions, {len(program.core_relocs)} CO-RE records (median of {options.rounds})")
        print(f"ours {mine * 1000:.1f} ms, libbpf {his * 1000:.1f} ms: {mine / his:.2f} times")
        starts = [start(str(small)) for _ in range(options.rounds)]
        print(f"process start to attached: {statistics.median(s for s, _ in starts) * 1000:.0f} ms, {max(m for _, m in starts):.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
