"""Maps of every kind that several processes work on at once while others are killed in the middle: nothing torn, lost or stuck."""

import ctypes
import errno
import itertools
import mmap
import os
import random
import signal
import struct
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from shared_map import SharedMap, place
from test_runtime_buffers import BUSY, DISCARD, SIZE, call

from ebpf.engine.runtime import library
from ebpf.engine.runtime.abi import MapHeader
from ebpf.kernels.user.maps.ring import RingMemory
from ebpf.uapi import MapType
from support.processes import fork

KILLED, PATIENCE_S = 12, 60
WRITERS = 3


def for_ever(work: Callable[[int], object]) -> Callable[[], None]:
    def go_on() -> None:
        for round_ in itertools.count():
            work(round_)

    return go_on


def hammer(survivors: Sequence[Callable[[], object]], victim: Callable[[int], object], meanwhile: Callable[[], object] = bool) -> None:
    """Survivors work to their end; process after process repeats the victim's work until it is killed, at a moment by chance."""
    drawn = random.Random(5)
    alive = {fork(work) for work in survivors}
    deadline = time.monotonic() + PATIENCE_S
    for _ in range(KILLED):
        pid = fork(for_ever(victim))
        until = time.monotonic() + drawn.uniform(0.005, 0.03)
        while time.monotonic() < until:
            meanwhile()
        os.kill(pid, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    while alive:
        meanwhile()
        # Children of other tests may end meanwhile: each is asked for by itself.
        for pid in list(alive):
            ended, status = os.waitpid(pid, os.WNOHANG)
            assert status == 0
            alive.discard(ended)
        assert time.monotonic() < deadline, "a process hangs"


def whole(value: bytes) -> bool:
    return value == value[:8] * (len(value) // 8)


def test_evicting_hashes_stay_whole_and_lose_no_room() -> None:
    held = SharedMap(MapType.LRU_HASH, 4, 64, 40)

    def work(first: int, round_: int) -> None:
        for number in range(50):
            key, value = struct.pack("<I", first + number), struct.pack("<Q", round_ << 32 | number) * 8
            held.put(key, value)
            held.use(key)
            if number % 5 == 0:
                held.remove(key)

    hammer([lambda first=100 * n: [work(first, round_) for round_ in range(300)] for n in range(WRITERS)], lambda round_: work(50, round_))
    keys = held.walk()
    assert len(keys) == len(set(keys)) == held.header.count
    assert all(whole(held.get(key) or b"12345678torn") for key in keys)
    assert held.header.lock == 0
    assert [held.remove(key) for key in keys] == [0] * len(keys)
    assert [held.put(struct.pack("<I", number), bytes(64)) for number in range(40)] == [0] * 40
    assert sorted(held.walk()) == sorted(struct.pack("<I", number) for number in range(40))


@pytest.mark.parametrize("kind", [MapType.PERCPU_ARRAY, MapType.PERCPU_HASH, MapType.LRU_PERCPU_HASH])
def test_counts_of_each_cpu_are_exact(kind: MapType) -> None:
    cpus, keys, rounds = WRITERS + 1, 8, 4000
    held = SharedMap(kind, 4, 8, keys, cpus)
    for number in range(keys):
        held.put(struct.pack("<I", number), bytes(8 * cpus))

    def count(cpu: int, round_: int) -> None:
        address = library().rt_map_value(held.address, struct.pack("<I", round_ % keys), cpu)
        ctypes.c_uint64.from_address(address).value += 1

    def other(round_: int) -> None:
        # Elements that come and go beside those that are counted, and counts of a CPU of its own.
        if kind == MapType.PERCPU_HASH:
            held.put(struct.pack("<I", 100), struct.pack("<Q", round_) * cpus)
            held.remove(struct.pack("<I", 100))
        count(WRITERS, round_)

    hammer([lambda cpu=cpu: [count(cpu, round_) for round_ in range(rounds)] for cpu in range(WRITERS)], other)
    for number in range(keys):
        values = struct.unpack(f"<{cpus}Q", held.get(struct.pack("<I", number)) or b"")
        assert values[:WRITERS] == (rounds // keys,) * WRITERS
    assert held.header.lock == 0


@pytest.mark.parametrize("kind", [MapType.QUEUE, MapType.STACK])
def test_queues_and_stacks_give_each_value_once(kind: MapType) -> None:
    held, rounds = SharedMap(kind, 0, 64, 50), 3000
    lib, popped = library(), list[bytes]()
    out = ctypes.create_string_buffer(64)

    def push(writer: int, round_: int) -> bool:
        return not lib.rt_map_push(held.address, struct.pack("<II", writer, round_) * 8, 0)

    def push_all(writer: int) -> None:
        for round_ in range(rounds):
            while not push(writer, round_):
                time.sleep(0)

    def pop() -> None:
        while not lib.rt_map_pop(held.address, out):
            popped.append(out.raw)

    def reads(round_: int) -> None:
        lib.rt_map_peek(held.address, ctypes.create_string_buffer(64))
        push(WRITERS + 1, round_)

    hammer([lambda writer=writer: push_all(writer) for writer in range(WRITERS)], reads, pop)
    pop()
    assert all(map(whole, popped))
    pairs = [struct.unpack_from("<II", value) for value in popped]
    for writer in range(WRITERS):
        mine = [round_ for who, round_ in pairs if who == writer]
        assert (mine if kind == MapType.QUEUE else sorted(mine)) == list(range(rounds))
    assert held.header.lock == 0


def test_a_filter_keeps_all_that_was_put_into_it() -> None:
    memory = mmap.mmap(-1, 8192)
    header = MapHeader.from_address(place(memory))
    header.type, header.value_size, header.max_entries, header.buckets = MapType.BLOOM_FILTER, 8, 1000, 5
    header.data, header.data_size, header.seed, header.event_fd = place(memory) + 4096, 2048, 7, -1
    address, rounds = ctypes.addressof(header), 300

    def push(writer: int, round_: int) -> None:
        assert not library().rt_map_push(address, struct.pack("<II", writer, round_), 0)

    survivors = [lambda writer=writer: [push(writer, round_) for round_ in range(rounds)] for writer in range(WRITERS)]
    hammer(survivors, lambda round_: push(WRITERS, round_ % 100))
    for writer in range(WRITERS):
        for round_ in range(rounds):
            assert library().rt_map_peek(address, ctypes.create_string_buffer(struct.pack("<II", writer, round_), 8)) == 0


class SharedRing:
    """A ring buffer that forked processes share, lock included."""

    def __init__(self) -> None:
        self.memory, self._home = RingMemory(SIZE), mmap.mmap(-1, 4096)
        self.header = MapHeader.from_address(place(self._home))
        self.header.type, self.header.max_entries, self.header.event_fd = MapType.RINGBUF, SIZE, -1
        self.header.data = self.memory.data_address
        self.map = ctypes.addressof(self.header)
        library().rt_ringbuf_init(self.map)
        self._pages = self.memory.view(2 * 4096 + 2 * SIZE, 0)

    def output(self, data: bytes) -> int:
        held = ctypes.create_string_buffer(data, len(data))
        return call("ringbuf_output", self.map, ctypes.addressof(held), len(data), 0)

    def read(self) -> Iterator[bytes]:
        """As libbpf's reader takes records: up to the first that is not finished."""
        at, end = (struct.unpack_from("<Q", self._pages, page)[0] for page in (0, 4096))
        while at < end:
            where = 8192 + at % SIZE
            (length,) = struct.unpack_from("<I", self._pages, where)
            if length & BUSY:
                return
            size = length & ~(BUSY | DISCARD)
            record = None if length & DISCARD else bytes(self._pages[where + 8 : where + 8 + size])
            at += (size + 8 + 7) // 8 * 8
            struct.pack_into("<Q", self._pages, 0, at)
            if record is not None:
                yield record

    def close(self) -> None:
        self._pages.release()
        self.memory.close()


@pytest.fixture
def ring() -> Iterator[SharedRing]:
    made = SharedRing()
    yield made
    made.close()


def test_records_of_those_that_live_arrive_once_in_order_whatever_the_killed_left(ring: SharedRing) -> None:
    rounds, got = 2000, list[bytes]()

    def output(writer: int, round_: int) -> bool:
        return not ring.output(struct.pack("<II", writer, round_) * (1 + round_ % 9))

    def output_all(writer: int) -> None:
        for round_ in range(rounds):
            while not output(writer, round_):
                time.sleep(0)

    survivors = [lambda writer=writer: output_all(writer) for writer in range(WRITERS)]
    hammer(survivors, lambda round_: output(WRITERS, round_), lambda: got.extend(ring.read()))
    got.extend(ring.read())
    assert all(map(whole, got))
    for writer in range(WRITERS):
        assert [struct.unpack_from("<II", record)[1] for record in got if record[:4] == struct.pack("<I", writer)] == list(range(rounds))
    assert ring.header.lock == 0


def test_a_record_whose_writer_was_killed_is_skipped(ring: SharedRing) -> None:
    def reserve_and_wait() -> None:
        assert call("ringbuf_reserve", ring.map, 16, 0)
        os.write(write_end, b"x")
        signal.pause()

    for _ in range(3):
        read_end, write_end = os.pipe()
        pid = fork(reserve_and_wait)
        assert os.read(read_end, 1) == b"x"
        # While it lives it is waited for, however many come behind it.
        assert [ring.output(b"behind01") for _ in range(20)] == [0] * 20
        assert list(ring.read()) == []
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for fd in (read_end, write_end):
            os.close(fd)
        # Those that come next find it out.
        results = [ring.output(b"behind02") for _ in range(20)]
        assert results == [0] * 20
        assert list(ring.read()) == [b"behind01"] * 20 + [b"behind02"] * 20


def test_a_ring_that_is_full_behind_a_killed_writer_takes_again(ring: SharedRing) -> None:
    pid = fork(lambda: call("ringbuf_reserve", ring.map, 16, 0))
    os.waitpid(pid, 0)
    while not ring.output(bytes(56)):
        pass
    assert ring.output(bytes(56)) in (0, -errno.EAGAIN)
    assert len(list(ring.read())) == (SIZE - 24) // 64
    assert ring.output(b"again") == 0
