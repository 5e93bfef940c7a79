"""`ebpf prog profile`: what a program's runs cost, where the machine can tell; else one line that says what it lacks."""

import json
from collections.abc import Iterator

import pytest

from ebpf.cli import profile as profiling
from ebpf.cli.main import main
from ebpf.cli.profile import METRICS, Reading, _lines
from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.kernels import open_kernel
from ebpf.object import Collection, Program
from support.lacking import need, reason

pytestmark = pytest.mark.linux
SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
int sum = 0;
SEC("tc") int adds(struct __sk_buff *skb) { for (int i = 0; i < 100; i++) sum += skb->len; return 0; }
char LICENSE[] SEC("license") = "GPL";
"""


@pytest.fixture
def adds() -> Iterator[Program]:
    spec = read_object(compile_c("adds.bpf.c", text=SOURCE).object)
    with open_kernel("linux") as kernel, Collection.load(spec, kernel) as collection:
        yield collection.programs["adds"]


def profile(program: Program, *words: str, json: bool = False) -> int:
    return main(["--kernel", "linux", *(["-j"] if json else []), "prog", "profile", "id", str(program.info().id), *words])


def test_the_runs_of_a_program_are_counted_and_timed(
    adds: Program, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    need("fentry", "fexit")
    with monkeypatch.context() as patch:
        # It runs while its runs are counted, and not while it is traced or let go: Linux 6.1 in a machine does not get over that.
        patch.setattr(profiling, "_wait", lambda seconds: [adds.run(bytes(64), repeat=100) for _ in range(20)])
        status = profile(adds, "cpu_clock", json=True)
    out, complained = capfd.readouterr()
    assert (status, complained) == (0, "")
    (row,) = json.loads(out)
    assert (row["metric"], row["run_cnt"]) == ("cpu_clock", 2000)
    # A run takes its time, and no more than there was.
    assert 10 < row["value"] / row["run_cnt"] < 1e9
    assert row["enabled"] == row["running"] > 0
    adds.run(bytes(64), repeat=100)
    assert profile(adds, "duration", "1", "cpu_clock") == 0
    assert [line.split() for line in capfd.readouterr().out.splitlines() if line] == [["0", "run_cnt"], ["0", "cpu_clock"]]


def test_what_a_machine_cannot_count_is_one_line(adds: Program, capfd: pytest.CaptureFixture[str]) -> None:
    need("fentry", "fexit")
    if not reason("perf_event (cycles)"):
        pytest.skip("this machine has counters: a probe opened one of cycles")
    assert profile(adds, "duration", "1", "cycles") != 0
    complained = capfd.readouterr().err
    assert "this machine has no such counter" in complained.splitlines()[0]
    assert "cpu_clock counts nanoseconds" in complained


def test_a_host_that_forbids_trampolines_is_one_line(adds: Program, capfd: pytest.CaptureFixture[str]) -> None:
    if not reason("fentry"):
        pytest.skip("this kernel traces functions: a probe was loaded")
    assert profile(adds, "duration", "1", "cpu_clock") != 0
    assert "some hosts forbid all trampolines" in capfd.readouterr().err.splitlines()[0]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("cycle",),
            "Error: unknown metric cycle; there is cycles, instructions, l1d_loads, llc_misses, itlb_misses, dtlb_misses, cpu_clock",
        ),
        (("cycles", "instructions", "l1d_loads", "llc_misses", "cpu_clock"), "Error: too many (5) metrics, please specify no more than 4"),
        (("duration", "1"), "Error: no metric: say which"),
        (("duration", "x", "cycles"), "Error: can't parse duration 'x'"),
    ],
)
def test_what_is_typed_wrongly_is_said(words: tuple[str, ...], line: str, adds: Program, capfd: pytest.CaptureFixture[str]) -> None:
    assert profile(adds, *words) != 0
    assert capfd.readouterr().err.startswith(line)


def test_what_is_a_part_of_another_metric_is_told_as_one() -> None:
    readings = [
        Reading(METRICS["cycles"], 40_000_000, 200, 166),
        Reading(METRICS["instructions"], 42_400_000, 200, 200),
        Reading(METRICS["llc_misses"], 106, 10, 10),
    ]
    assert [line.split() for line in _lines(readings)] == [
        ["40000000", "cycles", "(83.00%)"],
        ["42400000", "instructions", "#", "1.06", "insns", "per", "cycle"],
        ["106", "llc_misses", "#", "2.50", "LLC", "misses", "per", "million", "insns"],
    ]
