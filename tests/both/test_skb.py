"""Programs above the driver: a packet, its context and its checksums come out of both kernels alike."""

import random
import struct

import pytest

from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import KernelError, VerifierError
from ebpf.isa import Insn, encode
from ebpf.kernels import open_kernel
from ebpf.object import Collection
from ebpf.sys.calls import ProgLoad, ProgTestRun
from ebpf.sys.kernel import Kernel
from ebpf.uapi import CONTEXTS, FieldKind, ProgType

HEAD = """
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
struct seen { __u32 field[12]; long result[16]; unsigned char bytes[32]; };
struct seen seen = {};
char LICENSE[] SEC("license") = "GPL";
"""
# What a tc program sees of a packet, and what comes of every helper on it.
LOOK = """
SEC("tc") int look(struct __sk_buff *skb)
{
    __u32 *f = seen.field;
    f[0] = skb->len; f[1] = skb->protocol; f[2] = skb->pkt_type; f[3] = skb->ifindex; f[4] = skb->ingress_ifindex;
    f[5] = skb->mark; f[6] = skb->priority; f[7] = skb->cb[1]; f[8] = skb->wire_len; f[9] = skb->gso_segs; f[10] = skb->vlan_present;
    f[11] = (__u32)(skb->data_end - skb->data);
    skb->mark = 77; skb->priority += 1; skb->cb[4] = f[0]; skb->tc_classid = 3;
    ((volatile struct __sk_buff *)skb)->queue_mapping = 2;
    long *r = seen.result;
    r[0] = bpf_skb_load_bytes(skb, 12, seen.bytes, 8);
    r[1] = bpf_skb_load_bytes(skb, 60, seen.bytes + 8, 8);
    r[2] = bpf_skb_load_bytes_relative(skb, 0, seen.bytes + 16, 4, BPF_HDR_START_NET);
    r[3] = bpf_skb_load_bytes_relative(skb, 0, seen.bytes + 20, 4, BPF_HDR_START_MAC);
    r[4] = bpf_skb_load_bytes_relative(skb, 400, seen.bytes + 24, 4, BPF_HDR_START_NET);
    r[5] = bpf_skb_pull_data(skb, 20);
    r[6] = bpf_skb_pull_data(skb, 5000);
    r[7] = bpf_skb_store_bytes(skb, 6, seen.bytes, 6, BPF_F_RECOMPUTE_CSUM);
    r[8] = bpf_skb_store_bytes(skb, 6, seen.bytes, 6, 1 << 9);
    r[9] = bpf_skb_store_bytes(skb, 70000, seen.bytes, 6, 0);
    r[10] = bpf_csum_update(skb, 5);
    r[11] = bpf_skb_change_type(skb, 2);
    r[12] = bpf_skb_change_type(skb, 9);
    r[13] = skb->pkt_type;
    bpf_set_hash(skb, 5);
    r[14] = skb->hash;
    bpf_set_hash_invalid(skb);
    r[15] = skb->hash;
    return TC_ACT_OK;
}
"""
# A network address translation as people write it: source and port replaced, both checksums brought up to date.
TRANSLATE = """
SEC("tc") int translate(struct __sk_buff *skb)
{
    void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
    struct ethhdr *eth = data;
    struct iphdr *ip = (void *)(eth + 1);
    struct udphdr *udp = (void *)(ip + 1);
    if ((void *)(udp + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP) || ip->ihl != 5 || ip->protocol != 17)
        return TC_ACT_SHOT;
    __be32 old = ip->saddr, new = bpf_htonl(0x0a010203);
    __be16 port = udp->source, to = bpf_htons(bpf_ntohs(port) + 1);
    const int at = sizeof(*eth) + sizeof(*ip);
    seen.result[0] = bpf_l4_csum_replace(skb, at + 6, old, new, BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0 | 4);
    seen.result[1] = bpf_l4_csum_replace(skb, at + 6, port, to, BPF_F_MARK_MANGLED_0 | 2);
    seen.result[2] = bpf_l3_csum_replace(skb, sizeof(*eth) + 10, old, new, 4);
    seen.result[3] = bpf_l3_csum_replace(skb, sizeof(*eth) + 10, 0, bpf_csum_diff(&old, 4, &new, 4, 0), 0);
    seen.result[4] = bpf_l3_csum_replace(skb, sizeof(*eth) + 11, old, new, 4);
    seen.result[5] = bpf_l3_csum_replace(skb, sizeof(*eth) + 10, old, new, 3);
    seen.result[6] = bpf_l4_csum_replace(skb, 3000, old, new, 4);
    seen.result[7] = bpf_skb_store_bytes(skb, sizeof(*eth) + 12, &new, 4, 0);
    seen.result[8] = bpf_skb_store_bytes(skb, at, &to, 2, 0);
    return TC_ACT_OK;
}
"""
RESIZE = """
SEC("tc") int resize(struct __sk_buff *skb)
{
    long *r = seen.result;
    r[0] = bpf_skb_change_tail(skb, skb->len + 20, 0);
    r[1] = skb->len;
    r[2] = bpf_skb_change_tail(skb, 10, 0);
    r[3] = bpf_skb_change_tail(skb, 40, 1);
    r[4] = bpf_skb_change_head(skb, 16, 0);
    r[5] = skb->len;
    r[6] = bpf_skb_change_head(skb, 16, 2);
    void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
    if (data + 14 > end)
        return TC_ACT_SHOT;
    *(__u32 *)data = 0x11223344;
    return skb->len > 100 ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}
"""
FILTER = """
SEC("socket") int filter(struct __sk_buff *skb)
{
    seen.field[0] = skb->len; seen.field[1] = skb->protocol; seen.field[2] = skb->pkt_type;
    skb->cb[0] = 9;
    unsigned char protocol = 0;
    seen.result[0] = bpf_skb_load_bytes(skb, 9, &protocol, 1);
    seen.result[1] = bpf_skb_load_bytes_relative(skb, 12, seen.bytes, 2, BPF_HDR_START_MAC);
    return protocol == 17 ? skb->len : 0;
}
"""
PROGRAMS = {"look": LOOK, "translate": TRANSLATE, "resize": RESIZE, "filter": FILTER}


def checksum(data: bytes) -> int:
    """RFC 1071's."""
    total = sum(struct.unpack(f">{len(data) // 2}H", data[: len(data) // 2 * 2])) + (data[-1] << 8 if len(data) % 2 else 0)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def datagram(payload: bytes, *, chance: random.Random, sum_: bool = True) -> bytes:
    """An UDP datagram in IPv4 in Ethernet, with right checksums."""
    source, to = chance.randbytes(4), chance.randbytes(4)
    udp = struct.pack(">HHHH", chance.randrange(1, 60000), 53, 8 + len(payload), 0) + payload
    if sum_:
        udp = udp[:6] + struct.pack(">H", checksum(source + to + struct.pack(">BBH", 0, 17, len(udp)) + udp) or 0xFFFF) + udp[8:]
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), chance.getrandbits(16), 0, 64, 17, 0, source, to)
    head = head[:10] + struct.pack(">H", checksum(head)) + head[12:]
    mac = chance.choice((bytes(6), b"\xff" * 6, b"\x01\x00\x5e\x00\x00\x01", chance.randbytes(6)))
    return mac + chance.randbytes(6) + b"\x08\x00" + head + udp


def packets(count: int) -> list[bytes]:
    chance = random.Random(11)
    out = [datagram(chance.randbytes(chance.randrange(90)), chance=chance, sum_=i % 5 > 0) for i in range(count)]
    out += [chance.randbytes(12) + struct.pack(">H", kind) + chance.randbytes(60) for kind in (0x0806, 0x86DD, 0x8100, 0x0040)]
    return [*out, bytes(14), bytes(12) + b"\x00\x20\xff\xff" + bytes(40)]


@pytest.mark.linux
@pytest.mark.parametrize("engine", ["jit", "interp"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_packet_comes_out_alike(monkeypatch: pytest.MonkeyPatch, name: str, engine: str) -> None:
    monkeypatch.setenv("EBPF_ENGINE", engine)
    spec = read_object(compile_c(f"{name}.bpf.c", text=HEAD + PROGRAMS[name]).object)
    context = bytearray(192)
    struct.pack_into("<I", context, 8, 5)
    struct.pack_into("<I", context, 32, 6)
    struct.pack_into("<5I", context, 48, 1, 2, 3, 4, 5)
    with (
        open_kernel("user") as user,
        open_kernel("linux") as linux,
        Collection.load(spec, user) as ours,
        Collection.load(spec, linux) as theirs,
    ):
        for number, packet in enumerate(packets(60 if engine == "jit" else 12)):
            for ctx in (b"", bytes(context)):
                answers = []
                for loaded in (ours, theirs):
                    (program,) = loaded.programs.values()
                    call = ProgTestRun(program.fd, packet, ctx, 1, data_size_out=len(packet) + 512, ctx_size_out=len(ctx))
                    try:
                        answer = program.kernel.bpf(call)
                        answers.append((number, answer.retval, answer.data, answer.ctx, loaded.variables()))
                    except KernelError as error:
                        answers.append((number, error.errno))
                assert answers[0] == answers[1]


def test_translated_checksums_are_right(kernel: Kernel) -> None:
    spec = read_object(
        compile_c("translate.bpf.c", text=HEAD + TRANSLATE.replace("seen.result[3] = bpf_l3", "seen.result[3] = 0; if (0) bpf_l3")).object
    )
    with Collection.load(spec, kernel) as loaded:
        packet = datagram(b"some payload", chance=random.Random(3))
        answer = loaded.programs["translate"].run(packet)
    assert answer.retval == 0
    ip, udp = answer.data[14:34], answer.data[34:]
    assert ip[12:16] == bytes((10, 1, 2, 3))
    assert checksum(ip) == 0
    assert checksum(ip[12:20] + struct.pack(">BBH", 0, 17, len(udp)) + udp) == 0
    assert int.from_bytes(udp[:2], "big") == int.from_bytes(packet[34:36], "big") + 1


@pytest.mark.parametrize(
    ("size", "context"),
    [(13, b""), (60, struct.pack("<I", 60).ljust(192, b"\0")), (60, bytes(192) + b"\1" + bytes(7))],
    ids=["short", "length given", "long context"],
)
def test_a_test_run_that_makes_no_sense_is_refused(kernel: Kernel, size: int, context: bytes) -> None:
    fd = kernel.bpf(ProgLoad(int(ProgType.SCHED_CLS), encode([Insn(0xB7), Insn(0x95)]), "GPL")).fd
    with pytest.raises(KernelError) as refused:
        kernel.bpf(ProgTestRun(fd, bytes(size), context, 1))
    kernel.close(fd)
    assert refused.value.errno in (7, 22)


def test_a_socket_filter_sees_no_packet_memory(kernel: Kernel) -> None:
    text = HEAD + 'SEC("socket") int filter(struct __sk_buff *skb) { return skb->data; }'
    spec = read_object(compile_c("filter.bpf.c", text=text).object)
    with pytest.raises(VerifierError) as refused:
        Collection.load(spec, kernel).close()
    assert "invalid bpf_context access off=76 size=4" in refused.value.log


@pytest.mark.linux
@pytest.mark.parametrize("type_", [ProgType.SOCKET_FILTER, ProgType.SCHED_CLS, ProgType.SCHED_ACT], ids=lambda t: t.name)
def test_the_fields_of_a_packets_context_may_be_used_as_on_linux(type_: ProgType) -> None:
    sizes = {1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18}
    ends = [Insn(0xB7, 0), Insn(0x95)]
    with open_kernel("user") as user, open_kernel("linux") as linux:
        for field in CONTEXTS["__sk_buff"].fields:
            if field.kind == FieldKind.POINTER:
                continue
            load = [Insn(0x61 | sizes[field.size], 0, 1, field.offset), *ends]
            store = [Insn(0xB7, 2), Insn(0x63 | sizes[field.size], 1, 2, field.offset), *ends]
            for what, insns in (("load", load), ("store", store)):
                verdicts = []
                for kernel in (user, linux):
                    try:
                        kernel.close(kernel.bpf(ProgLoad(int(type_), encode(insns), "GPL")).fd)
                        verdicts.append(True)
                    except KernelError:
                        verdicts.append(False)
                assert (field.name, what, verdicts[0]) == (field.name, what, verdicts[1])
