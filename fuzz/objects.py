"""Damaged objects: ELF and BTF that are flipped, cut, spliced and overwritten end in an error of ours, and quickly.

    python fuzz/objects.py [--runs 200000] [--seed 1] [--keep FOLDER]

What a mutation must do: be read, or raise an EbpfError, within a second and without 200 MB. What was read is relocated too (CO-RE
against its own types). Prints how many ended how; the exit status is 1 if one did not, and the input is kept.
"""

import argparse
import random
import resource
import signal
import struct
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ebpf.btf import Btf
from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import EbpfError
from ebpf.object.relocate import Code
from ebpf.object.resolve import Resolver

LIMIT_S = 1.0
LIMIT_MB = 200
INTERESTING = (0, 1, 2, 4, 7, 8, 0x7F, 0xFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFF8)
HEAD = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
char LICENSE[] SEC("license") = "GPL";
"""
#: Between them they have every section, kind of relocation, kind of map and kind of type.
SOURCES = (
    """
struct a { int x; char name[16]; struct { long y:3; unsigned z:9; }; union { int u; float f; }; enum { RED, GREEN = 5 } e; }
    __attribute__((preserve_access_index));
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 9); __type(key, int); __type(value, struct a); } h SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS); __uint(max_entries, 4); __type(key, __u32);
         __array(values, struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u32); }); }
         outer SEC(".maps");
int counter; const volatile int port = 80; static volatile int hidden; int custom SEC(".data.mine") = 7;
static __attribute__((noinline)) int leaf(int x) { volatile int y = x; return y + hidden; }
static int each(__u32 i, void *ctx) { counter += i; return leaf(i); }
SEC("xdp") int first(struct xdp_md *ctx) {
    int zero = 0; struct a *v = bpf_map_lookup_elem(&h, &zero);
    void *inner = bpf_map_lookup_elem(&outer, &zero);
    bpf_loop(3, each, 0, 0); bpf_printk("%d", counter);
    return v && inner ? v->x + v->z + leaf(port) + custom : 1;
}
SEC("?kprobe/x") int second(void *ctx) {
    struct a *v = ctx; struct a copy = {};
    bpf_core_read(&copy.x, 4, &v->x);
    return bpf_core_field_exists(v->u) + bpf_core_type_size(struct a) + BPF_CORE_READ_BITFIELD_PROBED(v, z) + leaf(copy.x);
}
""",
    """
extern int CONFIG_NET __kconfig __weak;
extern const void runqueues __ksym __weak;
extern void bpf_rcu_read_lock(void) __ksym __weak;
struct node { struct node *next; int (*f)(int, ...); const volatile char *text; int grid[2][3]; };
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, int); __type(value, struct node); } m SEC(".maps");
int tail(struct __sk_buff *skb);
struct { __uint(type, BPF_MAP_TYPE_PROG_ARRAY); __uint(max_entries, 4); __uint(key_size, 4); __array(values, int (void *)); }
    jumps SEC(".maps") = {.values = {[2] = (void *)&tail}};
typedef struct node node_t;
__hidden __attribute__((noinline)) int glob(node_t *n) { return n ? n->grid[1][2] : 0; }
SEC("tc") int tail(struct __sk_buff *skb) {
    int k = 0; node_t *n = bpf_map_lookup_elem(&m, &k);
    bpf_tail_call(skb, &jumps, 2);
    return glob(n) + CONFIG_NET;
}
SEC("tp/x/y") int other(void *ctx) { if (bpf_rcu_read_lock) bpf_rcu_read_lock(); return (long)&runqueues; }
""",
)


class Slow(BaseException):
    """An input took longer than LIMIT_S."""


def corpus() -> list[bytes]:
    """The objects that mutations begin with."""
    return [compile_c(f"c{i}.bpf.c", text=HEAD + source).object for i, source in enumerate(SOURCES)]


def interesting_places(data: bytes) -> list[tuple[int, int]]:
    """(begin, end) of what is worth damaging: the header, the table of sections, and each section."""
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    out = [(0, 64), (table, table + size * count)]
    for number in range(count):
        offset, length = struct.unpack_from("<QQ", data, table + number * size + 24)
        if length and offset + length <= len(data):
            out.append((offset, offset + length))
    return out


def mutate(rng: random.Random, data: bytes, places: Sequence[tuple[int, int]], others: Sequence[bytes]) -> bytes:
    """A damaged copy."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        begin, end = rng.choice(places)
        begin, end = min(begin, len(out)), min(end, len(out))
        if begin >= end:
            continue
        at, kind = rng.randrange(begin, end), rng.randrange(7)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.randrange(256)
        elif kind == 2:
            at &= ~3
            out[at : at + 4] = struct.pack("<I", rng.choice(INTERESTING))[: len(out) - at]
        elif kind == 3:
            at &= ~7
            out[at : at + 8] = struct.pack("<Q", rng.choice(INTERESTING) << rng.choice((0, 0, 16, 32)) & (1 << 64) - 1)[: len(out) - at]
        elif kind == 4:
            other = rng.choice(others)
            start, length = rng.randrange(len(other)), rng.choice((4, 12, 64, 512))
            out[at : at + length] = other[start : start + length]
        elif kind == 5:
            length = rng.choice((1, 4, 8, 24, 64))
            out[at : at + length] = out[begin : begin + length]
        elif rng.random() < 0.3:
            del out[at:]
    return bytes(out)


def carry_out(data: bytes) -> str:
    """Read and relocate an input; how it ended."""
    try:
        spec = read_object(data, "x.bpf.o")
        if spec.btf is not None:
            Btf.parse(spec.btf.raw)
        maps: Any = dict.fromkeys(spec.maps, 3)
        resolver = Resolver(spec, SimpleNamespace(read_file=_no_file, bpf=_no_call), types=spec.btf)  # type: ignore[arg-type]
        for program in spec.programs.values():
            Code(program).relocate(maps, resolver)
    except EbpfError as error:
        if not str(error).isprintable():
            raise ValueError("an error is not one line that can be printed") from error
        return type(error).__name__
    return "read"


def _no_file(path: str) -> bytes:
    raise FileNotFoundError(2, "no such file", path)


def _no_call(call: object) -> int:
    raise EbpfError("no kernel here")


def _on_alarm(*_: object) -> None:
    raise Slow


def campaign(runs: int, seed: int, keep: Path | None = None) -> tuple[Counter[str], list[str]]:
    """Carry out `runs` mutations; how they ended, and what went wrong."""
    rng, objects = random.Random(seed), corpus()
    places = [interesting_places(data) for data in objects]
    ended: Counter[str] = Counter()
    wrong: list[str] = []
    signal.signal(signal.SIGALRM, _on_alarm)
    for number in range(runs):
        which = rng.randrange(len(objects))
        data = mutate(rng, objects[which], places[which], objects)
        signal.setitimer(signal.ITIMER_REAL, LIMIT_S * 20)
        begin = time.process_time()
        try:
            ended[carry_out(data)] += 1
        except (Exception, Slow) as error:  # noqa: BLE001
            wrong.append(f"run {number}: {type(error).__name__}: {error}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if time.process_time() - begin > LIMIT_S:
            wrong.append(f"run {number}: took {time.process_time() - begin:.1f} s of the processor")
        if wrong and wrong[-1].startswith(f"run {number}:") and keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"seed{seed}-run{number}.bpf.o").write_bytes(data)
    return ended, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=None)
    options = parser.parse_args()
    corpus()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    begin = time.monotonic()
    ended, wrong = campaign(options.runs, options.seed, options.keep)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 - before
    print(
        f"{options.runs} mutations in {time.monotonic() - begin:.0f} s, seed {options.seed}: {dict(ended)}; {grown} MB more memory at most"
    )
    if grown > LIMIT_MB:
        wrong.append(f"memory grew by {grown} MB")
    for line in wrong[:20]:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
