"""What maps cost from Python: one look-up by key, one update, and a million elements at once.

python bench/maps.py [--kernel user|linux] [--rounds N]
"""

import argparse
import statistics
import time
from collections.abc import Callable

from ebpf.btf import Classes
from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.kernels import open_kernel
from ebpf.object import Collection, Map

try:
    import pyarrow
except ImportError:
    pyarrow = None

MILLION = 1 << 20
SOURCE = f"""
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct pair {{ __u64 packets; __u32 last; __u32 first; }};
#define MAP(type_, name, value_) \\
    struct {{ __uint(type, type_); __uint(max_entries, {MILLION}); __type(key, __u32); __type(value, value_); }} name SEC(".maps");
struct {{ __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 1024); __type(key, __u32); __type(value, __u64); }} small SEC(".maps");
MAP(BPF_MAP_TYPE_HASH, hash, __u64)
MAP(BPF_MAP_TYPE_ARRAY, array, __u64)
MAP(BPF_MAP_TYPE_HASH, pairs, struct pair)
char LICENSE[] SEC("license") = "GPL";
"""


def each_ns(work: Callable[[int], object], count: int) -> float:
    begin = time.thread_time_ns()
    for key in range(count):
        work(key)
    return (time.thread_time_ns() - begin) / count


def whole_ms(work: Callable[[], object]) -> float:
    begin = time.thread_time_ns()
    work()
    return (time.thread_time_ns() - begin) / 1e6


def single(row: Callable[..., None], name: str, table: Map, count: int, empty: float) -> None:
    raw, most = table.raw, table.spec.max_entries
    keys = [(key % most).to_bytes(4, "little") for key in range(count)]
    row(f"{name}[number]", "ns", lambda: each_ns(lambda key: table[key % most], count) - empty)
    row(f"{name}.raw[bytes]", "ns", lambda: each_ns(lambda key: raw[keys[key]], count) - empty)
    row(f"{name}.lookup(bytes)", "ns", lambda: each_ns(lambda key: table.lookup(keys[key]), count // 10) - empty)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kernel", default="user")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=200_000)
    words = parser.parse_args()

    def row(name: str, unit: str, measure: Callable[[], float]) -> None:
        values = [measure() for _ in range(words.rounds)]
        print(f"{name:<46}{statistics.median(values):>10.1f} {unit}   ({min(values):.1f} to {max(values):.1f})")

    spec = read_object(compile_c("maps.bpf.c", text=SOURCE).object, "maps.bpf.o")
    with open_kernel(words.kernel) as kernel, Collection.load(spec, kernel) as held:
        assert isinstance(held.types, Classes)
        pair = held.types.find("pair")
        hash_, array, pairs = (held.maps[name] for name in ("hash", "array", "pairs"))
        for key in range(0, MILLION, 1 << 16):
            part = range(key, key + (1 << 16))
            names = b"".join(k.to_bytes(4, "little") for k in part)
            hash_.put_batch(names, b"".join(k.to_bytes(8, "little") for k in part))
            pairs.put_batch(names, b"".join(k.to_bytes(16, "little") for k in part))
        empty = each_ns(lambda key: None, words.count)
        print(f"a loop with a call of a function that does nothing: {empty:.0f} ns, taken off below")
        small = held.maps["small"]
        for key in range(1024):
            small[key] = key
        for name, table in (("small hash", small), ("hash", hash_), ("array", array)):
            single(row, name, table, words.count, empty)
        row("hash[number] of a struct", "ns", lambda: each_ns(pairs.__getitem__, words.count // 4) - empty)
        row("hash[number] = number", "ns", lambda: each_ns(lambda key: hash_.__setitem__(key, key), words.count // 10) - empty)
        row("hash[number] = struct", "ns", lambda: each_ns(lambda key: pairs.__setitem__(key, pair(1, 2, 3)), words.count // 10) - empty)
        for name in ("hash", "array", "pairs"):
            table = held.maps[name]
            row(f"{name}: all {MILLION:,} in columns", "ms", lambda table=table: whole_ms(table.columns))
            if pyarrow is not None:
                row(f"{name}: all {MILLION:,} to pyarrow", "ms", lambda table=table: whole_ms(lambda: pyarrow.table(table)))


if __name__ == "__main__":
    main()
