"""Finding ebpfd, and starting it when it is needed and not there."""

import errno
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from ebpf.errors import KernelError, NotSupportedError, UsageError
from ebpf.sys.wire import socket_address

_START_S = 10.0
_LONGEST_LOG = 1 << 20


def folder() -> Path:
    """The folder of this user's daemon: made if need be, and only if nobody else can have a hand in it."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    uid = os.getuid()
    place = Path(base) / "ebpf" if base and os.path.isdir(base) else Path(f"/tmp/ebpf-{uid}")
    try:
        place.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise UsageError(f"{place}: cannot make the folder of ebpfd's socket ({(error.strerror or '').lower()})") from error
    require_private(place)
    return place


def require_private(place: Path) -> None:
    """Insist that a folder is a real one, ours, and closed to all others."""
    found = place.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise UsageError(
            f"{place}: the folder of ebpfd's socket must be a folder of yours that nobody else can enter; remove it, or set XDG_RUNTIME_DIR"
        )


def socket_path() -> Path:
    """Where the daemon listens: EBPF_DAEMON, or this user's own."""
    named = os.environ.get("EBPF_DAEMON")
    return Path(named) if named else folder() / "ebpfd.sock"


def connect(*, start: bool = True) -> tuple[socket.socket, str]:
    """A connection to the daemon, which is started if it is this user's own and does not run; and its path.

    Raises KernelError (ECONNREFUSED) where it does not run and is not to be started.
    """
    if not hasattr(socket, "AF_UNIX") or not hasattr(os, "memfd_create"):
        raise NotSupportedError("ebpfd", "needs Linux: here the user kernel lives in one process", hint="")
    path = socket_path()
    peer = _try(path)
    if peer is None and start and not os.environ.get("EBPF_DAEMON"):
        peer = _start(path)
    if peer is None:
        raise KernelError(errno.ECONNREFUSED, "connect", f"no ebpfd at {path}")
    return peer, str(path)


def _try(path: Path) -> socket.socket | None:
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with socket_address(path) as address:
            peer.connect(address)
    except (FileNotFoundError, ConnectionRefusedError):
        peer.close()
        return None
    except OSError as error:
        peer.close()
        raise KernelError(error.errno or errno.EIO, "connect", f"ebpfd at {path}: {(error.strerror or str(error)).lower()}") from error
    _, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    # In a laboratory the daemon is root of the namespace, which is this same user outside.
    if uid not in (os.getuid(), os.geteuid()):
        peer.close()
        raise KernelError(errno.EPERM, "connect", f"the process at {path} belongs to another user ({uid})")
    return peer


def terminate() -> None:
    """Have the daemon end by a signal: whatever version of the protocol it speaks. Nothing if it does not run."""
    peer = _try(socket_path())
    if peer is None:
        return
    pid, _, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    peer.close()
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


def _start(path: Path) -> socket.socket | None:
    import fcntl

    with open(path.with_suffix(".lock"), "ab") as lock:
        # Of two that start it at once the second finds it running.
        fcntl.flock(lock, fcntl.LOCK_EX)
        peer = _try(path)
        if peer is not None:
            return peer
        log = path.with_suffix(".log")
        process = _launch(path, log)
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            peer = _try(path)
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
