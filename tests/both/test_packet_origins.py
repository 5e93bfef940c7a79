"""Where packets come from and go to: their socket, cgroup and tunnel, SYN cookies, copies to other interfaces."""

import errno
import os
import struct

import pytest

from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.object import Collection
from ebpf.spec import ObjectSpec
from ebpf.sys.kernel import Kernel

SOURCE = """
#include <linux/bpf.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
struct { __uint(type, BPF_MAP_TYPE_CGROUP_ARRAY); __uint(max_entries, 2); __uint(key_size, 4); __uint(value_size, 4); } groups SEC(".maps");
long answers[16];
__u64 cookies[2], group, ancestor;
__u32 ifindex;
__u64 flags, more;
SEC("tc") int origin(struct __sk_buff *skb)
{
    cookies[0] = bpf_get_socket_cookie(skb);
    cookies[1] = bpf_get_socket_cookie(skb);
    group = bpf_skb_cgroup_id(skb);
    ancestor = bpf_skb_ancestor_cgroup_id(skb, 0);
    answers[0] = bpf_get_socket_uid(skb);
    answers[1] = bpf_skb_under_cgroup(skb, &groups, 0);
    answers[2] = bpf_skb_under_cgroup(skb, &groups, 1);
    answers[3] = bpf_skb_under_cgroup(skb, &groups, 2);
    answers[4] = bpf_get_netns_cookie(skb) == bpf_get_netns_cookie(0);
    return 0;
}
SEC("tc") int copies(struct __sk_buff *skb)
{
    answers[0] = bpf_clone_redirect(skb, ifindex, flags);
    return 0;
}
SEC("tc") int tunnels(struct __sk_buff *skb)
{
    struct bpf_tunnel_key key = {.tunnel_id = 7, .tunnel_tos = 1, .tunnel_ttl = 64}, got;
    __u8 state[32] = {1, 2, 3}, options[8] = {1, 2, 3, 4, 5, 6, 7, 8}, found[12];
    answers[0] = bpf_skb_get_tunnel_key(skb, &got, sizeof(got), 0);
    answers[1] = bpf_skb_get_tunnel_opt(skb, found, sizeof(found));
    answers[2] = bpf_skb_set_tunnel_opt(skb, options, sizeof(options));
    for (int i = 0; i < 4; i++) {
        key.remote_ipv6[i] = 0x0a000001 + i;
        key.local_ipv6[i] = 0x0b000001 + i;
    }
    key.tunnel_label = flags & BPF_F_TUNINFO_IPV6 ? 0xFFABCDE : 0;
    answers[3] = bpf_skb_set_tunnel_key(skb, &key, sizeof(key), flags);
    answers[4] = bpf_skb_get_tunnel_opt(skb, found, sizeof(found));
    answers[5] = bpf_skb_set_tunnel_opt(skb, options, sizeof(options));
    answers[6] = bpf_skb_set_tunnel_opt(skb, options, 6);
    answers[7] = bpf_skb_get_tunnel_opt(skb, found, 4);
    answers[8] = bpf_skb_get_tunnel_opt(skb, found, sizeof(found));
    answers[9] = found[0] + found[7] + found[8];
    answers[10] = bpf_skb_get_tunnel_key(skb, &got, sizeof(got), more);
    answers[11] = got.tunnel_id + got.tunnel_ttl + got.tunnel_tos + ((long)got.tunnel_flags << 8) + ((long)got.tunnel_label << 32);
    answers[12] = (long)got.remote_ipv4 << 32 | got.local_ipv4;
    answers[13] = (long)got.remote_ipv6[3] << 32 | got.local_ipv6[3];
    answers[14] = bpf_skb_get_tunnel_key(skb, &got, 8, more);
    answers[15] = bpf_skb_get_xfrm_state(skb, 0, (void *)state, sizeof(state), 0) + state[0] + state[2];
    return 0;
}
#define COOKIES(name, header, version) \\
    SEC("tc") int name(struct __sk_buff *skb) \\
    { \\
        void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end; \\
        struct header *ip = data + ETH_HLEN; \\
        struct tcphdr *tcp = (void *)(ip + 1); \\
        if ((void *)(tcp + 1) + 8 > end) \\
            return 1; \\
        long made = bpf_tcp_raw_gen_syncookie_##version(ip, tcp, sizeof(*tcp) + 8); \\
        answers[0] = made < 0 ? made : made >> 32; \\
        tcp->ack_seq = bpf_htonl((__u32)made + 1); \\
        tcp->seq = bpf_htonl(bpf_ntohl(tcp->seq) + 1); \\
        answers[1] = bpf_tcp_raw_check_syncookie_##version(ip, tcp); \\
        tcp->ack_seq = bpf_htonl((__u32)made + 257); \\
        answers[2] = bpf_tcp_raw_check_syncookie_##version(ip, tcp); \\
        tcp->ack_seq = bpf_htonl((__u32)made + 1); \\
        tcp->source += 1; \\
        answers[3] = bpf_tcp_raw_check_syncookie_##version(ip, tcp); \\
        return 0; \\
    }
COOKIES(cookies4, iphdr, ipv4)
COOKIES(cookies6, ipv6hdr, ipv6)
char LICENSE[] SEC("license") = "GPL";
"""


@pytest.fixture(scope="module")
def spec() -> ObjectSpec:
    return read_object(compile_c("origins.bpf.c", text=SOURCE).object, "origins.o")


def test_a_packet_belongs_to_a_socket_of_who_runs_the_program(kernel: Kernel, engine: str, spec: ObjectSpec) -> None:
    with Collection.load(spec, kernel) as held:
        seen = set()
        for _ in range(3):
            held.programs["origin"].run(bytes(64))
            found = held.variables()
            assert found["cookies"][0] == found["cookies"][1] != 0
            seen.add(found["cookies"][0])
        assert len(seen) == 3
        assert list(found["answers"])[:5] == [0, -errno.EAGAIN, -errno.EAGAIN, -errno.E2BIG, 1]
        assert found["group"] == os.stat(f"/sys/fs/cgroup{_group()}").st_ino
        assert found["ancestor"] == os.stat("/sys/fs/cgroup").st_ino


def _group() -> str:
    with open("/proc/self/cgroup") as file:
        return next(line[3:].strip() for line in file if line.startswith("0::"))


@pytest.mark.parametrize(
    ("index", "flags", "expected"), [(1, 0, 0), (1, 2, -22), (0x7FFFFFFF, 0, -22), (0x7FFFFFFF, 1, -22), (1, 1 << 40, -22)]
)
def test_a_copy_needs_an_interface(kernel: Kernel, engine: str, spec: ObjectSpec, index: int, flags: int, expected: int) -> None:
    with Collection.load(spec, kernel) as held:
        held.set_variable("ifindex", index)
        held.set_variable("flags", flags)
        held.programs["copies"].run(bytes(64))
        assert held.variables()["answers"][0] == expected


TUNNELS = [
    # flags, flags of the question, the answers from the third on
    (0, 0, [0, -2, 0, -22, -12, 8, 9, 0, 72, 0x0B000001_0A000001, 0, 0, -22]),
    (0, 16, [0, -2, 0, -22, -12, 8, 9, 0, 72 + (0x5F8 << 8), 0x0B000001_0A000001, 0, 0, -22]),
    (4 | 8, 16, [0, -2, 0, -22, -12, 8, 9, 0, 72 + (0xDF9 << 8), 0x0B000001_0A000001, 0, 0, -22]),
    (2 | 16, 16, [0, -2, 0, -22, -12, 8, 9, 0, 72 + (0x0F8 << 8), 0x0B000001_0A000001, 0, 0, -22]),
    (32, 0, [-22, -2, -22, -22, -2, -2, 0, -22, 0, 0, 0, -22, -22]),
    (1, 1, [0, -2, 0, -22, -12, 8, 9, 0, 72 + (0xABCDE << 32), 0x0B000001_0A000001, 0x0B000004_0A000004, -22, -22]),
    (1, 0, [0, -2, 0, -22, -12, 8, 9, -71, 0, 0, 0, -71, -22]),
    (0, 2, [0, -2, 0, -22, -12, 8, 9, -22, 0, 0, 0, -22, -22]),
]


@pytest.mark.parametrize("row", TUNNELS, ids=[f"{set_:#x}-{asked:#x}" for set_, asked, _ in TUNNELS])
def test_a_tunnel_is_what_the_program_says(kernel: Kernel, engine: str, spec: ObjectSpec, row: tuple[int, int, list[int]]) -> None:
    set_, asked, expected = row
    with Collection.load(spec, kernel) as held:
        held.set_variable("flags", set_)
        held.set_variable("more", asked)
        held.programs["tunnels"].run(bytes(64))
        answers = list(held.variables()["answers"])
        assert answers == [-22, -2, -22, *expected]


def _syn(version: int, options: bytes) -> bytes:
    tcp = struct.pack(">HHIIBBHHH", 1234, 80, 0x01020304, 0, (20 + len(options)) // 4 << 4, 2, 1024, 0, 0) + options
    if version == 4:
        ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 1, 0, 64, 6, 0, bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]))
        return bytes(12) + b"\x08\x00" + ip + tcp
    ip = struct.pack(">IHBB16s16s", 6 << 28, len(tcp), 6, 64, bytes([0xFD] + [0] * 14 + [1]), bytes([0xFD] + [0] * 14 + [2]))
    return bytes(12) + b"\x86\xdd" + ip + tcp


COOKIES = [
    # what the SYN asks for, and the size of IPv4 and of IPv6 that the cookie holds
    (struct.pack(">BBHBBBB", 2, 4, 1460, 1, 1, 1, 0), 1460, 1440),
    (struct.pack(">BBBBH", 1, 1, 2, 4, 1439) + bytes(2), 1300, 1420),
    (struct.pack(">BBHBBBB", 2, 4, 9000, 1, 1, 1, 0), 1460, 8940),
    (bytes(8), 536, 1220),
    (struct.pack(">BBBBBBH", 3, 3, 7, 1, 2, 4, 100), 536, 1220),
    (struct.pack(">BBBBBBBB", 3, 1, 7, 1, 2, 4, 5, 180), 536, 1220),
]


@pytest.mark.parametrize("row", COOKIES, ids=[str(n) for n in range(len(COOKIES))])
def test_a_cookie_is_known_again(kernel: Kernel, engine: str, spec: ObjectSpec, row: tuple[bytes, int, int]) -> None:
    options, *sizes = row
    with Collection.load(spec, kernel) as held:
        for version, size in zip((4, 6), sizes, strict=True):
            assert held.programs[f"cookies{version}"].run(_syn(version, options)).retval == 0
            assert list(held.variables()["answers"])[:4] == [size, 0, -errno.EACCES, -errno.EACCES]
        held.programs["cookies4"].run(_syn(4, options + bytes(4)))
        assert held.variables()["answers"][0] == -errno.EINVAL
