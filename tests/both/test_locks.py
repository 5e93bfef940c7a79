"""Locks in values: programs on several threads count exactly, and BPF_F_LOCK reads and writes whole values."""

import struct
import threading

import pytest

from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import KernelError
from ebpf.object import Collection
from ebpf.spec import ObjectSpec
from ebpf.sys.calls import MapLookup, MapLookupAndDelete, MapUpdate
from ebpf.sys.kernel import Kernel
from ebpf.uapi import UpdateFlag

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct account { __u64 first; struct bpf_spin_lock lock; __u32 spare; __u64 second, sum; };
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 2); __type(key, __u32); __type(value, struct account); } array SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 4); __type(key, __u32); __type(value, struct account); } hash SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 4); __type(key, __u32); __type(value, __u64); } bare SEC(".maps");
static __always_inline void move(struct account *a)
{
    bpf_spin_lock(&a->lock);
    __u64 first = a->first, second = a->second;
    a->first = first + 1;
    a->second = second + 2;
    a->sum = a->first + a->second;
    bpf_spin_unlock(&a->lock);
}
SEC("tc") int count(struct __sk_buff *skb)
{
    __u32 key = 1;
    struct account *a = bpf_map_lookup_elem(&array, &key), *h = bpf_map_lookup_elem(&hash, &key);
    if (!a || !h)
        return 1;
    move(a);
    move(h);
    return 0;
}
SEC("tc") int write(struct __sk_buff *skb)
{
    __u32 key = 2;
    struct account value = {.first = 7, .second = 8, .sum = 15};
    long a = bpf_map_update_elem(&hash, &key, &value, BPF_F_LOCK), b = bpf_map_update_elem(&hash, &key, &value, BPF_F_LOCK | BPF_EXIST);
    return a || b;
}
char LICENSE[] SEC("license") = "GPL";
"""
LAYOUT = "<QIIQQ"
ONE = struct.pack("<I", 1)


@pytest.fixture(scope="module")
def spec() -> ObjectSpec:
    return read_object(compile_c("locks.bpf.c", text=SOURCE).object, "locks.o")


def test_threads_that_count_under_a_lock_lose_nothing(kernel: Kernel, spec: ObjectSpec) -> None:
    rounds, threads = 20000, 4
    with Collection.load(spec, kernel) as held:
        held.maps["hash"].update(ONE, bytes(32))
        torn = []
        over = threading.Event()

        def watch(name: str) -> None:
            while not over.is_set():
                raw = kernel.bpf(MapLookup(held.maps[name].fd, ONE, 32, int(UpdateFlag.F_LOCK)))
                first, lock, _, second, sum_ = struct.unpack(LAYOUT, raw)
                if lock or second != 2 * first or sum_ != first + second:
                    torn.append((name, raw))

        workers = [threading.Thread(target=lambda: held.programs["count"].run(bytes(64), repeat=rounds)) for _ in range(threads)]
        watchers = [threading.Thread(target=watch, args=(name,)) for name in ("array", "hash")]
        for thread in watchers + workers:
            thread.start()
        for thread in workers:
            thread.join()
        over.set()
        for thread in watchers:
            thread.join()
        assert torn == []
        for name in ("array", "hash"):
            first, lock, _, second, sum_ = struct.unpack(LAYOUT, held.maps[name].raw[ONE])
            assert (first, lock, second, sum_) == (rounds * threads, 0, 2 * rounds * threads, 3 * rounds * threads)


def test_a_value_is_written_around_its_lock(kernel: Kernel, spec: ObjectSpec) -> None:
    with Collection.load(spec, kernel) as held:
        full, expected = struct.pack(LAYOUT, 1, 0xFFFFFFFF, 2, 3, 4), struct.pack(LAYOUT, 1, 0, 2, 3, 4)
        for name in ("array", "hash"):
            table = held.maps[name]
            for flags in (UpdateFlag.ANY, UpdateFlag.F_LOCK):
                table.update(ONE, bytes(32))
                table.update(ONE, full, flags)
                assert table.lookup(ONE) == table.raw[ONE] == dict(table.raw)[ONE] == expected
                assert kernel.bpf(MapLookup(table.fd, ONE, 32, int(UpdateFlag.F_LOCK))) == expected
        assert held.programs["count"].run(bytes(64)).retval == 0
        assert held.programs["write"].run(bytes(64)).retval == 0
        assert struct.unpack(LAYOUT, held.maps["hash"].raw[struct.pack("<I", 2)]) == (7, 0, 0, 8, 15)
        assert kernel.bpf(MapLookupAndDelete(held.maps["hash"].fd, ONE, 32, int(UpdateFlag.F_LOCK))) == struct.pack(LAYOUT, 2, 0, 2, 5, 7)


@pytest.mark.parametrize("flags", [4, 4 | 1, 4 | 2, 4 | 3, 8])
def test_flags_are_judged_as_linux_does(kernel: Kernel, spec: ObjectSpec, flags: int) -> None:
    with Collection.load(spec, kernel) as held:
        answers = []
        for name, size in (("hash", 32), ("bare", 8), ("array", 32)):
            for _ in range(2):
                try:
                    kernel.bpf(MapUpdate(held.maps[name].fd, ONE, bytes(size), flags))
                    answers.append(0)
                except KernelError as error:
                    answers.append(error.errno)
        new, old, no, there = 0, 0, 22, 17
        assert (
            answers
            == {
                4: [new, old, no, no, 0, 0],
                5: [new, there, no, no, there, there],
                6: [2, 2, no, no, 0, 0],
                7: [no, no, no, no, no, no],
                8: [no, no, no, no, no, no],
            }[flags]
        )
