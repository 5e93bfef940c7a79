"""Starting ebpfd, when it is needed and not there."""

import errno
import fcntl
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from ebpf.errors import KernelError
from ebpf.kernels.remote.find import try_to_reach

_START_S = 10.0
_LONGEST_LOG = 1 << 20


def start_one(where: str) -> socket.socket | None:
    """Start a daemon that listens at a path, and connect to it. Raises KernelError if it does not start."""
    path = Path(where)
    with open(path.with_suffix(".lock"), "ab") as lock:
        # Of two that start it at once the second finds it running.
        fcntl.flock(lock, fcntl.LOCK_EX)
        peer = try_to_reach(where)
        if peer is not None:
            return peer
        log = path.with_suffix(".log")
        process = _launch(path, log)
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            peer = try_to_reach(where)
            if peer is not None:
                # It lives on by itself: nobody waits for it here.
                process.returncode = 0
                return peer
            status = process.poll()
            if status is not None and status < 0:
                # Somebody killed it while it started.
                process = _launch(path, log)
            elif status is not None:
                break
            time.sleep(0.005)
        tail = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        raise KernelError(errno.ECONNREFUSED, "connect", f"ebpfd did not start: {tail[0]} (see {log})")


def _launch(path: Path, log: Path) -> "subprocess.Popen[bytes]":
    with suppress(FileNotFoundError):
        if log.stat().st_size > _LONGEST_LOG:
            # What is old goes, in whole lines.
            log.write_bytes(log.read_bytes()[-_LONGEST_LOG // 2 :].partition(b"\n")[2])
    with open(log, "ab") as out:
        os.chmod(log, 0o600)
        return subprocess.Popen(
            [sys.executable, "-m", "ebpf.kernels.daemon", os.fspath(path)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            cwd="/",
        )
