"""Programs in C with maps of every type: what they find, write and are refused is the same on both kernels and in both engines."""

import struct
import threading
import time

import pytest

from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import KernelError
from ebpf.kernels import open_kernel
from ebpf.kernels.user.objects import MapObject, ProgramObject
from ebpf.object import Collection, load_program
from ebpf.spec import ObjectSpec
from ebpf.sys.calls import MapCreate, ProgTestRun
from ebpf.sys.kernel import Kernel
from ebpf.uapi import MapType

HEAD = """
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#define MAP(name, kind, entries) struct { __uint(type, kind); __uint(max_entries, entries); __type(key, __u32); __type(value, __u64); } \\
    name SEC(".maps")
#define KEYLESS(name, kind, entries) struct { __uint(type, kind); __uint(max_entries, entries); __type(value, __u32); } name SEC(".maps")
long seen[64] = {};
char LICENSE[] SEC("license") = "GPL";
"""
TAILS = """
struct { __uint(type, BPF_MAP_TYPE_PROG_ARRAY); __uint(max_entries, 8); __type(key, __u32); __array(values, int(struct __sk_buff *)); }
    jump SEC(".maps") = { .values = {} };
SEC("tc") int last(struct __sk_buff *skb) { seen[1] += 1; return 7; }
SEC("tc") int again(struct __sk_buff *skb) { seen[0] += 1; bpf_tail_call(skb, &jump, 1); return 5; }
SEC("tc") int first(struct __sk_buff *skb)
{
    seen[2] += 1;
    bpf_tail_call(skb, &jump, 99);
    seen[3] += 1;
    bpf_tail_call(skb, &jump, 4);
    seen[4] += 1;
    bpf_tail_call(skb, &jump, 0);
    return 3;
}
SEC("tc") int many(struct __sk_buff *skb) { seen[0] += 1; bpf_tail_call(skb, &jump, 1); return 5; }
static __noinline int deeper(struct __sk_buff *skb) { volatile int x = 40; bpf_tail_call(skb, &jump, 0); return x + 2; }
SEC("tc") int below(struct __sk_buff *skb) { int r = deeper(skb); seen[5] += r; return r + 1; }
"""
QUEUES = """
KEYLESS(q, BPF_MAP_TYPE_QUEUE, 2);
KEYLESS(s, BPF_MAP_TYPE_STACK, 2);
KEYLESS(b, BPF_MAP_TYPE_BLOOM_FILTER, 100);
SEC("tc") int queues(struct __sk_buff *skb)
{
    __u32 one = 1, two = 2, three = 3, got = 9;
    seen[0] = bpf_map_push_elem(&q, &one, 0); seen[1] = bpf_map_push_elem(&q, &two, 0); seen[2] = bpf_map_push_elem(&q, &three, 0);
    seen[3] = bpf_map_push_elem(&q, &three, BPF_EXIST); seen[4] = bpf_map_push_elem(&q, &three, BPF_NOEXIST);
    seen[5] = bpf_map_peek_elem(&q, &got); seen[6] = got; seen[7] = bpf_map_pop_elem(&q, &got); seen[8] = got;
    seen[9] = bpf_map_pop_elem(&q, &got); seen[10] = got; seen[11] = bpf_map_pop_elem(&q, &got); seen[12] = got;
    seen[13] = bpf_map_push_elem(&s, &one, 0); seen[14] = bpf_map_push_elem(&s, &two, 0); seen[15] = bpf_map_push_elem(&s, &three, BPF_EXIST);
    seen[16] = bpf_map_pop_elem(&s, &got); seen[17] = got; seen[18] = bpf_map_peek_elem(&s, &got); seen[19] = got;
    seen[20] = bpf_map_peek_elem(&b, &one); seen[21] = bpf_map_push_elem(&b, &one, 0); seen[22] = bpf_map_peek_elem(&b, &one);
    seen[23] = bpf_map_push_elem(&b, &one, BPF_EXIST);
    return TC_ACT_OK;
}
"""
KEYED = """
struct cidr { __u32 length; __u8 address[4]; };
struct { __uint(type, BPF_MAP_TYPE_LPM_TRIE); __uint(map_flags, BPF_F_NO_PREALLOC); __uint(max_entries, 4); __type(key, struct cidr);
    __type(value, __u32); } routes SEC(".maps");
MAP(lru, BPF_MAP_TYPE_LRU_HASH, 10);
MAP(lru_cpu, BPF_MAP_TYPE_LRU_PERCPU_HASH, 10);
MAP(cpu, BPF_MAP_TYPE_PERCPU_HASH, 2);
MAP(cpu_array, BPF_MAP_TYPE_PERCPU_ARRAY, 2);
MAP(plain, BPF_MAP_TYPE_HASH, 2);
SEC("tc") int keyed(struct __sk_buff *skb)
{
    struct cidr net = {8, {10, 0, 0, 0}}, host = {32, {10, 1, 2, 3}}, other = {32, {11, 1, 2, 3}}, wrong = {33, {1}};
    __u32 v = 8, key = 5, miss = 6, *found;
    __u64 wide = 77, *w;
    seen[0] = bpf_map_update_elem(&routes, &net, &v, BPF_NOEXIST); seen[1] = bpf_map_update_elem(&routes, &net, &v, BPF_NOEXIST);
    found = bpf_map_lookup_elem(&routes, &host); seen[2] = found ? *found : -1;
    seen[3] = bpf_map_lookup_elem(&routes, &other) != 0; seen[4] = bpf_map_update_elem(&routes, &wrong, &v, 0);
    seen[5] = bpf_map_delete_elem(&routes, &host); seen[6] = bpf_map_delete_elem(&routes, &net);
    seen[7] = bpf_map_update_elem(&lru, &key, &wide, 0); w = bpf_map_lookup_elem(&lru, &key); if (w) { *w += 1; seen[8] = *w; }
    seen[9] = bpf_map_update_elem(&lru_cpu, &key, &wide, 0); w = bpf_map_lookup_elem(&lru_cpu, &key); if (w) { *w += 1; seen[10] = *w; }
    seen[11] = bpf_map_update_elem(&cpu, &key, &wide, 0); w = bpf_map_lookup_elem(&cpu, &key); if (w) { *w += 1; seen[12] = *w; }
    w = bpf_map_lookup_percpu_elem(&cpu, &key, 9999); seen[13] = w != 0; w = bpf_map_lookup_percpu_elem(&cpu, &miss, 0); seen[14] = w != 0;
    __u32 zero = 0; w = bpf_map_lookup_elem(&cpu_array, &zero); if (w) *w += 5;
    seen[15] = bpf_map_lookup_elem(&cpu_array, &key) != 0; seen[16] = bpf_map_delete_elem(&cpu_array, &zero);
    w = bpf_map_lookup_percpu_elem(&cpu_array, &zero, bpf_get_smp_processor_id()); seen[17] = w ? *w : -1;
    /* A value that is written anew moves: who still holds the old one does not see the new. */
    wide = 1; bpf_map_update_elem(&plain, &key, &wide, 0); __u64 *held = bpf_map_lookup_elem(&plain, &key);
    wide = 2; bpf_map_update_elem(&plain, &key, &wide, 0); w = bpf_map_lookup_elem(&plain, &key);
    seen[18] = held ? *held : -1; seen[19] = w ? *w : -1; seen[20] = held == w;
    seen[21] = bpf_map_update_elem(&plain, &miss, &wide, BPF_EXIST); seen[22] = bpf_map_update_elem(&plain, &miss, &wide, 0);
    seen[23] = bpf_map_update_elem(&plain, &zero, &wide, 0); seen[24] = bpf_map_update_elem(&plain, &miss, &wide, 99);
    seen[25] = bpf_map_update_elem(&plain, &miss, &wide, BPF_F_LOCK);
    return TC_ACT_OK;
}
"""
NESTED = """
struct counters { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 3); __type(key, __u32); __type(value, __u64); };
struct counters one SEC(".maps");
struct counters two SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS); __uint(max_entries, 3); __type(key, __u32); __array(values, struct counters); }
    outer SEC(".maps") = { .values = { [0] = &one, [2] = &two } };
struct table { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 4); __type(key, __u32); __type(value, __u64); } inner SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH_OF_MAPS); __uint(max_entries, 3); __type(key, __u32); __array(values, struct table); } by SEC(".maps");
SEC("tc") int nested(struct __sk_buff *skb)
{
    for (__u32 i = 0; i < 4; i++) {
        __u32 which = i, key = 1, past = 3;
        void *map = bpf_map_lookup_elem(&outer, &which);
        seen[i] = map != 0;
        if (!map)
            continue;
        __u64 *value = bpf_map_lookup_elem(map, &key), start = 100 + i;
        if (value)
            *value += 10 + i;
        key = 2;
        seen[4 + i] = bpf_map_update_elem(map, &key, &start, 0);
        seen[8 + i] = bpf_map_lookup_elem(map, &past) != 0;
    }
    for (__u32 i = 0; i < 3; i++) {
        __u32 which = i;
        void *map = bpf_map_lookup_elem(&by, &which);
        __u64 value = i;
        seen[12 + i] = map ? bpf_map_update_elem(map, &which, &value, BPF_NOEXIST) : -1;
    }
    return TC_ACT_OK;
}
"""
SLOW = """
struct counters { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 3); __type(key, __u32); __type(value, __u64); } one SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS); __uint(max_entries, 3); __type(key, __u32); __array(values, struct counters); }
    outer SEC(".maps") = { .values = { [1] = &one } };
struct { __uint(type, BPF_MAP_TYPE_PROG_ARRAY); __uint(max_entries, 8); __type(key, __u32); __array(values, int(struct __sk_buff *)); }
    jump SEC(".maps") = { .values = {} };
static __always_inline void linger(void) { for (int i = 0; i < 100; i++) seen[1] += bpf_ktime_get_ns() & 1; }
SEC("tc") int holds(struct __sk_buff *skb)
{
    __u32 one_ = 1;
    void *map = bpf_map_lookup_elem(&outer, &one_);
    if (!map)
        return 0;
    linger();
    __u64 *value = bpf_map_lookup_elem(map, &one_);
    linger();
    if (value)
        *value += 1;
    return 0;
}
SEC("tc") int jumps(struct __sk_buff *skb) { bpf_tail_call(skb, &jump, 1); return 1; }
SEC("tc") int target(struct __sk_buff *skb) { linger(); return 2; }
"""
PACKET = bytes(64)
_SPECS: dict[str, ObjectSpec] = {}


def spec_of(source: str) -> ObjectSpec:
    if source not in _SPECS:
        _SPECS[source] = read_object(compile_c("maps.bpf.c", text=HEAD + source).object)
    return _SPECS[source]


def run(held: Collection, kernel: Kernel, name: str) -> int:
    return kernel.bpf(ProgTestRun(held.programs[name].fd, PACKET)).retval


def seen(held: Collection, count: int) -> list[int]:
    data = held.maps[next(name for name in held.maps if name.endswith(".bss"))].lookup(bytes(4))
    assert data is not None
    return list(struct.unpack_from(f"<{count}q", data))


def number(value: int) -> bytes:
    return struct.pack("<I", value)


def test_tail_calls_go_on_in_another_program_33_times_at_most(kernel: Kernel, engine: str) -> None:
    with Collection.load(spec_of(TAILS), kernel) as held:
        jump = held.maps["jump"]
        assert run(held, kernel, "first") == 3
        assert seen(held, 5) == [0, 0, 1, 1, 1]
        jump.update(number(0), number(held.programs["last"].fd))
        assert run(held, kernel, "first") == 7
        assert seen(held, 5) == [0, 1, 2, 2, 2]
        # A function that calls is replaced, and its caller goes on with what the other program returned.
        assert run(held, kernel, "below") == 8
        assert seen(held, 6)[5] == 7
        jump.delete(number(0))
        assert run(held, kernel, "below") == 43
        # Each of the 34 waits for the next in a function of its own: they nest deeper than the calls of one program may.
        jump.update(number(0), number(held.programs["below"].fd))
        assert run(held, kernel, "below") == 42 + 34
        jump.update(number(1), number(held.programs["many"].fd))
        assert run(held, kernel, "many") == 5
        assert seen(held, 1) == [34]
        assert run(held, kernel, "many") == 5
        assert seen(held, 1) == [68]


def test_a_map_of_programs_is_emptied_when_nobody_has_it_open(kernel: Kernel) -> None:
    with Collection.load(spec_of(TAILS), kernel) as held:
        jump = held.maps["jump"]
        jump.update(number(0), number(held.programs["last"].fd))
        kernel.close(jump.fd)
        jump._closed = True
        # Linux does it a moment later.
        deadline = time.monotonic() + 5
        while run(held, kernel, "first") == 7 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert run(held, kernel, "first") == 3


def test_queues_stacks_and_filters(kernel: Kernel, engine: str) -> None:
    with Collection.load(spec_of(QUEUES), kernel) as held:
        assert run(held, kernel, "queues") == 0
        got = seen(held, 24)
        assert got[:13] == [0, 0, -7, 0, -22, 0, 2, 0, 2, 0, 3, -2, 0]
        assert got[13:20] == [0, 0, 0, 0, 3, 0, 2]
        assert got[20:] == [-2, 0, 0, -22]
        assert held.maps["s"].lookup(b"") == number(2)


def test_maps_by_key(kernel: Kernel, engine: str) -> None:
    with Collection.load(spec_of(KEYED), kernel) as held:
        assert run(held, kernel, "keyed") == 0
        got = seen(held, 26)
        assert got[:7] == [0, -17, 8, 0, -22, -2, 0]
        assert got[7:15] == [0, 78, 0, 78, 0, 78, 0, 0]
        assert got[15:18] == [0, -22, 5]
        assert got[18:] == [1, 2, 0, -2, 0, -7, -22, -22]


def test_maps_in_maps(kernel: Kernel, engine: str) -> None:
    with Collection.load(spec_of(NESTED), kernel) as held:
        held.maps["by"].update(number(1), number(held.maps["inner"].fd))
        assert run(held, kernel, "nested") == 0
        assert seen(held, 15) == [1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1, 0, -1]
        assert held.maps["one"].lookup(number(1)) == struct.pack("<Q", 10)
        assert held.maps["two"].lookup(number(1)) == struct.pack("<Q", 12)
        assert held.maps["two"].lookup(number(2)) == struct.pack("<Q", 102)
        assert held.maps["inner"].lookup(number(1)) == struct.pack("<Q", 1)
        # What is taken out while a handle is open stays for its holder.
        held.maps["outer"].update(number(2), number(held.maps["one"].fd))
        run(held, kernel, "nested")
        assert held.maps["one"].lookup(number(1)) == struct.pack("<Q", 10 + 10 + 12)
        held.maps["outer"].delete(number(0))
        run(held, kernel, "nested")
        assert seen(held, 4) == [0, 0, 1, 0]


def test_maps_and_programs_can_be_exchanged_while_others_run_them() -> None:
    """Only the user kernel: Linux waits for all its processors at each exchange."""
    with open_kernel("user") as kernel, Collection.load(spec_of(SLOW), kernel) as held:
        over = threading.Event()

        def hammer(name: str) -> None:
            while not over.is_set():
                kernel.bpf(ProgTestRun(held.programs[name].fd, PACKET, repeat=20))

        threads = [threading.Thread(target=hammer, args=(name,)) for name in ("holds", "jumps")]
        for thread in threads:
            thread.start()
        try:
            for _ in range(50):
                fd = kernel.bpf(MapCreate(int(MapType.ARRAY), 4, 8, 3))
                held.maps["outer"].update(number(1), number(fd))
                target = load_program(kernel, spec_of(SLOW).programs["target"], held.programs["target"].insns).fd
                held.maps["jump"].update(number(1), number(target))
                kernel.close(fd)
                kernel.close(target)
                time.sleep(0.001)
        finally:
            over.set()
            for thread in threads:
                thread.join()
        # All that was exchanged is gone, but for the last.
        assert kernel.state.registry.count(MapObject) == len(held.maps) + 1
        assert kernel.state.registry.count(ProgramObject) == len(held.programs) + 1


def test_a_program_of_another_type_has_no_place_in_the_map(kernel: Kernel) -> None:
    source = TAILS + 'SEC("socket") int odd(struct __sk_buff *skb) { return 0; }\n'
    with Collection.load(spec_of(source), kernel) as held, pytest.raises(KernelError) as failed:
        held.maps["jump"].update(number(0), number(held.programs["odd"].fd))
    assert failed.value.errno == 22
