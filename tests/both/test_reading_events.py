"""Events are read in every way: one after the other, in batches, by callback, in asyncio; and given to programs."""

import asyncio
from collections.abc import Iterator

import pytest

from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import UsageError
from ebpf.events import PerfBuffer, RingBuffer, TracePipe, UserRingBuffer
from ebpf.kernels import open_kernel
from ebpf.object import Collection
from ebpf.sys.kernel import Kernel

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
char LICENSE[] SEC("license") = "GPL";
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); } ring SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY); __uint(key_size, 4); __uint(value_size, 4); } perf SEC(".maps");
long lost = 0;
SEC("tc") int to_ring(struct __sk_buff *skb) {
    int number = skb->len;
    if (bpf_ringbuf_output(&ring, &number, sizeof(number), 0)) lost++;
    return 0;
}
SEC("tc") int to_perf(struct __sk_buff *skb) {
    int number = skb->len;
    bpf_perf_event_output(skb, &perf, BPF_F_CURRENT_CPU, &number, sizeof(number));
    return 0;
}
SEC("tc") int to_trace(struct __sk_buff *skb) { bpf_printk("length %d", skb->len); return 0; }
"""
OBJECT = compile_c("events.bpf.c", text=SOURCE).object


@pytest.fixture
def held(kernel: Kernel) -> Iterator[Collection]:
    with Collection.load(read_object(OBJECT), kernel) as collection:
        yield collection


def emit(held: Collection, program: str, *lengths: int) -> None:
    for length in lengths:
        held.programs[program].run(bytes(length))


def numbers(records: list[bytes]) -> list[int]:
    return [int.from_bytes(record[:4], "little") for record in records]


def test_a_batch_takes_no_more_than_it_is_asked_for(held: Collection) -> None:
    with RingBuffer(held.maps["ring"]) as ring:
        emit(held, "to_ring", 20, 21, 22)
        assert numbers(ring.take(2)) == [20, 21]
        assert numbers(ring.take(9)) == [22]
        assert ring.take(9) == []


def test_samples_of_a_perf_buffer_in_a_batch(held: Collection) -> None:
    with PerfBuffer(held.maps["perf"]) as perf:
        emit(held, "to_perf", 20, 21)
        taken = perf.take(9)
        assert sorted(numbers([data for _, data in taken])) == [20, 21]
        assert perf.take(1) == []


def test_an_exception_in_a_callback_reaches_who_polls_and_nothing_is_lost(held: Collection) -> None:
    seen: list[int] = []

    def callback(record: bytes) -> None:
        seen.append(int.from_bytes(record[:4], "little"))
        if seen[-1] == 21:
            raise ZeroDivisionError("mine")

    with RingBuffer(held.maps["ring"]) as ring:
        emit(held, "to_ring", 20, 21, 22)
        with pytest.raises(ZeroDivisionError, match="mine"):
            ring.poll(callback, 1)
        assert ring.poll(callback, 1) == 1
        assert seen == [20, 21, 22]


def test_a_full_ring_is_told_to_the_program(held: Collection) -> None:
    with RingBuffer(held.maps["ring"]) as ring:
        emit(held, "to_ring", *[20] * 300)
        assert len(ring.take(1000)) + int(held.variables()["lost"]) == 300  # type: ignore[arg-type]
        assert held.variables()["lost"] != 0


def test_what_a_perf_buffer_lost_is_counted(held: Collection) -> None:
    with PerfBuffer(held.maps["perf"], pages=1) as perf:
        emit(held, "to_perf", *[20] * 400)
        taken = len(perf.take(1000))
        # The kernel tells of what was lost with the next sample that fits.
        emit(held, "to_perf", 20)
        taken += len(perf.take(1000))
        assert perf.lost > 0
        assert taken + perf.lost == 401


async def first(events: "RingBuffer | PerfBuffer | TracePipe", count: int) -> list[object]:
    out: list[object] = []
    async for event in events:
        out.append(event)
        if len(out) == count:
            return out
    return out


@pytest.mark.parametrize("late", [False, True])
def test_records_come_in_asyncio(late: bool, held: Collection) -> None:
    async def main(ring: RingBuffer) -> list[object]:
        reading = asyncio.create_task(first(ring, 3))
        if late:
            await asyncio.sleep(0.05)
        emit(held, "to_ring", 20, 21, 22)
        return await asyncio.wait_for(reading, 20)

    with RingBuffer(held.maps["ring"]) as ring:
        assert numbers(asyncio.run(main(ring))) == [20, 21, 22]  # type: ignore[arg-type]


def test_samples_and_lines_come_in_asyncio_beside_each_other(held: Collection, kernel: Kernel) -> None:
    async def main(perf: PerfBuffer, pipe: TracePipe) -> tuple[list[object], list[object]]:
        both = asyncio.gather(first(perf, 2), first(pipe, 1))
        await asyncio.sleep(0.05)
        emit(held, "to_perf", 20, 21)
        emit(held, "to_trace", 33)
        samples, lines = await asyncio.wait_for(both, 20)
        return samples, lines

    with PerfBuffer(held.maps["perf"]) as perf, TracePipe(kernel) as pipe:
        samples, lines = asyncio.run(main(perf, pipe))
        assert sorted(numbers([data for _, data in samples])) == [20, 21]  # type: ignore[misc]
        assert b"length 33" in lines[0]  # type: ignore[operator]


def test_who_stops_waiting_in_asyncio_is_let_go(held: Collection) -> None:
    async def main(ring: RingBuffer) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(first(ring, 1), 0.2)

    with RingBuffer(held.maps["ring"]) as ring:
        asyncio.run(main(ring))
        emit(held, "to_ring", 20)
        assert numbers(ring.take(9)) == [20]


DRAIN = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
char LICENSE[] SEC("license") = "GPL";
struct { __uint(type, BPF_MAP_TYPE_USER_RINGBUF); __uint(max_entries, 4096); } from_user SEC(".maps");
long sum = 0, calls = 0;
static long take(struct bpf_dynptr *record, void *ctx) {
    int number = 0;
    bpf_dynptr_read(&number, sizeof(number), record, 0, 0);
    sum += number; calls++;
    return 0;
}
SEC("syscall") int drain(void *ctx) { return bpf_user_ringbuf_drain(&from_user, take, 0, 0); }
"""


@pytest.mark.linux
def test_a_program_takes_what_user_space_puts_in() -> None:
    spec = read_object(compile_c("drain.bpf.c", text=DRAIN).object)
    with open_kernel("linux") as kernel, Collection.load(spec, kernel) as held, UserRingBuffer(held.maps["from_user"]) as ring:
        for start in (0, 100, 200):
            for number in range(start, start + 100):
                assert ring.put(number.to_bytes(4, "little"))
            assert held.programs["drain"].run().retval == 100
        assert (held.variables()["sum"], held.variables()["calls"]) == (sum(range(300)), 300)
        put = 0
        while ring.put(bytes(100)):
            put += 1
        assert put == 4096 // 112
        assert ring.free < 112
        with pytest.raises(UsageError, match="a record of 5000 bytes does not fit a ring of 4096"):
            ring.put(bytes(5000))
