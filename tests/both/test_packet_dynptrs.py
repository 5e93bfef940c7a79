"""Dynptrs of packets, and the kernel functions on dynptrs: in every engine as on Linux."""

import pytest

from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import VerifierError
from ebpf.object import Collection
from ebpf.spec import ObjectSpec
from ebpf.sys.kernel import Kernel

HEAD = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
extern int bpf_dynptr_from_skb(struct __sk_buff *s, __u64 flags, struct bpf_dynptr *p) __ksym;
extern int bpf_dynptr_from_xdp(struct xdp_md *x, __u64 flags, struct bpf_dynptr *p) __ksym;
extern void *bpf_dynptr_slice(const struct bpf_dynptr *p, __u32 offset, void *buffer, __u32 size) __ksym;
extern void *bpf_dynptr_slice_rdwr(const struct bpf_dynptr *p, __u32 offset, void *buffer, __u32 size) __ksym;
extern int bpf_dynptr_adjust(const struct bpf_dynptr *p, __u32 start, __u32 end) __ksym;
extern _Bool bpf_dynptr_is_null(const struct bpf_dynptr *p) __ksym;
extern _Bool bpf_dynptr_is_rdonly(const struct bpf_dynptr *p) __ksym;
extern __u32 bpf_dynptr_size(const struct bpf_dynptr *p) __ksym;
extern int bpf_dynptr_clone(const struct bpf_dynptr *p, struct bpf_dynptr *to) __ksym;
long answers[24];
__u8 bytes[8];
char LICENSE[] SEC("license") = "GPL";
"""
BODY = """
    struct bpf_dynptr p, q, none;
    __u8 buffer[4] = {}, word[4] = {0xA, 0xB, 0xC, 0xD}, *at;
    answers[0] = bpf_dynptr_from_KIND(ctx, 1, &none);
    answers[1] = bpf_dynptr_is_null(&none) + 2 * bpf_dynptr_is_rdonly(&none);
    answers[2] = (int)bpf_dynptr_size(&none);
    answers[3] = bpf_dynptr_from_KIND(ctx, 0, &p);
    answers[4] = bpf_dynptr_is_null(&p) + 2 * bpf_dynptr_is_rdonly(&p);
    answers[5] = bpf_dynptr_size(&p);
    at = bpf_dynptr_slice(&p, 20, buffer, sizeof(buffer));
    answers[6] = at ? at[0] << 8 | at[3] : -1;
    at = bpf_dynptr_slice(&p, 61, buffer, sizeof(buffer));
    answers[7] = at != 0;
    answers[8] = bpf_dynptr_clone(&p, &q);
    answers[9] = bpf_dynptr_adjust(&q, 20, 30);
    answers[10] = bpf_dynptr_size(&q);
    answers[11] = bpf_dynptr_adjust(&q, 4, 11);
    answers[12] = bpf_dynptr_adjust(&q, 4, 3);
    answers[13] = bpf_dynptr_read(bytes, 4, &q, 1, 0);
    answers[14] = bpf_dynptr_read(bytes, 8, &q, 3, 0);
    answers[15] = bpf_dynptr_write(&q, 2, word, 4, 0);
    answers[16] = bpf_dynptr_write(&q, 7, word, 4, 0);
    answers[17] = bpf_dynptr_write(&q, 0, word, 1, 8);
    at = bpf_dynptr_slice_rdwr(&q, 8, buffer, 2);
    if (at)
        at[1] = 0xEE;
    answers[18] = at != 0;
    answers[19] = bpf_dynptr_data(&q, 0, 4) != 0;
    answers[20] = bpf_dynptr_write(&none, 0, word, 4, 0);
    answers[21] = bpf_dynptr_clone(&none, &q);
    answers[22] = bpf_dynptr_adjust(&q, 0, 0);
    return 0;
"""
SOURCE = (
    HEAD
    + 'SEC("xdp") int of_xdp(struct xdp_md *ctx) {'
    + BODY.replace("KIND", "xdp")
    + '}\nSEC("tc") int of_skb(struct __sk_buff *ctx) {'
    + BODY.replace("KIND", "skb")
    + '}\nSEC("cgroup_skb/egress") int reading(struct __sk_buff *ctx) {'
    + BODY.replace("KIND", "skb").replace("return 0;", "return 1;").replace("slice_rdwr", "slice").replace("at[1] = 0xEE", "buffer[0]++")
    + """}
SEC("xdp") int moves(struct xdp_md *ctx)
{
    struct bpf_dynptr p;
    __u8 buffer[4], *at;
    answers[0] = bpf_dynptr_from_xdp(ctx, 0, &p);
    answers[1] = bpf_xdp_adjust_head(ctx, 16);
    at = bpf_dynptr_slice(&p, 0, buffer, 4);
    answers[2] = at ? at[0] : -1;
    answers[3] = bpf_dynptr_size(&p);
    answers[4] = bpf_dynptr_read(buffer, 4, &p, 60, 0);
    answers[5] = bpf_dynptr_write(&p, 60, buffer, 4, 0);
    return XDP_PASS;
}
SEC("tc") int memory(struct __sk_buff *ctx)
{
    struct bpf_dynptr p, q;
    answers[0] = bpf_dynptr_from_mem(bytes, 8, 0, &p);
    answers[1] = bpf_dynptr_adjust(&p, 2, 6);
    answers[2] = bpf_dynptr_size(&p);
    __u8 *at = bpf_dynptr_slice_rdwr(&p, 1, 0, 2);
    if (at)
        at[0] = 77;
    answers[3] = bpf_dynptr_clone(&p, &q);
    answers[4] = bpf_dynptr_data(&q, 0, 4) == bytes + 2;
    return 0;
}
"""
)
PACKET = bytes(range(64))


@pytest.fixture(scope="module")
def spec() -> ObjectSpec:
    return read_object(compile_c("slices.bpf.c", text=SOURCE).object, "slices.o")


WRITING = [-22, 1, -22, 0, 0, 64, 20 << 8 | 23, 0, 0, 0, 10, -34, -22, 0, -7, 0, -7, -22, 1, 0, -22, -22, -22]
READING = [*WRITING[:4], 2, 50, 34 << 8 | 37, *WRITING[7:15], -22, -22, -22, 1, 0, -22, -22, -22]


@pytest.mark.parametrize(("name", "answers"), [("of_xdp", WRITING), ("of_skb", WRITING), ("reading", READING)])
def test_a_packet_is_reached_through_a_dynptr(kernel: Kernel, engine: str, spec: ObjectSpec, name: str, answers: list[int]) -> None:
    with Collection.load(spec, kernel) as held:
        result = held.programs[name].run(PACKET)
        assert list(held.variables()["answers"])[:23] == answers
        start = 21 if name != "reading" else 35
        assert list(held.variables()["bytes"])[:4] == list(range(start, start + 4))
        written = bytearray(PACKET)
        if name != "reading":
            written[22:26], written[29] = bytes([0xA, 0xB, 0xC, 0xD]), 0xEE
            assert result.data == bytes(written)


def test_a_packet_that_moved_is_reached_where_it_is(kernel: Kernel, engine: str, spec: ObjectSpec) -> None:
    with Collection.load(spec, kernel) as held:
        held.programs["moves"].run(PACKET)
        assert list(held.variables()["answers"])[:6] == [0, 0, 16, 64, -22, -22]


def test_memory_has_pieces_too(kernel: Kernel, engine: str, spec: ObjectSpec) -> None:
    with Collection.load(spec, kernel) as held:
        held.programs["memory"].run(PACKET)
        assert list(held.variables()["answers"])[:5] == [0, 0, 4, 0, 1]
        assert list(held.variables()["bytes"]) == [0, 0, 0, 77, 0, 0, 0, 0]


def test_a_piece_to_write_is_for_programs_that_write(kernel: Kernel) -> None:
    text = (
        HEAD
        + """
SEC("cgroup_skb/egress") int wrong(struct __sk_buff *ctx)
{
    struct bpf_dynptr p;
    __u8 buffer[2], *at;
    bpf_dynptr_from_skb(ctx, 0, &p);
    at = bpf_dynptr_slice_rdwr(&p, 0, buffer, 2);
    if (at)
        at[0] = 1;
    return 1;
}
"""
    )
    with pytest.raises(VerifierError, match="'wrong'"):
        Collection.load(read_object(compile_c("slices.bpf.c", text=text).object, "slices.o"), kernel).close()


def test_a_piece_is_void_when_the_packet_moves(kernel: Kernel) -> None:
    text = SOURCE.replace("    at = bpf_dynptr_slice(&p, 0, buffer, 4);\n", "").replace(
        "    answers[1] = bpf_xdp_adjust_head", "    at = bpf_dynptr_slice(&p, 0, buffer, 4);\n    answers[1] = bpf_xdp_adjust_head"
    )
    with pytest.raises(VerifierError):
        Collection.load(read_object(compile_c("slices.bpf.c", text=text).object, "slices.o"), kernel).close()
