"""Helpers on packets answer and change what Linux's do: the same program, the same packet, both kernels."""

import os
from collections.abc import Iterator

import pytest

from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.kernels import open_kernel
from ebpf.sys.calls import ProgLoad, ProgTestRun
from ebpf.sys.kernel import Kernel
from ebpf.uapi import ProgType
from support import linux_bpf

TEMPLATE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("xdp") int f(struct xdp_md *ctx)
{
    long r[4] = {0, 0, 0, 0};
    unsigned char b[64] = "the quick brown fox jumps over the lazy dog, and then some more";
    BODY
    r[3] = ctx->data_end - ctx->data;
    bpf_xdp_store_bytes(ctx, 0, r, sizeof(r));
    return XDP_PASS;
}
char LICENSE[] SEC("license") = "GPL";
"""
PACKET = bytes(range(100))


def _adjust(what: str, *amounts: int) -> list[tuple[str, str]]:
    return [(f"{what} {n:+}", f"r[0] = bpf_xdp_adjust_{what}(ctx, {n});") for n in amounts]


BODIES = [
    *_adjust("head", 0, 1, -1, 14, 54, 68, 86, 87, 100, 101, -100, -216, -217, -255, -256, -257, -1000),
    *_adjust("tail", 0, 1, -1, -46, -86, -87, -100, -101, 100, 320, 321, 1000, 3420, 3421, 4000),
    *_adjust("meta", 0, -4, -5, -32, -36, -216, -252, -256, 4),
    ("head back after meta", "r[0] = bpf_xdp_adjust_meta(ctx, -8); r[1] = bpf_xdp_adjust_head(ctx, -8);"),
    ("head to the limit after meta", "r[0] = bpf_xdp_adjust_meta(ctx, -8); r[1] = bpf_xdp_adjust_head(ctx, -212);"),
    (
        "head forward after meta",
        "r[0] = bpf_xdp_adjust_meta(ctx, -8); r[1] = bpf_xdp_adjust_head(ctx, 20); r[2] = ctx->data - ctx->data_meta;",
    ),
    ("tail after head", "r[0] = bpf_xdp_adjust_head(ctx, -40); r[1] = bpf_xdp_adjust_tail(ctx, 30);"),
    ("grown tail is zero", "r[0] = bpf_xdp_adjust_tail(ctx, -50); r[1] = bpf_xdp_adjust_tail(ctx, 50);"),
    *[
        (f"load {n} at {at}", f"r[0] = bpf_xdp_load_bytes(ctx, {at}, b, {n}); r[1] = *(long *)b; r[2] = *(long *)(b + 8);")
        for at, n in ((0, 8), (92, 8), (93, 8), (100, 1), (0xFFFF, 1), (0x10000, 1), (99, 1))
    ],
    *[
        (f"store {n} at {at}", f"r[0] = bpf_xdp_store_bytes(ctx, {at}, b, {n});")
        for at, n in ((40, 8), (92, 8), (93, 8), (100, 1), (0x10000, 1))
    ],
    *[
        (f"csum {a} {b} seed {seed:#x}", f"r[0] = bpf_csum_diff((void *)b, {a}, (void *)(b + 32), {b}, {seed:#x});")
        for a, b in ((4, 4), (20, 20), (4, 8), (28, 4))
        for seed in (0, 1, 0xFFFF, 0x12345678, 0xFFFFFFFF)
    ],
    *[(f"csum only to, seed {s:#x}", f"r[0] = bpf_csum_diff(0, 0, (void *)b, 20, {s:#x});") for s in (0, 0xFFFF, 0xFFFFFFFF)],
    *[(f"csum only from, seed {s:#x}", f"r[0] = bpf_csum_diff((void *)b, 20, 0, 0, {s:#x});") for s in (0, 0xFFFF, 0xFFFFFFFF)],
    *[(f"csum of nothing, seed {s:#x}", f"r[0] = bpf_csum_diff(0, 0, 0, 0, {s:#x});") for s in (0, 0x12345678)],
    ("csum of 3 bytes", "r[0] = bpf_csum_diff((void *)b, 3, 0, 0, 0);"),
    ("length", "r[0] = bpf_xdp_get_buff_len(ctx);"),
    ("numa node", "r[0] = bpf_get_numa_node_id();"),
    ("kernel read", "r[0] = bpf_probe_read_kernel(b, 16, b + 20); r[1] = *(long *)b; r[2] = *(long *)(b + 8);"),
    ("kernel read of nothing", "r[0] = bpf_probe_read_kernel(b, 0, b + 20); r[1] = *(long *)b;"),
    ("kernel read of null", "r[0] = bpf_probe_read_kernel(b, 16, 0); r[1] = *(long *)b; r[2] = *(long *)(b + 16);"),
    ("kernel read of the end of memory", "r[0] = bpf_probe_read_kernel(b, 16, (void *)-8L); r[1] = *(long *)b;"),
    ("kernel string", "r[0] = bpf_probe_read_kernel_str(b, 16, b + 40); r[1] = *(long *)b; r[2] = *(long *)(b + 8);"),
    ("kernel string that fits", "r[0] = bpf_probe_read_kernel_str(b, 32, b + 55); r[1] = *(long *)b; r[2] = *(long *)(b + 8);"),
    ("kernel string of null", "r[0] = bpf_probe_read_kernel_str(b, 16, 0); r[1] = *(long *)b; r[2] = *(long *)(b + 8);"),
]


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with open_kernel("user") as opened:
        yield opened


@pytest.mark.linux
@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in BODIES])
def test_a_helper_does_what_linuxs_does(kernel: Kernel, body: str) -> None:
    spec = read_object(compile_c("helper.c", text=TEMPLATE.replace("BODY", body)).object)
    (program,) = spec.programs.values()
    fd, log = linux_bpf.load(program.insns, log_level=1)
    assert fd >= 0, log
    try:
        theirs = linux_bpf.run_packet(fd, PACKET)
    finally:
        os.close(fd)
    held = kernel.bpf(ProgLoad(prog_type=ProgType.XDP, insns=program.insns, license="GPL", name="f")).fd
    try:
        ours = kernel.bpf(ProgTestRun(held, PACKET))
    finally:
        kernel.close(held)
    assert (ours.retval, ours.data) == theirs
