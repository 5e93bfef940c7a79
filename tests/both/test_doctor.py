"""`ebpf doctor`: what it says is so."""

import json
import os
import subprocess
import sys

import pytest


def doctor(*words: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-m", "ebpf", "doctor", *words], capture_output=True, text=True, timeout=120, check=False)
    assert not done.stderr
    return done.returncode, done.stdout


def found(part: str) -> dict[str, tuple[bool | None, str, str]]:
    code, out = doctor("--json")
    assert code == 0
    return {row["name"]: (row["good"], row["text"], row["fix"]) for row in json.loads(out) if row["part"] == part}


def test_without_privileges_ours_works_and_what_is_missing_is_named() -> None:
    if os.getuid() == 0:
        pytest.skip("this is root: test_what_root_is_told_of_attaching asks then")
    kernels = found("kernels")
    assert kernels["user"][0] is True
    assert kernels["linux"][0] is False
    assert "CAP_BPF" in kernels["linux"][1]
    attach = found("attach")
    assert attach["raw_tp"][:2] == (None, "needs CAP_BPF")
    assert found("privileges")["CAP_PERFMON"][0] is False


@pytest.mark.linux
def test_what_root_is_told_of_attaching_is_what_the_kernel_has() -> None:
    attach = found("attach")
    assert attach["raw_tp"] == attach["socket filter"] == attach["uprobe"] == (True, "", "")
    assert attach["kprobe"][0] is os.path.exists("/sys/bus/event_source/devices/kprobe")
    for name, (good, text, _) in attach.items():
        assert good is True or text, name


def test_a_gap_has_its_remedy_in_the_next_line() -> None:
    _, out = doctor()
    lines = out.splitlines()
    gaps = [i for i, line in enumerate(lines) if line.startswith("  no  ")]
    with_remedy = [i for i in gaps if i + 1 < len(lines) and "->" in lines[i + 1]]
    assert len(with_remedy) >= len(gaps) * 3 // 4


def test_a_word_that_it_does_not_know_is_refused() -> None:
    done = subprocess.run([sys.executable, "-m", "ebpf", "doctor", "--jsn"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "Error: doctor: unexpected '--jsn'; ebpf doctor help\n")
