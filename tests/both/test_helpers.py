"""Helpers on packets, loops and the current task: both kernels answer alike, with machine code and by the interpreter."""

import itertools
import random
import struct
from pathlib import Path

import pytest
from test_skb import packets

from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import KernelError, NotSupportedError
from ebpf.kernels import open_kernel
from ebpf.object import Collection
from ebpf.sys.calls import ProgTestRun
from ebpf.sys.kernel import Kernel

HEAD = """
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
struct seen { long result[48]; };
struct seen seen = {};
char LICENSE[] SEC("license") = "GPL";
"""
# After each step: the answer, and what the program sees of the packet then.
STEP = """
static __always_inline int note(struct __sk_buff *skb, int at, long answer)
{
    seen.result[4 * at] = answer;
    seen.result[4 * at + 1] = (__u64)skb->len << 32 | skb->protocol;
    seen.result[4 * at + 2] = (__u64)skb->vlan_present << 32 | skb->vlan_tci;
    seen.result[4 * at + 3] = skb->vlan_present ? skb->vlan_proto : 0;
    return 0;
}
"""
TAGS = """
SEC("tc") int tags(struct __sk_buff *skb)
{
    note(skb, 0, bpf_skb_vlan_pop(skb));
    note(skb, 1, bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), 5));
    note(skb, 2, bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021AD), 0x2007));
    note(skb, 3, bpf_skb_vlan_push(skb, bpf_htons(0x1234), 9));
    note(skb, 4, bpf_skb_vlan_pop(skb));
    note(skb, 5, bpf_skb_vlan_pop(skb));
    note(skb, 6, bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021AD), 1));
    note(skb, 7, bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), 0xffff));
    return TC_ACT_OK;
}
"""
PROTOCOL = """
SEC("tc") int protocol(struct __sk_buff *skb)
{
    note(skb, 0, bpf_skb_change_proto(skb, bpf_htons(ETH_P_IPV6), 1));
    note(skb, 1, bpf_skb_change_proto(skb, bpf_htons(ETH_P_ARP), 0));
    note(skb, 2, bpf_skb_change_proto(skb, bpf_htons(ETH_P_IPV6), 0));
    note(skb, 3, bpf_skb_change_proto(skb, bpf_htons(ETH_P_IPV6), 0));
    if (skb->cb[1] == 2)
        note(skb, 4, bpf_skb_change_proto(skb, bpf_htons(ETH_P_IP), 0));
    return TC_ACT_OK;
}
"""
ROOM = """
SEC("tc") int room(struct __sk_buff *skb)
{
    note(skb, 0, bpf_skb_adjust_room(skb, 8, BPF_ADJ_ROOM_NET, 0));
    note(skb, 1, bpf_skb_adjust_room(skb, 20, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4));
    note(skb, 2, bpf_skb_adjust_room(skb, -20, BPF_ADJ_ROOM_MAC, 0));
    note(skb, 3, bpf_skb_adjust_room(skb, -8, BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO));
    note(skb, 4, bpf_skb_adjust_room(skb, -200, BPF_ADJ_ROOM_NET, 0));
    note(skb, 5, bpf_skb_adjust_room(skb, 4097, BPF_ADJ_ROOM_NET, 0));
    note(skb, 6, bpf_skb_adjust_room(skb, 8, 2, 0));
    note(skb, 7, bpf_skb_adjust_room(skb, 8, BPF_ADJ_ROOM_NET, 1 << 20));
    note(skb, 8, bpf_skb_adjust_room(skb, 8, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L3_IPV6));
    note(skb, 9, bpf_skb_adjust_room(skb, -20, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_DECAP_L3_IPV4));
    return TC_ACT_OK;
}
"""
BESIDE = """
SEC("tc") int beside(struct __sk_buff *skb)
{
    long *r = seen.result;
    r[0] = bpf_csum_level(skb, BPF_CSUM_LEVEL_QUERY);
    r[1] = bpf_csum_level(skb, BPF_CSUM_LEVEL_INC);
    r[2] = bpf_csum_level(skb, 7);
    r[3] = bpf_skb_set_tstamp(skb, 77, BPF_SKB_TSTAMP_DELIVERY_MONO);
    r[4] = skb->tstamp;
    r[5] = bpf_skb_set_tstamp(skb, 0, BPF_SKB_TSTAMP_DELIVERY_MONO);
    r[6] = bpf_skb_set_tstamp(skb, 5, BPF_SKB_TSTAMP_UNSPEC);
    r[7] = bpf_skb_set_tstamp(skb, 0, BPF_SKB_TSTAMP_UNSPEC);
    r[8] = bpf_skb_set_tstamp(skb, 0, 9);
    r[9] = bpf_redirect(1, 0); r[10] = bpf_redirect(1, BPF_F_INGRESS); r[11] = bpf_redirect(1, 2);
    r[12] = bpf_redirect_peer(1, 0); r[13] = bpf_redirect_peer(1, 1);
    r[14] = bpf_redirect_neigh(1, 0, 0, 0); r[15] = bpf_redirect_neigh(1, 0, 0, 1);
    r[16] = bpf_get_route_realm(skb); r[17] = bpf_get_cgroup_classid(skb);
    __u32 mtu = 0;
    r[18] = bpf_check_mtu(skb, 0, &mtu, 0, 0); r[19] = mtu;
    mtu = 65536; r[20] = bpf_check_mtu(skb, 1, &mtu, 0, 0); r[21] = mtu;
    mtu = 65536; r[22] = bpf_check_mtu(skb, 1, &mtu, 1, 0); r[23] = mtu;
    mtu = 9; r[24] = bpf_check_mtu(skb, 123456, &mtu, 0, 0); r[25] = mtu;
    mtu = 9; r[26] = bpf_check_mtu(skb, 1, &mtu, 0, 4); r[27] = mtu;
    mtu = 0; r[28] = bpf_check_mtu(skb, 1, &mtu, 70000, 0); r[29] = mtu;
    return TC_ACT_OK;
}
"""
CONGESTION = """
SEC("cgroup_skb/egress") int congestion(struct __sk_buff *skb)
{
    seen.result[0] = bpf_skb_ecn_set_ce(skb);
    seen.result[1] = bpf_skb_ecn_set_ce(skb);
    seen.result[2] = skb->len;
    return 1;
}
"""
LWT = """
SEC("lwt_xmit") int lwt(struct __sk_buff *skb)
{
    seen.result[0] = bpf_skb_pull_data(skb, 20);
    seen.result[1] = skb->protocol;
    seen.result[2] = skb->len;
    return BPF_OK;
}
"""
XDP = """
struct { __uint(type, BPF_MAP_TYPE_DEVMAP); __uint(max_entries, 4); __type(key, int); __type(value, int); } devices SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_DEVMAP_HASH); __uint(max_entries, 4); __type(key, int); __type(value, int); } hashed SEC(".maps");
SEC("xdp") int devices_of(struct xdp_md *ctx)
{
    long *r = seen.result;
    r[0] = bpf_redirect(1, 0); r[1] = bpf_redirect(1, 1);
    r[2] = bpf_redirect_map(&devices, 1, 0); r[3] = bpf_redirect_map(&devices, 2, 0); r[4] = bpf_redirect_map(&devices, 2, XDP_TX);
    r[5] = bpf_redirect_map(&devices, 9, XDP_PASS); r[6] = bpf_redirect_map(&devices, 1, 64);
    r[7] = bpf_redirect_map(&devices, 3, BPF_F_BROADCAST | BPF_F_EXCLUDE_INGRESS);
    r[8] = bpf_redirect_map(&hashed, 77, 0); r[9] = bpf_redirect_map(&hashed, 2, XDP_DROP); r[10] = bpf_redirect_map(&hashed, 2, 4);
    __u32 mtu = 0;
    r[11] = bpf_check_mtu(ctx, 0, &mtu, 0, 0); r[12] = mtu;
    mtu = 65537; r[13] = bpf_check_mtu(ctx, 1, &mtu, 0, 0); r[14] = mtu;
    mtu = 5; r[15] = bpf_check_mtu(ctx, 1, &mtu, 0, 1); r[16] = mtu;
    return XDP_PASS;
}
"""
STATE = """
__u64 sum = 0;
__u32 stop = 0;
static long add(__u32 index, void *none) { sum += index; return index == stop; }
static long elem(void *map, int *key, __u64 *value, void *none) { sum += *key * 1000 + *value; return *key == stop; }
"""
LOOPS = """
static long inner(__u32 index, void *none) { bpf_loop(3, add, none, 0); return 0; }
SEC("tc") int loops(struct __sk_buff *skb)
{
    long *r = seen.result;
    sum = 0; stop = 1000;
    r[0] = bpf_loop(10, add, 0, 0); r[1] = sum;
    stop = 4;
    r[2] = bpf_loop(10, add, 0, 0); r[3] = sum;
    r[4] = bpf_loop(1 << 23, add, 0, 1); r[5] = bpf_loop((1 << 23) + 1, add, 0, 0); r[6] = bpf_loop(0, add, 0, 0);
    r[7] = bpf_loop(4, inner, 0, 0); r[8] = sum;
    return TC_ACT_OK;
}
"""
ELEMENTS = """
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 5); __type(key, int); __type(value, __u64); } array SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 50); __type(key, int); __type(value, __u64); } hash SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 3); __type(key, int); __type(value, __u64); } cpus SEC(".maps");
static long put(__u32 index, void *none)
{
    __u64 value = index;
    bpf_map_update_elem(&hash, &index, &value, 0);
    return 0;
}
static long away(void *map, int *key, __u64 *value, void *none)
{
    int odd = *key;
    if (odd & 1)
        bpf_map_delete_elem(map, &odd);
    return 0;
}
SEC("tc") int elements(struct __sk_buff *skb)
{
    long *r = seen.result;
    bpf_loop(40, put, 0, 0);
    sum = 0; stop = 1000;
    r[0] = bpf_for_each_map_elem(&hash, elem, 0, 0); r[1] = sum;
    r[2] = bpf_for_each_map_elem(&hash, away, 0, 0);
    sum = 0;
    r[3] = bpf_for_each_map_elem(&hash, elem, 0, 0); r[4] = sum;
    sum = 0; stop = 3;
    r[5] = bpf_for_each_map_elem(&array, elem, 0, 0); r[6] = sum;
    r[7] = bpf_for_each_map_elem(&cpus, elem, 0, 0); r[8] = bpf_for_each_map_elem(&array, elem, 0, 1);
    return TC_ACT_OK;
}
"""
PROGRAMS = {
    "tags": STEP + TAGS,
    "protocol": STEP + PROTOCOL,
    "room": STEP + ROOM,
    "beside": BESIDE,
    "congestion": CONGESTION,
    "lwt": LWT,
    "xdp": XDP,
    "loops": STATE + LOOPS,
    "elements": STATE + ELEMENTS,
}


def tagged(chance: random.Random) -> list[bytes]:
    """Packets with one VLAN tag or two, and IPv6."""
    out = []
    for outer, inner in itertools.product((b"\x81\x00", b"\x88\xa8"), (b"\x08\x00", b"\x86\xdd", b"\x81\x00", b"\x00\x40")):
        out.append(
            bytes(6) + chance.randbytes(6) + outer + chance.randbytes(2) + inner + chance.randbytes(2) + b"\x08\x00" + chance.randbytes(80)
        )
    for ecn in range(4):
        v4 = bytes((0x45, 0xB8 | ecn)) + chance.randbytes(58)
        v6 = bytes((0x60 | 7, ecn << 4 | 3)) + chance.randbytes(78)
        out += [bytes(12) + b"\x08\x00" + v4, bytes(12) + b"\x86\xdd" + v6]
    return out


@pytest.mark.linux
@pytest.mark.parametrize("engine", ["jit", "interp"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_packet_comes_out_alike(monkeypatch: pytest.MonkeyPatch, name: str, engine: str) -> None:
    monkeypatch.setenv("EBPF_ENGINE", engine)
    spec = read_object(compile_c(f"{name}.bpf.c", text=HEAD + PROGRAMS[name]).object)
    context = bytearray(192)
    struct.pack_into("<5I", context, 48, 1, 2, 3, 4, 5)
    with (
        open_kernel("user") as user,
        open_kernel("linux") as linux,
        Collection.load(spec, user) as ours,
        Collection.load(spec, linux) as theirs,
    ):
        for loaded in (ours, theirs):
            if name == "xdp":
                loaded.maps["devices"][1] = 1
                loaded.maps["hashed"][77] = 1
        for number, packet in enumerate([*packets(20 if engine == "jit" else 4), *tagged(random.Random(5))]):
            for ctx in (b"", bytes(context)) if name not in ("xdp",) else (b"",):
                answers = []
                for loaded in (ours, theirs):
                    (program,) = loaded.programs.values()
                    call = ProgTestRun(program.fd, packet, ctx, 1, data_size_out=len(packet) + 512, ctx_size_out=len(ctx))
                    try:
                        answer = program.kernel.bpf(call)
                        answers.append((number, packet, answer.retval, answer.data, answer.ctx, loaded.variables()))
                    except KernelError as error:
                        answers.append((number, packet, error.errno))
                assert answers[0] == answers[1]


TASK = """
struct { __uint(type, BPF_MAP_TYPE_CGROUP_ARRAY); __uint(max_entries, 3); __uint(key_size, 4); __uint(value_size, 4); } groups SEC(".maps");
__u64 device = 0, inode = 0;
SEC("raw_tp/sched_switch") int task(void *ctx)
{
    long *r = seen.result;
    struct bpf_pidns_info info = {1, 1};
    r[0] = bpf_get_current_cgroup_id();
    for (int i = 0; i < 5; i++)
        r[1 + i] = bpf_get_current_ancestor_cgroup_id(i);
    r[6] = bpf_get_ns_current_pid_tgid(device, inode, &info, sizeof(info)); r[7] = (__u64)info.pid << 32 | info.tgid;
    r[8] = bpf_get_ns_current_pid_tgid(device, inode + 1, &info, sizeof(info)); r[9] = (__u64)info.pid << 32 | info.tgid;
    for (int i = 0; i < 4; i++)
        r[10 + i] = bpf_current_task_under_cgroup(&groups, i);
    r[14] = bpf_get_ns_current_pid_tgid(device, inode, (void *)&r[20], 4);
    return 0;
}
"""


@pytest.mark.linux
def test_the_current_task_is_the_same() -> None:
    import os

    spec = read_object(compile_c("task.bpf.c", text=HEAD + TASK).object)
    namespace = os.stat("/proc/self/ns/pid")
    (path,) = [line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")]
    mount = next(line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines() if line.split()[2] == "cgroup2")
    own, root = (os.open(f"{mount}{folder}", os.O_RDONLY | os.O_DIRECTORY) for folder in (path, "/"))
    answers = []
    for name in ("user", "linux"):
        with open_kernel(name) as kernel, Collection.load(spec, kernel) as held:
            held.set_variable("device", namespace.st_dev)
            held.set_variable("inode", namespace.st_ino)
            for index, fd in enumerate((own, root)):
                held.maps["groups"].update(struct.pack("<I", index), struct.pack("<I", fd))
            held.programs["task"].run(ctx=bytes(64))
            answers.append(held.variables())
    os.close(own)
    os.close(root)
    assert answers[0] == answers[1]
    seen = answers[0]["seen"]
    assert isinstance(seen, dict)
    assert seen["result"][0]


def test_what_user_space_lacks_is_refused_when_it_is_loaded() -> None:
    text = (
        HEAD
        + """SEC("tc") int out(struct __sk_buff *skb) {
    struct bpf_sock_tuple who = {};
    struct bpf_sock *found = bpf_sk_lookup_udp(skb, &who, sizeof who.ipv4, 0, 0);
    if (found) bpf_sk_release(found);
    return 0; }"""
    )
    spec = read_object(compile_c("out.bpf.c", text=text).object)
    with (
        open_kernel("user") as kernel,
        pytest.raises(NotSupportedError, match="bpf_sk_lookup_udp does not work in user space: there are no sockets"),
    ):
        Collection.load(spec, kernel)


@pytest.mark.parametrize("engine", ["jit", "interp"])
@pytest.mark.parametrize(
    ("name", "results"),
    [
        ("loops", [10, 45, 5, 55, -22, 2**32 - 7, 0, 4, 67]),
        ("elements", [40, 780 * 1001, 40, 20, 380 * 1001, 4, 6000, 3, -22]),
    ],
)
def test_loops_and_walks_count_what_they_visit(
    monkeypatch: pytest.MonkeyPatch, kernel: Kernel, name: str, results: list[int], engine: str
) -> None:
    monkeypatch.setenv("EBPF_ENGINE", engine)
    spec = read_object(compile_c(f"{name}.bpf.c", text=HEAD + PROGRAMS[name]).object)
    with Collection.load(spec, kernel) as held:
        held.programs[name].run(bytes(64))
        seen = held.variables()["seen"]
        assert isinstance(seen, dict)
        assert seen["result"][: len(results)] == results
