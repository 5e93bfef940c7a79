"""Dynptrs of local memory and of ring buffers: what comes of each use is what Linux says."""

import pytest

from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.events import RingBuffer
from ebpf.kernels import open_kernel
from ebpf.object import Collection

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); } ring SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, char[64]); } area SEC(".maps");
long result[48];
char out[16] = "abcdefghijklmno";
SEC("tc") int dynptrs(struct __sk_buff *skb)
{
    long *r = result;
    __u32 zero = 0;
    char *memory = bpf_map_lookup_elem(&area, &zero);
    if (!memory)
        return 1;
    struct bpf_dynptr local, refused, ring_, full, none;
    r[0] = bpf_dynptr_from_mem(memory, 64, 0, &local);
    r[1] = bpf_dynptr_write(&local, 3, "hello", 6, 0);
    r[2] = bpf_dynptr_write(&local, 59, "hello", 6, 0);
    r[3] = bpf_dynptr_write(&local, 58, "world", 6, 0);
    r[4] = bpf_dynptr_write(&local, 0, "x", 1, 1);
    r[5] = bpf_dynptr_read(out, 6, &local, 3, 0);
    r[6] = bpf_dynptr_read(out, 7, &local, 58, 0);
    r[7] = bpf_dynptr_read(out + 6, 6, &local, 58, 0);
    r[8] = bpf_dynptr_read(out, 1, &local, 0, 2);
    r[9] = bpf_dynptr_read(out, 1, &local, 0xffffffff, 0);
    char *piece = bpf_dynptr_data(&local, 60, 4);
    r[10] = piece ? piece[0] : -1;
    r[11] = bpf_dynptr_data(&local, 61, 4) ? 1 : 0;
    r[12] = bpf_dynptr_from_mem(memory, 64, 1, &refused);
    r[13] = bpf_dynptr_write(&refused, 0, "x", 1, 0);
    r[14] = bpf_dynptr_read(out, 1, &refused, 0, 0);
    r[15] = bpf_dynptr_data(&refused, 0, 1) ? 1 : 0;
    r[16] = bpf_ringbuf_reserve_dynptr(&ring, 100, 0, &ring_);
    r[17] = bpf_dynptr_write(&ring_, 0, "in the ring", 12, 0);
    r[18] = bpf_dynptr_write(&ring_, 95, "in the ring", 12, 0);
    r[19] = bpf_ringbuf_reserve_dynptr(&ring, 5000, 0, &full);
    r[20] = bpf_dynptr_write(&full, 0, "x", 1, 0);
    bpf_ringbuf_submit_dynptr(&full, 0);
    char *end = bpf_dynptr_data(&ring_, 96, 4);
    if (end)
        __builtin_memcpy(end, "end", 4);
    bpf_ringbuf_submit_dynptr(&ring_, 0);
    r[21] = bpf_ringbuf_reserve_dynptr(&ring, 8, 0, &none);
    r[22] = bpf_dynptr_write(&none, 0, "away", 5, 0);
    bpf_ringbuf_discard_dynptr(&none, 0);
    r[23] = bpf_ringbuf_reserve_dynptr(&ring, 8, 1, &full);
    bpf_ringbuf_discard_dynptr(&full, 0);
    return 0;
}
char LICENSE[] SEC("license") = "GPL";
"""


@pytest.mark.linux
@pytest.mark.parametrize("engine", ["jit", "interp"])
def test_every_use_ends_as_on_linux(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    monkeypatch.setenv("EBPF_ENGINE", engine)
    spec = read_object(compile_c("dynptrs.bpf.c", text=SOURCE).object)
    seen = []
    for name in ("linux", "user"):
        with open_kernel(name) as kernel, Collection.load(spec, kernel) as held:
            with RingBuffer(held.maps["ring"]) as ring:
                retval = held.programs["dynptrs"].run(bytes(64)).retval
                records = list(ring.records())
            seen.append((retval, held.variables(), held.maps["area"].raw[bytes(4)], [r[:12] + r[96:] for r in records]))
    theirs, ours = seen
    assert ours == theirs
    assert ours[0] == 0
    assert ours[3] == [b"in the ring\0end\0"]
