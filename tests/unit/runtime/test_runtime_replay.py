"""The replay loop: every packet of every kind of file is run, counted and written where its verdict belongs."""

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpf.errors import FormatError
from ebpf.isa import asm, encode
from ebpf.kernels import open_kernel
from ebpf.sys.calls import ProgLoad
from ebpf.sys.capture import Capture, CaptureWriter
from ebpf.sys.kernel import Kernel
from ebpf.uapi import ProgType

DROP, PASS = 1, 2
# The verdict is the packet's first byte.
BY_FIRST_BYTE = """
    r2 = *(u32 *)(r1 + 0)
    r3 = *(u32 *)(r1 + 4)
    r0 = 0
    r4 = r2
    r4 += 14
    if r4 > r3 goto +1
    r0 = *(u8 *)(r2 + 0)
    exit
"""
TIMES = (1_700_000_000_123_456_789, 1_700_000_001_000_000_000, 1_700_000_002_999_999_999)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    with open_kernel("user") as opened:
        yield opened


def load(kernel: Kernel, text: str = BY_FIRST_BYTE) -> int:
    return kernel.bpf(ProgLoad(prog_type=ProgType.XDP, insns=encode(asm(text)), license="GPL", name="verdict")).fd


def classic(frames: list[tuple[int, bytes]], order: str, nanoseconds: bool) -> bytes:
    out = struct.pack(order + "IHHiIII", 0xA1B23C4D if nanoseconds else 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    for ns, data in frames:
        seconds, rest = divmod(ns, 10**9)
        out += struct.pack(order + "IIII", seconds, rest if nanoseconds else rest // 1000, len(data), len(data)) + data
    return out


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    size = len(body) + 12
    return struct.pack(order + "II", kind, size) + body + struct.pack(order + "I", size)


def pcapng(frames: list[tuple[int, bytes]], order: str, digits: int) -> bytes:
    out = block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))
    out += block(order, 1, struct.pack(order + "HHI", 1, 0, 65535) + struct.pack(order + "HHB3xHH", 9, 1, digits, 0, 0))
    for ns, data in frames:
        stamp = ns * 10**digits // 10**9
        head = struct.pack(order + "IIIII", 0, stamp >> 32, stamp & 0xFFFFFFFF, len(data), len(data))
        out += block(order, 6, head + data)
    return out


FILES = [
    pytest.param(lambda f, o=order, n=ns: classic(f, o, n), id=f"pcap-{'big' if order == '>' else 'little'}-{'ns' if ns else 'us'}")
    for order in "<>"
    for ns in (False, True)
] + [
    pytest.param(lambda f, o=order, d=digits: pcapng(f, o, d), id=f"pcapng-{'big' if order == '>' else 'little'}-1e{digits}")
    for order in "<>"
    for digits in (3, 6, 9)
]


@pytest.mark.parametrize("build", FILES)
def test_every_packet_is_run_once_whatever_the_file(kernel: Kernel, build, tmp_path: Path) -> None:
    frames = [(TIMES[i % 3], bytes([1 + i % 2]) + bytes([i % 256]) * (13 + i % 200)) for i in range(300)]
    out = tmp_path / "dropped.pcap"
    stats = kernel.lab.replay(load(kernel), Capture(build(frames)), sinks={DROP: str(out)})
    assert (stats.packets, stats.verdicts, stats.invalid) == (300, {DROP: 150, PASS: 150}, 0)
    assert stats.bytes == sum(len(data) for _, data in frames)
    written = list(Capture.open(out))
    assert [p.data for p in written] == [data for _, data in frames[::2]]
    coarse = 10**6 if build.__defaults__[-1] == 3 else 1000
    assert [p.timestamp_ns for p in written] == [ns // coarse * coarse for ns, _ in frames[::2]]


def test_frames_under_14_bytes_are_invalid_and_not_run(kernel: Kernel) -> None:
    frames = [(0, bytes([PASS]) * size) for size in (0, 1, 13, 14, 15)]
    stats = kernel.lab.replay(load(kernel), Capture(classic(frames, "<", False)))
    assert (stats.packets, stats.verdicts, stats.invalid) == (5, {PASS: 2}, 3)


def test_repeat_and_limit_count_packets(kernel: Kernel) -> None:
    capture = Capture(classic([(0, bytes([PASS]) * 60)] * 10, "<", False))
    fd = load(kernel)
    assert kernel.lab.replay(fd, capture, repeat=3).packets == 30
    assert kernel.lab.replay(fd, capture, limit=4).packets == 4
    assert kernel.lab.replay(fd, capture, limit=4, repeat=2).packets == 8


@pytest.mark.parametrize("cut", [1, 17, 60])
@pytest.mark.parametrize("build", [lambda f: classic(f, "<", False), lambda f: pcapng(f, "<", 6)], ids=["pcap", "pcapng"])
def test_a_torn_file_says_where(kernel: Kernel, build, cut: int) -> None:
    data = build([(0, bytes([PASS]) * 60)] * 3)
    with pytest.raises(FormatError, match="packet 3 at byte"):
        kernel.lab.replay(load(kernel), Capture(data[:-cut]))


def test_a_changed_packet_does_not_change_the_capture(kernel: Kernel) -> None:
    text = BY_FIRST_BYTE.replace("    exit", "    if r0 == 0 goto +1\n    *(u8 *)(r2 + 0) = 9\n    exit")
    capture = Capture(classic([(0, bytes([PASS]) * 60)] * 10, "<", False))
    stats = kernel.lab.replay(load(kernel, text), capture, repeat=2)
    assert stats.verdicts == {PASS: 20}


def test_a_capture_that_was_written_is_replayed(kernel: Kernel, tmp_path: Path) -> None:
    path = tmp_path / "made.pcap"
    with CaptureWriter(path) as writer:
        writer.write(bytes([DROP]) * 60, TIMES[0])
    assert kernel.lab.replay(load(kernel), Capture.open(path)).verdicts == {DROP: 1}
