"""Packets per second of an XDP program over a capture of 64-byte frames, beside Linux's BPF_PROG_TEST_RUN of the same object.

    python bench/replay.py [OBJECT.c] [--packets N] [--rounds N]

Without an object: parse the headers and count by protocol in an array. One core; each packet is copied into a writable buffer.
"""

import argparse
import statistics
import struct
import sys
from pathlib import Path

from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import EbpfError
from ebpf.kernels import open_kernel
from ebpf.object import Collection
from ebpf.spec import ObjectSpec
from ebpf.sys.calls import ProgTestRun
from ebpf.sys.capture import Capture, header

PROGRAM = """
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 256);
    __type(key, __u32);
    __type(value, __u64);
} by_protocol SEC(".maps");

SEC("xdp")
int count(struct xdp_md *ctx)
{
    void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    struct ethhdr *eth = data;
    struct iphdr *ip = (void *)(eth + 1);
    if ((void *)(ip + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP))
        return XDP_PASS;
    __u32 protocol = ip->protocol;
    __u64 *seen = bpf_map_lookup_elem(&by_protocol, &protocol);
    if (seen)
        *seen += 1;
    return protocol == 17 ? XDP_DROP : XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""


def frame(number: int) -> bytes:
    """A frame of 64 bytes: UDP, TCP or ICMP in IPv4 by its number."""
    ethernet = b"\x02" * 12 + b"\x08\x00"
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 50, number & 0xFFFF, 0, 64, (17, 6, 1)[number % 3], 0, bytes(4), bytes(4))
    return (ethernet + ip).ljust(64, b"\0")


def capture(packets: int) -> Capture:
    """A capture of so many frames, in memory."""
    records = b"".join(struct.pack("<IIII", i // 1000, i % 1000, 64, 64) + frame(i) for i in range(3000))
    whole, rest = divmod(packets, 3000)
    return Capture(header() + records * whole + records[: rest * 80], "generated")


def user_round(loaded: Collection, source: Capture) -> float:
    """Nanoseconds a packet in user space."""
    program = next(iter(loaded.programs.values()))
    stats = program.kernel.lab.replay(program.fd, source)
    return stats.elapsed_ns / stats.packets


def linux_round(loaded: Collection, repeat: int) -> float:
    """Nanoseconds a run in Linux's kernel, as it says itself."""
    program = next(iter(loaded.programs.values()))
    return float(program.kernel.bpf(ProgTestRun(program.fd, frame(0), repeat=repeat)).duration_ns)


def main() -> int:
    """Measure in alternation and print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("object", nargs="?")
    parser.add_argument("--packets", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    text = Path(options.object).read_text(encoding="utf-8") if options.object else PROGRAM
    spec: ObjectSpec = read_object(compile_c(options.object or "count.bpf.c", text=text).object)
    source = capture(options.packets)
    with open_kernel("user") as user, Collection.load(spec, user) as ours:
        linux, theirs, why = None, None, ""
        try:
            linux = open_kernel("linux")
            theirs = Collection.load(spec, linux)
            linux_round(theirs, 1)
        except EbpfError as error:
            theirs, why = None, str(error)
        user_round(ours, source)
        mine, kernel = [], []
        for _ in range(options.rounds):
            mine.append(user_round(ours, source))
            if theirs is not None:
                kernel.append(linux_round(theirs, options.packets))
        ns = statistics.median(mine)
        sys.stdout.write(f"user space  {1e3 / ns:6.1f} M packets/s  {ns:5.1f} ns a packet, with the copy (best {min(mine):.1f})\n")
        if theirs is None or linux is None:
            sys.stdout.write(f"Linux       not measured: {why}\n")
        else:
            each = statistics.median(kernel)
            ratio = statistics.median(k / m for k, m in zip(kernel, mine, strict=True))
            sys.stdout.write(f"Linux       {1e3 / each:6.1f} M packets/s  {each:5.1f} ns a packet, BPF_PROG_TEST_RUN\n")
            sys.stdout.write(f"ratio       {ratio:6.2f} (median of {options.rounds} rounds)\n")
            theirs.close()
            linux.shutdown()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EbpfError as error:
        sys.exit(f"replay: {error}")
