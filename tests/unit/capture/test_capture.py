"""Captures of every form give the same packets: to Python, to tcpdump, and to the replay's native loop."""

import os
import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import FormatError, NotFoundError, NotSupportedError
from ebpf.kernels import open_kernel
from ebpf.object import Collection
from ebpf.sys.capture import Capture, CaptureWriter, header

FRAMES = [bytes(range(14)) + b"x" * n for n in (0, 1, 46, 50, 1000)] + [b"short"]
TIMES = [1_700_000_000 * 10**9 + n * 1_000_001_000 for n in range(len(FRAMES))]
COUNT = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
unsigned long long bytes = 0;
SEC("xdp") int count(struct xdp_md *ctx)
{
    bytes += (long)ctx->data_end - (long)ctx->data;
    return ((long)ctx->data_end - (long)ctx->data) & 1 ? XDP_DROP : XDP_PASS;
}
char LICENSE[] SEC("license") = "GPL";
"""


def classic(order: str, *, nano: bool, link: int = 1) -> bytes:
    out = struct.pack(order + "IHHiIII", 0xA1B23C4D if nano else 0xA1B2C3D4, 2, 4, 0, 0, 65535, link)
    for frame, when in zip(FRAMES, TIMES, strict=True):
        seconds, rest = divmod(when, 10**9)
        out += struct.pack(order + "IIII", seconds, rest if nano else rest // 1000, len(frame), len(frame)) + frame
    return out


def block(order: str, kind: int, body: bytes) -> bytes:
    body = body.ljust((len(body) + 3) // 4 * 4, b"\0")
    return struct.pack(order + "II", kind, len(body) + 12) + body + struct.pack(order + "I", len(body) + 12)


def pcapng(order: str, *, nano: bool, link: int = 1) -> bytes:
    out = block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))
    options = struct.pack(order + "HHB3xHH", 9, 1, 9, 0, 0) if nano else b""
    out += block(order, 1, struct.pack(order + "HHI", link, 0, 65535) + options)
    out += block(order, 5, b"statistics of an unknown kind...")
    for frame, when in zip(FRAMES, TIMES, strict=True):
        stamp = when if nano else when // 1000
        body = struct.pack(order + "IIIII", 0, stamp >> 32, stamp & 0xFFFFFFFF, len(frame), len(frame)) + frame
        out += block(order, 6, body)
    return out


FORMS = {
    f"{make.__name__}-{'little' if order == '<' else 'big'}-{'ns' if nano else 'us'}": make(order, nano=nano)
    for make in (classic, pcapng)
    for order in "<>"
    for nano in (False, True)
}


@pytest.fixture(params=FORMS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    target = tmp_path / "x.pcap"
    target.write_bytes(FORMS[request.param])
    return target


def test_packets_and_times_are_read(path: Path) -> None:
    packets = list(Capture.open(path))
    assert [p.data for p in packets] == FRAMES
    assert [p.timestamp_ns for p in packets] == TIMES


@pytest.mark.skipif(shutil.which("tcpdump") is None, reason="tcpdump is not installed")
def test_tcpdump_reads_as_many(path: Path) -> None:
    answer = subprocess.run(["tcpdump", "-r", str(path), "-n"], capture_output=True, text=True, check=True)
    assert sum(not line.startswith("\t") for line in answer.stdout.splitlines()) == len(FRAMES)


@pytest.mark.parametrize("engine", ["jit", "interp"])
def test_a_replay_sees_the_same_packets(path: Path, tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBPF_ENGINE", engine)
    sinks = {1: str(tmp_path / "drop.pcap"), 2: str(tmp_path / "pass.pcap")}
    with open_kernel("user") as kernel, Collection.load(read_object(compile_c("c.c", text=COUNT).object), kernel) as held:
        stats = kernel.lab.replay(held.programs["count"].fd, Capture.open(path), sinks=sinks)
        assert held.variables()["bytes"] == sum(len(f) for f in FRAMES[:-1])
    assert (stats.packets, stats.invalid) == (len(FRAMES), 1)
    assert dict(stats.verdicts) == {1: sum(len(f) & 1 for f in FRAMES[:-1]), 2: sum(not len(f) & 1 for f in FRAMES[:-1])}
    for verdict, name in sinks.items():
        wanted = [f for f in FRAMES[:-1] if (1 if len(f) & 1 else 2) == verdict]
        assert [p.data for p in Capture.open(name)] == wanted


def test_sections_interfaces_and_old_blocks_of_pcapng_are_read() -> None:
    """Two sections of different byte order; two interfaces with their own times; every kind of packet block."""
    out = b""
    for order in "<>":
        frame = struct.pack(order + "5s", b"frame")
        out += block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))
        out += block(order, 1, struct.pack(order + "HHI", 1, 0, 3))
        # The second counts 2^-10 s from 1000 s on.
        out += block(order, 1, struct.pack(order + "HHIHHB3xHHqHH", 101, 0, 0, 9, 1, 0x8A, 14, 8, 1000, 0, 0))
        out += block(order, 3, struct.pack(order + "I", 5) + frame)
        out += block(order, 2, struct.pack(order + "HHIIII", 1, 7, 0, 512, 5, 60) + frame)
        out += block(order, 6, struct.pack(order + "IIIII", 1, 0, 2048, 5, 5) + frame + b"options")
    packets = list(Capture.from_bytes(out))
    expected = [(b"fra", 0, 5, 1), (b"frame", 1_000_500_000_000, 60, 101), (b"frame", 1_002_000_000_000, 5, 101)]
    assert [(p.data, p.timestamp_ns, p.length, p.link) for p in packets] == expected * 2
    assert Capture.from_bytes(out).link_types() == {1, 101}


@pytest.mark.parametrize("form", FORMS)
def test_damaged_captures_end_in_packets_or_a_format_error(form: str) -> None:
    r = random.Random(form)
    refused = 0
    for _ in range(300):
        data = bytearray(FORMS[form])
        for _ in range(r.choice([1, 2, 8])):
            data[r.randrange(min(len(data), 400))] = r.randrange(256)
        try:
            capture = Capture.from_bytes(bytes(data[: r.randrange(4, len(data))] if r.random() < 0.2 else data))
            capture.link_types()
            assert sum(len(p.data) for p in capture) <= len(data)
        except FormatError:
            refused += 1
    assert refused > 30


def test_an_empty_capture_has_no_packets() -> None:
    assert list(Capture.from_bytes(header())) == []


@pytest.mark.parametrize("form", FORMS)
def test_a_torn_file_gives_what_is_whole_then_says_where(form: str, tmp_path: Path) -> None:
    target = tmp_path / "torn.pcap"
    target.write_bytes(FORMS[form][:-3])
    packets = iter(Capture.open(target))
    whole = [next(packets) for _ in FRAMES[:-1]]
    with pytest.raises(FormatError, match="packet 6 at byte"):
        next(packets)
    assert [p.data for p in whole] == FRAMES[:-1]


@pytest.mark.parametrize(
    "data", [b"", b"\xd4\xc3\xb2\xa1", b"GIF89a" * 10, b"\x0a\x0d\x0d\x0a" + bytes(30)], ids=["empty", "header", "other", "ng"]
)
def test_what_is_no_capture_is_said(data: bytes, tmp_path: Path) -> None:
    target = tmp_path / "x.pcap"
    target.write_bytes(data)
    with pytest.raises(FormatError, match=r"x\.pcap"):
        Capture.open(target)


def test_a_missing_file_is_said() -> None:
    with pytest.raises(NotFoundError, match="no capture"):
        Capture.open("nosuch.pcap")


def test_frames_that_are_not_ethernet_are_refused(tmp_path: Path) -> None:
    target = tmp_path / "cooked.pcap"
    target.write_bytes(classic("<", nano=False, link=113))
    with pytest.raises(NotSupportedError, match="Linux cooked"):
        Capture.open(target).require_ethernet()


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    target = tmp_path / "out.pcap"
    with CaptureWriter(target) as writer:
        for frame, when in zip(FRAMES, TIMES, strict=True):
            writer.write(frame, when)
    assert [(p.data, p.timestamp_ns) for p in Capture.open(os.fspath(target))] == list(zip(FRAMES, TIMES, strict=True))
