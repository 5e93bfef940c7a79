"""bpf_trace_printk's text and the ring of lines."""

import ctypes
import errno
import struct

import pytest

from ebpf.engine.runtime import helper_address, library
from ebpf.engine.runtime.abi import KNOW_ALL, Env, Trace
from ebpf.uapi import HELPERS_BY_NAME

SIZE = 4096
TEXT = ctypes.create_string_buffer(b"a string", 16)


class Tracing:
    def __init__(self, size: int = SIZE) -> None:
        self.memory = ctypes.create_string_buffer(ctypes.sizeof(Trace) + size)
        self.ring = Trace.from_buffer(self.memory)
        self.ring.size, self.ring.event_fd = size, -1
        self.env = Env(trace=ctypes.addressof(self.memory), fixed_time=1_234_567_891, ncpu=4)
        task = self.env.task
        task.tid, task.comm, task.cpu, task.known = 4711, b"bash", 2, KNOW_ALL
        self.env.kernel_begin, self.env.kernel_end = ctypes.addressof(TEXT), ctypes.addressof(TEXT) + len(TEXT)

    def helper(self, name: str, *arguments: int) -> int:
        function = ctypes.CFUNCTYPE(ctypes.c_int64, *([ctypes.c_uint64] * 5), ctypes.c_void_p)(helper_address(HELPERS_BY_NAME[name].id))
        filled = [*(a & (1 << 64) - 1 for a in arguments), 0, 0, 0, 0, 0][:5]
        return int(function(*filled, ctypes.addressof(self.env)))

    def printk(self, text: bytes, *arguments: int) -> int:
        held = ctypes.create_string_buffer(text)
        return self.helper("trace_printk", ctypes.addressof(held), len(held), *arguments)

    def take(self) -> tuple[bytes, int]:
        out, lost = ctypes.create_string_buffer(SIZE), ctypes.c_uint64()
        got = library().rt_trace_take(ctypes.addressof(self.memory), out, SIZE, ctypes.byref(lost))
        return out.raw[:got], lost.value


def test_a_line_has_ftraces_columns() -> None:
    tracing = Tracing()
    assert tracing.printk(b"Hello, World!\n") == 14
    assert tracing.take() == (b"            bash-4711    [002] ....1     1.234568: bpf_trace_printk: Hello, World!\n", 0)


@pytest.mark.parametrize(
    ("text", "arguments", "line"),
    [
        pytest.param(b"%d %d", (1 << 32 | 5, -1), b"5 -1", id="int-is-32-bits"),
        pytest.param(b"%u %x %X", (-1, 255, 255), b"4294967295 ff FF", id="unsigned"),
        pytest.param(b"%ld %lu", (-2, -1), b"-2 18446744073709551615", id="long"),
        pytest.param(b"%llx %lld", (1 << 60, -3), b"1000000000000000 -3", id="long-long"),
        pytest.param(b"%5d|%-5d|%05d", (1, 2, 3), b"    1|2    |00003", id="width"),
        pytest.param(b"%#x", (16,), b"0x10", id="alternate"),
        pytest.param(b"%c%c", (72, 105), b"Hi", id="char"),
        pytest.param(b"100%%", (), b"100%", id="percent"),
        pytest.param(b"%s!", (ctypes.addressof(TEXT),), b"a string!", id="string"),
        pytest.param(b"%pks", (ctypes.addressof(TEXT),), b"a string", id="kernel-string"),
        pytest.param(b"%px", (0x1234,), b"0000000000001234", id="pointer"),
        pytest.param(b"[%s]", (8,), b"[]", id="wild-string"),
    ],
)
def test_formats_are_linux(text: bytes, arguments: tuple[int, ...], line: bytes) -> None:
    tracing = Tracing()
    tracing.printk(text, *arguments)
    assert tracing.take()[0].partition(b"bpf_trace_printk: ")[2] == line + b"\n"


@pytest.mark.parametrize("text", [b"%n", b"%f", b"%d %d %d %d", b"%llld", b"\x01", b"\xc3\xa9", b"%"])
def test_a_format_that_linux_refuses_prints_nothing(text: bytes) -> None:
    tracing = Tracing()
    assert tracing.printk(text) == -errno.EINVAL
    assert tracing.take() == (b"", 0)


def test_a_format_without_its_end_is_refused() -> None:
    held = ctypes.create_string_buffer(b"abc", 3)
    assert Tracing().helper("trace_printk", ctypes.addressof(held), 3) == -errno.EINVAL


def test_vprintk_takes_up_to_twelve_values() -> None:
    tracing = Tracing()
    text = ctypes.create_string_buffer(b"%d" * 12)
    values = ctypes.create_string_buffer(struct.pack("<12Q", *range(12)))
    assert tracing.helper("trace_vprintk", ctypes.addressof(text), len(text), ctypes.addressof(values), 96) == 14
    assert tracing.take()[0].endswith(b": 01234567891011\n")


def test_a_full_ring_loses_its_oldest_lines_and_counts_them() -> None:
    tracing = Tracing(1024)
    for i in range(30):
        tracing.printk(b"line %d", i)
    got, lost = tracing.take()
    lines = got.splitlines()
    assert [line.rpartition(b" ")[2] for line in lines] == [b"%d" % i for i in range(lost, 30)]
    assert lost > 0
    assert tracing.take() == (b"", 0)


def test_snprintf_cuts_and_tells_the_whole_length() -> None:
    tracing = Tracing()
    out, text = ctypes.create_string_buffer(b"\xff" * 8, 8), ctypes.create_string_buffer(b"%d-abc")
    values = ctypes.create_string_buffer(struct.pack("<Q", 12345))
    where = [ctypes.addressof(b) for b in (out, text, values)]
    assert tracing.helper("snprintf", where[0], 6, where[1], where[2], 8) == 10
    assert out.raw == b"12345\0\xff\xff"
