"""A daemon of its own for each test."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.daemon import running


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for a daemon of its own, which is ended at the end."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("EBPF_DAEMON_IDLE_S", "30")
    monkeypatch.delenv("EBPF_DAEMON", raising=False)
    yield folder / "ebpf"
    pid = running()
    if pid:
        os.kill(pid, signal.SIGKILL)
