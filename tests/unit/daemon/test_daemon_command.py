"""`ebpf daemon status|stop|log`: for people and as JSON, whether it runs, does not, or fell."""

import json
import os
import signal
from pathlib import Path

import pytest

from ebpf.cli.main import main
from ebpf.kernels.remote import RemoteKernel
from ebpf.sys.calls import ObjPin
from support.daemon import HASH, running, wait_for


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> "Typed":
    return Typed(capsys)


class Typed:
    """Carries out a command: exit status, output, notes."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: str) -> tuple[int, str, str]:
        status = main(list(words))
        captured = self._capsys.readouterr()
        return status, captured.out, captured.err


def test_without_a_daemon_status_is_1_and_nothing_is_started(typed: Typed) -> None:
    assert typed("daemon", "status") == (1, "ebpfd does not run\n", "")
    assert typed("-j", "daemon", "status") == (1, '{"running":false,"ended_unexpectedly":false}\n', "")
    assert typed("daemon", "stop") == (0, "", "ebpfd does not run\n")
    assert typed("-j", "daemon", "stop") == (0, '{"stopped":false}\n', "")
    status, out, err = typed("daemon", "log")
    assert (status, out) == (0, "")
    assert err.startswith("there is no log yet (")
    assert json.loads(typed("-j", "daemon", "log")[1])["lines"] == []
    assert not running()


def test_status_says_what_there_is(typed: Typed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EBPF_DAEMON_SAVE", str(tmp_path / "saved"))
    monkeypatch.setenv("EBPF_DAEMON_CPU_S", "2.5")
    with RemoteKernel() as kernel:
        kernel.bpf(ObjPin("/sys/fs/bpf/counts", kernel.bpf(HASH)))
        pid = kernel.status()["pid"]
        lines = typed("daemon")[1].splitlines()
        assert lines[0].startswith(f"ebpfd runs: pid {pid}, for ")
        assert lines[1:] == [
            "0 programs, 1 maps, 0 links, 0 BTFs; 1 other clients",
            "a client may have 8192 objects, 2048 MB, 2.5 s for a test run",
            f"pins are saved in {tmp_path / 'saved'}",
            "pinned /sys/fs/bpf/counts",
        ]
        told = json.loads(typed("-j", "daemon", "status")[1])
        assert (told["running"], told["pid"], told["maps"], told["pins"], told["lost"]) == (True, pid, 1, ["/sys/fs/bpf/counts"], [])


def test_stop_ends_it_and_the_log_says_so(typed: Typed) -> None:
    with RemoteKernel() as kernel:
        pid = kernel.status()["pid"]
    assert typed("-j", "daemon", "stop") == (0, '{"stopped":true}\n', "")
    wait_for(lambda: not Path(f"/proc/{pid}/exe").exists())
    assert typed("daemon", "log")[1].splitlines()[-1].endswith(f"ebpfd[{pid}] ends: a client asked for it")
    told = json.loads(typed("-j", "daemon", "log")[1])
    assert [(row["pid"], row["text"].split()[0]) for row in told["lines"]] == [(pid, "serves"), (pid, "ends:")]
    assert told["file"].endswith("ebpfd.log")


def test_one_that_fell_is_told_until_the_next_is_started(typed: Typed) -> None:
    with RemoteKernel() as kernel:
        kernel.bpf(ObjPin("/sys/fs/bpf/counts", kernel.bpf(HASH)))
        os.kill(int(kernel.status()["pid"]), signal.SIGKILL)
    wait_for(lambda: not running())
    assert typed("daemon", "status")[1] == "ebpfd does not run: it ended unexpectedly, and the next command starts it again\n"
    assert json.loads(typed("-j", "daemon", "status")[1]) == {"running": False, "ended_unexpectedly": True}
    with RemoteKernel():
        assert typed("daemon", "status")[1].splitlines()[-1] == "lost by an unexpected end: /sys/fs/bpf/counts (map counts)"


def test_a_log_that_is_long_loses_what_is_old(typed: Typed, place: Path) -> None:
    place.mkdir(mode=0o700)
    (place / "ebpfd.log").write_text("".join(f"line {number}\n" for number in range(200_000)))
    with RemoteKernel():
        pass
    lines = typed("daemon", "log")[1].splitlines()
    assert lines[0].startswith("line ")
    assert 10_000 < len(lines) < 100_000
    assert "serves" in lines[-1]
