"""Finding ebpfd: this user's, and nobody else's."""

import errno
import os
import socket
import stat
import struct
from contextlib import suppress

from ebpf.errors import KernelError, NotSupportedError, UsageError
from ebpf.sys.wire import socket_address


def folder() -> str:
    """The folder of this user's daemon: made if need be, and only if nobody else can have a hand in it."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    uid = os.getuid()
    place = os.path.join(base, "ebpf") if base and os.path.isdir(base) else f"/tmp/ebpf-{uid}"
    try:
        os.mkdir(place, mode=0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise UsageError(f"{place}: cannot make the folder of ebpfd's socket ({(error.strerror or '').lower()})") from error
    require_private(place)
    return place


def require_private(place: str) -> None:
    """Insist that a folder is a real one, ours, and closed to all others."""
    found = os.lstat(place)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise UsageError(
            f"{place}: the folder of ebpfd's socket must be a folder of yours that nobody else can enter; remove it, or set XDG_RUNTIME_DIR"
        )


def socket_path() -> str:
    """Where the daemon listens: EBPF_DAEMON, or this user's own."""
    named = os.environ.get("EBPF_DAEMON")
    return named or os.path.join(folder(), "ebpfd.sock")


def connect(*, start: bool = True) -> tuple[socket.socket, str]:
    """A connection to the daemon, which is started if it is this user's own and does not run; and its path.

    Raises KernelError (ECONNREFUSED) where it does not run and is not to be started.
    """
    if not hasattr(socket, "AF_UNIX") or not hasattr(os, "memfd_create"):
        raise NotSupportedError("ebpfd", "needs Linux: here the user kernel lives in one process", hint="")
    path = socket_path()
    peer = try_to_reach(path)
    if peer is None and start and not os.environ.get("EBPF_DAEMON"):
        from ebpf.kernels.remote.start import start_one

        peer = start_one(path)
    if peer is None:
        raise KernelError(errno.ECONNREFUSED, "connect", f"no ebpfd at {path}")
    return peer, path


def try_to_reach(path: str) -> socket.socket | None:
    """A connection to the daemon that listens at `path`, if one does. Raises KernelError if it is not to be trusted."""
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
    peer = try_to_reach(socket_path())
    if peer is None:
        return
    pid, _, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    peer.close()
    with suppress(ProcessLookupError):
        import signal

        os.kill(pid, signal.SIGTERM)
