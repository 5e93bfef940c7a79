"""Ring buffers, perf buffers and the trace, read with one reader from either kernel; test runs give the same answers."""

import os
import struct

import pytest

from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import KernelError, VerifierError
from ebpf.events import PerfBuffer, RingBuffer, TraceLine, TracePipe
from ebpf.object import Collection
from ebpf.spec import ObjectSpec
from ebpf.sys.kernel import Kernel
from ebpf.uapi import UpdateFlag

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); } ring SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY); __uint(key_size, 4); __uint(value_size, 4); } perf SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 4); __type(key, __u32); __type(value, __u64); } table SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u64); } cpus SEC(".maps");
__u64 dropped = 0, n = 0;
SEC("xdp") int to_ring(struct xdp_md *ctx)
{
    struct { __u64 n; char text[40]; } event = {.n = n++, .text = "hello"};
    if (bpf_ringbuf_output(&ring, &event, sizeof(event), 0))
        dropped++;
    return XDP_PASS;
}
SEC("xdp") int reserve(struct xdp_md *ctx)
{
    __u64 *place = bpf_ringbuf_reserve(&ring, 8, 0);
    if (!place)
        return XDP_ABORTED;
    *place = ++n;
    if (n & 1)
        bpf_ringbuf_discard(place, 0);
    else
        bpf_ringbuf_submit(place, 0);
    return XDP_PASS;
}
SEC("xdp") int to_perf(struct xdp_md *ctx)
{
    __u64 event = n++;
    return bpf_perf_event_output(ctx, &perf, BPF_F_CURRENT_CPU, &event, sizeof(event)) ? XDP_ABORTED : XDP_PASS;
}
SEC("xdp") int count(struct xdp_md *ctx)
{
    __u32 key = 0;
    __u64 one = 1, *value = bpf_map_lookup_elem(&cpus, &key);
    if (value)
        *value += 1;
    key = 7;
    return bpf_map_update_elem(&table, &key, &one, BPF_NOEXIST) ? XDP_DROP : XDP_PASS;
}
SEC("xdp") int say(struct xdp_md *ctx)
{
    bpf_printk("n=%d hex=%x text=%s", 42, 255, "abc");
    return XDP_PASS;
}
char LICENSE[] SEC("license") = "GPL";
"""
PACKET = bytes(64)


@pytest.fixture(scope="module")
def spec() -> ObjectSpec:
    return read_object(compile_c("events.bpf.c", text=SOURCE).object, "events.bpf.o")


def test_records_come_in_order_and_wrap_around(kernel: Kernel, spec: ObjectSpec) -> None:
    with Collection.load(spec, kernel, programs=["to_ring"]) as held, RingBuffer(held.maps["ring"]) as ring:
        got = []
        for _ in range(20):
            for _ in range(30):
                held.programs["to_ring"].run(PACKET)
            ring.poll(lambda record: got.append(struct.unpack("<Q40s", record)), timeout_s=1)
        assert [number for number, _ in got] == list(range(600))
        assert {text.rstrip(b"\0") for _, text in got} == {b"hello"}
        assert held.variables()["dropped"] == 0


def test_a_full_ring_drops_and_the_program_is_told(kernel: Kernel, spec: ObjectSpec) -> None:
    with Collection.load(spec, kernel, programs=["to_ring"]) as held, RingBuffer(held.maps["ring"]) as ring:
        for _ in range(100):
            held.programs["to_ring"].run(PACKET)
        kept = len(list(ring.records()))
        assert kept == 4096 // 56
        assert held.variables()["dropped"] == 100 - kept


def test_discarded_records_are_not_seen(kernel: Kernel, spec: ObjectSpec) -> None:
    with Collection.load(spec, kernel, programs=["reserve"]) as held, RingBuffer(held.maps["ring"]) as ring:
        for _ in range(10):
            held.programs["reserve"].run(PACKET)
        assert [struct.unpack("<Q", record)[0] for record in ring.records()] == [2, 4, 6, 8, 10]


def test_an_exception_in_a_callback_reaches_the_caller(kernel: Kernel, spec: ObjectSpec) -> None:
    with Collection.load(spec, kernel, programs=["to_ring"]) as held, RingBuffer(held.maps["ring"]) as ring:
        held.programs["to_ring"].run(PACKET)
        with pytest.raises(ZeroDivisionError):
            ring.poll(lambda record: 1 // 0, timeout_s=1)


def test_nothing_to_read_is_told_after_the_time(kernel: Kernel, spec: ObjectSpec) -> None:
    with Collection.load(spec, kernel, programs=["to_ring"]) as held, RingBuffer(held.maps["ring"]) as ring:
        assert ring.poll(print, timeout_s=0.05) == 0


def test_samples_come_through_perf_buffers_and_losses_are_counted(kernel: Kernel, spec: ObjectSpec) -> None:
    with Collection.load(spec, kernel, programs=["to_perf"]) as held, PerfBuffer(held.maps["perf"], pages=1) as perf:
        got: list[int] = []
        verdicts = [held.programs["to_perf"].run(PACKET).retval for _ in range(400)]
        while perf.poll(lambda cpu, data: got.append(struct.unpack_from("<Q", data)[0]), timeout_s=0.05):
            pass
        # A loss is reported with the next sample that fits.
        held.programs["to_perf"].run(PACKET)
        perf.poll(lambda cpu, data: got.append(struct.unpack_from("<Q", data)[0]), timeout_s=1)
        assert sorted(got) == got or kernel.possible_cpus > 1
        assert len(got) == verdicts.count(2) + 1
        assert perf.lost <= verdicts.count(0)
        assert verdicts.count(0) > 0


def test_a_map_answers_with_linuxs_errno(kernel: Kernel, spec: ObjectSpec) -> None:
    with Collection.load(spec, kernel, programs=["count"]) as held:
        table = held.maps["table"]
        one, value = struct.pack("<I", 1), struct.pack("<Q", 5)
        assert table.lookup(one) is None
        assert not table.delete(one)
        table.update(one, value)
        with pytest.raises(KernelError, match="EEXIST"):
            table.update(one, value, UpdateFlag.NOEXIST)
        with pytest.raises(KernelError, match="ENOENT"):
            table.update(struct.pack("<I", 2), value, UpdateFlag.EXIST)
        for key in range(2, 5):
            table.update(struct.pack("<I", key), value)
        with pytest.raises(KernelError, match="E2BIG"):
            table.update(struct.pack("<I", 9), value)
        assert sorted(table.items()) == [(1, 5), (2, 5), (3, 5), (4, 5)]
        assert sorted(table.walk()) == sorted(table.raw) == sorted(struct.pack("<I", key) for key in table)
        with pytest.raises(KernelError, match="EPERM"):
            held.maps[".rodata"].update(bytes(4), bytes(held.maps[".rodata"].spec.value_size))


def test_a_program_and_python_share_a_map(kernel: Kernel, spec: ObjectSpec) -> None:
    with Collection.load(spec, kernel, programs=["count"]) as held:
        assert [held.programs["count"].run(PACKET).retval for _ in range(3)] == [2, 1, 1]
        assert held.maps["table"].lookup(struct.pack("<I", 7)) == struct.pack("<Q", 1)
        raw = held.maps["cpus"].lookup(bytes(4)) or b""
        assert sum(struct.unpack(f"<{kernel.possible_cpus}Q", raw)) == 3


def test_the_trace_has_who_and_what(kernel: Kernel, spec: ObjectSpec) -> None:
    with TracePipe(kernel) as pipe, Collection.load(spec, kernel, programs=["say"]) as held:
        held.programs["say"].run(PACKET)
        line = pipe.read(timeout_s=2)
        assert line is not None
        parsed = TraceLine.parse(line)
        assert parsed is not None
        assert (parsed.pid, parsed.message) == (os.getpid(), b"n=42 hex=ff text=abc")


@pytest.mark.parametrize("size", [1, 13])
def test_frames_under_14_bytes_are_invalid(kernel: Kernel, spec: ObjectSpec, size: int) -> None:
    with Collection.load(spec, kernel, programs=["say"]) as held, pytest.raises(KernelError, match="EINVAL"):
        held.programs["say"].run(bytes(size))


def test_a_refused_program_leaves_nothing_open(kernel: Kernel) -> None:
    bad = SOURCE.replace("*place = ++n;", "*place = ++n; place[1] = 0;")
    with pytest.raises(VerifierError, match="program 'reserve' refused at insn") as caught:
        Collection.load(read_object(compile_c("bad.bpf.c", text=bad).object, "bad.o"), kernel, programs=["reserve"])
    assert "bad.bpf.c:" in caught.value.source
    assert caught.value.log
