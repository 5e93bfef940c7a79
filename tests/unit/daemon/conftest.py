"""A daemon of its own for each test."""

import os
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ebpf.errors import KernelError, UsageError
from ebpf.kernels.remote import connect


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for a daemon of its own, which is ended at the end."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("EBPF_DAEMON_IDLE_S", "30")
    monkeypatch.delenv("EBPF_DAEMON", raising=False)
    yield folder / "ebpf"
    with suppress(KernelError, UsageError):
        peer, _ = connect(start=False)
        pid, _, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        peer.close()
        if pid != os.getpid():
            os.kill(pid, signal.SIGKILL)
