"""Ring buffers and perf buffers: Linux's layout, wrap-around, what is dropped and how that is told."""

import ctypes
import errno
import os
import struct
from collections.abc import Iterator

import pytest

from ebpf.engine.runtime import helper_address, library
from ebpf.engine.runtime.abi import KNOW_ALL, Env, MapHeader, Perf
from ebpf.kernels.user.maps.ring import RingMemory
from ebpf.uapi import HELPERS_BY_NAME, MapType

SIZE = 4096
BUSY, DISCARD = 1 << 31, 1 << 30
NO_WAKEUP, FORCE_WAKEUP = 1, 2


def call(name: str, *arguments: int, env: Env | None = None) -> int:
    """Call a helper's body as a program does; the result is signed."""
    function = ctypes.CFUNCTYPE(ctypes.c_int64, *([ctypes.c_uint64] * 5), ctypes.c_void_p)(helper_address(HELPERS_BY_NAME[name].id))
    filled = [*(a & (1 << 64) - 1 for a in arguments), 0, 0, 0, 0, 0][:5]
    return int(function(*filled, ctypes.addressof(env or Env())))


class Ring:
    def __init__(self) -> None:
        self.memory = RingMemory(SIZE)
        self.header = MapHeader(type=MapType.RINGBUF, max_entries=SIZE, data=self.memory.data_address, event_fd=self.memory.event_fd)
        self.map = ctypes.addressof(self.header)
        library().rt_ringbuf_init(self.map)
        self.pages = self.memory.view(2 * 4096 + 2 * SIZE, 0)

    def output(self, data: bytes, flags: int = 0) -> int:
        held = ctypes.create_string_buffer(data, len(data))
        return call("ringbuf_output", self.map, ctypes.addressof(held), len(data), flags)

    def read(self) -> list[bytes]:
        """Everything up to the first busy record, as libbpf's reader takes it."""
        out = []
        at, end = (struct.unpack_from("<Q", self.pages, page)[0] for page in (0, 4096))
        while at < end:
            place = 8192 + at % SIZE
            (length,) = struct.unpack_from("<I", self.pages, place)
            if length & BUSY:
                break
            size = length & ~(BUSY | DISCARD)
            if not length & DISCARD:
                out.append(bytes(self.pages[place + 8 : place + 8 + size]))
            at += (size + 8 + 7) // 8 * 8
        struct.pack_into("<Q", self.pages, 0, at)
        return out

    def woken(self) -> bool:
        try:
            return os.eventfd_read(self.memory.event_fd) > 0
        except BlockingIOError:
            return False


@pytest.fixture
def ring() -> Iterator[Ring]:
    made = Ring()
    yield made
    made.pages.release()
    made.memory.close()


def test_records_wrap_around_the_end_whole(ring: Ring) -> None:
    sent = [bytes([i % 251]) * (i % 300 + 1) for i in range(500)]
    got = []
    for record in sent:
        assert ring.output(record) == 0
        got += ring.read()
    assert got == sent


def test_a_full_ring_refuses_and_takes_again_when_read(ring: Ring) -> None:
    results = [ring.output(bytes(1016)) for _ in range(5)]
    assert results == [0, 0, 0, 0, -errno.EAGAIN]
    assert len(ring.read()) == 4
    assert ring.output(b"again") == 0


@pytest.mark.parametrize("size", [SIZE - 7, SIZE, DISCARD])
def test_a_record_larger_than_the_ring_is_refused(ring: Ring, size: int) -> None:
    assert call("ringbuf_reserve", ring.map, size, 0) == 0


def test_a_busy_record_holds_back_those_behind_it_and_a_discarded_one_is_skipped(ring: Ring) -> None:
    first, second = (call("ringbuf_reserve", ring.map, 8, 0) for _ in range(2))
    ctypes.memmove(second, b"12345678", 8)
    call("ringbuf_submit", second, 0)
    assert ring.read() == []
    call("ringbuf_discard", first, 0)
    assert ring.read() == [b"12345678"]


@pytest.mark.parametrize(
    ("flags", "woken"),
    [
        pytest.param((0,), [True], id="the-first-wakes"),
        pytest.param((0, 0), [True, False], id="a-reader-that-has-not-caught-up-is-awake"),
        pytest.param((NO_WAKEUP,), [False], id="no-wakeup"),
        pytest.param((NO_WAKEUP, FORCE_WAKEUP), [False, True], id="forced"),
    ],
)
def test_a_reader_is_woken_when_it_sleeps(ring: Ring, flags: tuple[int, ...], woken: list[bool]) -> None:
    got = []
    for flag in flags:
        ring.output(b"x", flag)
        got.append(ring.woken())
    assert got == woken


def test_a_query_tells_what_is_there(ring: Ring) -> None:
    ring.output(bytes(8))
    ring.read()
    ring.output(bytes(24))
    assert [call("ringbuf_query", ring.map, what) for what in range(4)] == [32, SIZE, 16, 48]


class PerfRing:
    """A perf event array whose only buffer is CPU 1's."""

    def __init__(self) -> None:
        self.buffer = ctypes.create_string_buffer(4096 + SIZE)
        self.perf = Perf(base=ctypes.addressof(self.buffer), data_size=SIZE, event_fd=-1)
        library().rt_perf_init(ctypes.addressof(self.perf))
        self.slots = (ctypes.c_void_p * 2)(None, ctypes.addressof(self.perf))
        self.header = MapHeader(type=MapType.PERF_EVENT_ARRAY, max_entries=2, data=ctypes.addressof(self.slots), event_fd=-1)
        self.env = Env(ncpu=2)
        self.env.task.known, self.env.task.cpu = KNOW_ALL, 1

    def output(self, data: bytes, flags: int = 0xFFFFFFFF) -> int:
        held = ctypes.create_string_buffer(data, max(len(data), 1))
        where = ctypes.addressof(held)
        return call("perf_event_output", 0, ctypes.addressof(self.header), flags, where, len(data), env=self.env)

    def read(self) -> list[tuple[int, bytes]]:
        """Records (type, body) up to the head, made consumed."""
        head, tail = struct.unpack_from("<QQ", self.buffer, 1024)
        data = self.buffer.raw[4096:]
        out = []
        while tail < head:
            ring = (data[tail % SIZE :] + data)[:SIZE]
            kind, _, size = struct.unpack_from("<IHH", ring)
            out.append((kind, ring[8:size]))
            tail += size
        struct.pack_into("<Q", self.buffer, 1032, tail)
        return out


@pytest.mark.parametrize("size", [1, 4, 12, 13, 100])
def test_a_sample_is_padded_so_that_its_size_is_a_multiple_of_8(size: int) -> None:
    perf = PerfRing()
    assert perf.output(b"\x55" * size) == 0
    ((kind, body),) = perf.read()
    (raw,) = struct.unpack_from("<I", body)
    assert (kind, raw, body[4 : 4 + size], (8 + len(body)) % 8) == (9, len(body) - 4, b"\x55" * size, 0)


def test_samples_wrap_and_what_does_not_fit_is_told_by_a_lost_record() -> None:
    perf = PerfRing()
    results = [perf.output(bytes([i]) * 1000) for i in range(6)]
    assert results == [0, 0, 0, 0] + [-errno.ENOSPC] * 2
    assert [kind for kind, _ in perf.read()] == [9] * 4
    assert perf.output(b"\x77" * 1000) == 0
    (lost, first) = perf.read()
    assert (lost[0], struct.unpack("<QQ", lost[1])[1]) == (2, 2)
    assert first[1][4:1004] == b"\x77" * 1000


@pytest.mark.parametrize(
    ("flags", "result"),
    [
        pytest.param(1, 0, id="by-number"),
        pytest.param(0, -errno.ENOENT, id="no-buffer-there"),
        pytest.param(2, -errno.E2BIG, id="past-the-end"),
        pytest.param(1 << 60, -errno.EINVAL, id="unknown-flag"),
    ],
)
def test_an_output_answers_with_linux_errno(flags: int, result: int) -> None:
    assert PerfRing().output(b"x", flags) == result
