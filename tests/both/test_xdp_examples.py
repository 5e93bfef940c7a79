"""The XDP examples over a capture: what they print, on both kernels, and that verdict and output are equal packet by packet."""

import json
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ebpf.cli.replay import read
from ebpf.kernels import open_kernel
from ebpf.object import Collection
from ebpf.sys.capture import Capture, CaptureWriter

EXAMPLES = Path(__file__).parents[2] / "examples"
EXPECTED = json.loads((EXAMPLES / "expected" / "xdp.json").read_text())
Run = Callable[..., subprocess.CompletedProcess[str]]


def udp(port: int, *, options: int = 0) -> bytes:
    data = b"data" * 4
    segment = struct.pack(">HHHH", 4000, port, 8 + len(data), 0) + data
    ip = struct.pack(">BBHHHBBH4s4s", 0x45 + options, 0, 20 + 4 * options + len(segment), 7, 0, 64, 17, 0, b"\x0a\0\0\1", b"\x0a\0\0\2")
    return b"\x02\0\0\0\0\1\x02\0\0\0\0\2\x08\0" + ip + bytes(4 * options) + segment


def frames() -> list[bytes]:
    """UDP to two ports, with and without IP options, and what is no IPv4 or too short for it."""
    arp = b"\xff" * 6 + b"\x02\0\0\0\0\1\x08\x06" + bytes(28)
    return [udp(9999), udp(53), udp(9999, options=2), udp(53), arp, udp(9999), b"\x02" * 12 + b"\x08\0", udp(9999), *[udp(80)] * 4]


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    path = tmp_path / "mixed.pcap"
    with CaptureWriter(path) as writer:
        for number, frame in enumerate(frames()):
            writer.write(frame, number * 1000)
    return path


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("engine", ["jit", "interp"])
def test_an_example_prints_what_is_expected(ebpf: Run, capture: Path, name: str, engine: str) -> None:
    answer = ebpf("--json", "prog", "run", str(EXAMPLES / name), "--pcap", str(capture), env={"EBPF_ENGINE": engine})
    assert answer.returncode == 0, answer.stderr
    got = json.loads(answer.stdout)
    assert {key: got[key] for key in EXPECTED[name]} == EXPECTED[name]


def test_each_verdicts_packets_are_written(ebpf: Run, capture: Path, tmp_path: Path) -> None:
    folder = tmp_path / "verdicts"
    ebpf("prog", "run", str(EXAMPLES / "xdp_drop_port.bpf.c"), "--pcap", str(capture), "--write", str(folder))
    assert sorted(p.name for p in folder.iterdir()) == ["XDP_DROP.pcap", "XDP_PASS.pcap"]
    dropped = [p.data for p in Capture.open(folder / "XDP_DROP.pcap")]
    assert dropped == [f for f in frames() if f[-18:-16] != b"" and struct.pack(">H", 9999) in f[34:50] and f[12:14] == b"\x08\0"]


@pytest.mark.linux
@pytest.mark.parametrize("name", EXPECTED)
def test_verdict_and_output_equal_linuxs_packet_by_packet(capture: Path, name: str) -> None:
    spec = read(EXAMPLES / name)
    answers = []
    for kernel_name in ("user", "linux"):
        with open_kernel(kernel_name) as kernel, Collection.load(spec, kernel) as held:
            (program,) = held.programs.values()
            rows = [program.run(packet.data) for packet in Capture.open(capture)]
            answers.append(([(row.retval, row.data) for row in rows], held.variables()))
    assert answers[0] == answers[1]
