"""Packet by packet, both kernels give the same verdict and the same bytes, and leave the same in maps and variables."""

import random
import struct
from pathlib import Path

import pytest

from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.kernels import open_kernel
from ebpf.object import Collection

EXAMPLES = Path(__file__).parents[2] / "examples"
# Everything at once: all map kinds, a subprogram, a loop over the packet, rewriting, atomics, signed division.
BUSY = """
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 40); __type(key, __u32); __type(value, __u64); } by_source SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 8); __type(key, __u32); __type(value, __u64[3]); } sizes SEC(".maps");

struct totals { long packets, bytes; int worst; unsigned seen[4]; };
struct totals totals = {0, 0, -5, {}};
__u32 order[4] = {3, 1, 2, 0};

static __attribute__((noinline)) long mix(unsigned char *at, unsigned char *end, long seed)
{
    long sum = seed;
    for (int i = 0; i < 64; i++) {
        if (at + 1 > end)
            break;
        sum = sum * 31 + (signed char)*at++;
        sum ^= (unsigned long)sum >> 7;
    }
    return sum;
}

SEC("xdp") int busy(struct xdp_md *ctx)
{
    void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    struct ethhdr *eth = data;
    struct iphdr *ip = (void *)(eth + 1);
    __u32 size = end - data, slot = size / 32;
    totals.packets++;
    totals.bytes += size;
    if ((void *)(ip + 1) > end)
        return XDP_ABORTED;
    long mixed = mix((void *)eth, end, size);
#if __BPF_CPU_VERSION__ >= 4
    int small = (int)mixed / ((int)(size & 15) - 7 ?: 1);
#else
    int small = (int)mixed >> (size & 15);
#endif
    if (small < totals.worst)
        totals.worst = small;
    totals.seen[order[mixed & 3] & 3]++;
    __u64 *counts = bpf_map_lookup_elem(&sizes, &slot);
    if (counts) {
        __sync_fetch_and_add(&counts[0], 1);
        counts[1] = __sync_lock_test_and_set(&counts[2], mixed);
    }
    __u32 source = ip->saddr;
    __u64 one = 1, *count = bpf_map_lookup_elem(&by_source, &source);
    if (count)
        *count += 1;
    else if (bpf_map_update_elem(&by_source, &source, &one, BPF_NOEXIST) < 0)
        return XDP_DROP;
    if (ip->protocol == 1)
        bpf_map_delete_elem(&by_source, &source);
    if (ip->protocol == 17) {
        for (int i = 0; i < 6; i++) {
            unsigned char byte = eth->h_dest[i];
            eth->h_dest[i] = eth->h_source[i];
            eth->h_source[i] = byte;
        }
        ip->id = bpf_htons(bpf_ntohs(ip->id) + 1);
        return bpf_xdp_adjust_tail(ctx, -4) ? XDP_PASS : XDP_TX;
    }
    return mixed & 1 ? XDP_PASS : XDP_DROP;
}
char LICENSE[] SEC("license") = "GPL";
"""


def packets(count: int) -> list[bytes]:
    """Frames with much that varies: lengths, versions, protocols, ports, and some that are cut short."""
    chance = random.Random(7)
    out = []
    for _ in range(count):
        ethernet = chance.randbytes(12) + struct.pack(">H", chance.choice((0x0800, 0x0800, 0x86DD, 0x0806)))
        words = chance.choice((5, 5, 5, 6, 15, 3))
        head = struct.pack(">BBHHHBB", 0x40 | words, 0, 60, chance.getrandbits(16), 0, 64, chance.choice((1, 6, 17, 17)))
        ip = head + bytes(2) + bytes([10, 0, 0, chance.randrange(60)]) + bytes(4) + bytes(max(4 * words - 20, 0))
        udp = struct.pack(">HHHH", 1234, chance.choice((9999, 53)), 20, 0)
        out.append((ethernet + ip + udp + chance.randbytes(chance.randrange(150)))[: chance.choice((14, 33, 34, 41, 500, 500, 500))])
    return out


def everything(loaded: Collection) -> tuple[object, ...]:
    """Variables and the elements of every map."""
    maps = {name: sorted(held.raw.items()) for name, held in loaded.maps.items() if not name.startswith(".")}
    return loaded.variables(), maps


@pytest.mark.linux
@pytest.mark.parametrize("name", ["xdp_count", "xdp_drop_port", "busy"])
@pytest.mark.parametrize(("engine", "cpu", "count"), [("jit", "v2", 300), ("jit", "v3", 300), ("jit", "v4", 300), ("interp", "v4", 40)])
def test_both_kernels_do_the_same_to_every_packet(monkeypatch: pytest.MonkeyPatch, name: str, engine: str, cpu: str, count: int) -> None:
    monkeypatch.setenv("EBPF_ENGINE", engine)
    text = BUSY if name == "busy" else (EXAMPLES / f"{name}.bpf.c").read_text()
    spec = read_object(compile_c(f"{name}.bpf.c", text=text, cpu=cpu).object)
    with (
        open_kernel("user") as user,
        open_kernel("linux") as linux,
        Collection.load(spec, user) as ours,
        Collection.load(spec, linux) as theirs,
    ):
        (mine,), (its,) = ours.programs.values(), theirs.programs.values()
        for number, packet in enumerate(packets(count)):
            left, right = mine.run(packet), its.run(packet)
            assert (number, left.retval, left.data) == (number, right.retval, right.data)
        assert everything(ours) == everything(theirs)
