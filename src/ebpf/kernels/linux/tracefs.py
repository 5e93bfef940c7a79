"""tracefs: the ids of tracepoints, and a private instance for the lines of bpf_trace_printk."""

import ctypes
import os
import stat
from contextlib import suppress
from functools import lru_cache

from ebpf.errors import NotFoundError, NotSupportedError, PrivilegeError, near

# fsopen, fsconfig and fsmount have the same numbers on every machine.
_FSOPEN, _FSCONFIG, _FSMOUNT, _CREATE = 430, 431, 432, 6
_PRINTK = "events/bpf_trace/bpf_trace_printk/enable"
_MARK = b"ebpf: the command has ended"
_ROOTS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")


@lru_cache(maxsize=1)
def root() -> str:
    """Where tracefs can be reached: where it is mounted, else by a mount of our own that no path leads to.

    Raises NotSupportedError where there is none, PrivilegeError where it may not be read.
    """
    for path in _ROOTS:
        try:
            if stat.S_ISDIR(os.stat(f"{path}/events").st_mode):
                return path
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError:
            raise PrivilegeError(13, f"open {path}", "CAP_SYS_ADMIN", "tracefs is for root") from None
    return f"/proc/self/fd/{_detached_mount(b'tracefs')}"


def _detached_mount(kind: bytes) -> int:
    """A descriptor of a new mount of a filesystem that is attached nowhere: nobody else sees it, and it goes with us."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(number: int, *arguments: object) -> int:
        result = libc.syscall(number, *arguments)
        if result < 0:
            code = ctypes.get_errno()
            if code == 1:
                raise PrivilegeError(code, "mount tracefs", "CAP_SYS_ADMIN", "tracefs is not mounted, and mounting it is for root")
            raise NotSupportedError(
                "tracefs", f"is not mounted ({os.strerror(code).lower()})", hint="mount -t tracefs tracefs /sys/kernel/tracing"
            )
        return int(result)

    context = call(_FSOPEN, kind, 1)
    try:
        call(_FSCONFIG, context, _CREATE, None, None, 0)
        return call(_FSMOUNT, context, 1, 0)
    finally:
        os.close(context)


def tracepoint_id(category: str, name: str) -> int:
    """The number of a tracepoint. Raises NotFoundError with names like it."""
    events = f"{root()}/events/{category}"
    try:
        with open(f"{events}/{name}/id", encoding="ascii") as file:
            return int(file.read())
    except PermissionError:
        raise PrivilegeError(13, "open tracefs", "CAP_SYS_ADMIN", "tracefs is for root") from None
    except (OSError, ValueError):
        names = [f"{category}:{each}" for each in os.listdir(events)] if os.path.isdir(events) else []
        raise NotFoundError("tracepoint", f"{category}:{name}", near=near(f"{category}:{name}", names)) from None


class TraceInstance:
    """A tracefs instance of our own that receives what bpf_trace_printk writes. `fd` is its pipe."""

    def __init__(self, number: int) -> None:
        self.flushed = False
        self._asked = False
        self._rest = b""
        self._path = f"{root()}/instances/ebpf-{os.getpid()}-{number}"
        try:
            os.mkdir(self._path)
        except PermissionError:
            raise PrivilegeError(13, f"mkdir {self._path}", "CAP_SYS_ADMIN", "tracefs is for root") from None
        try:
            self._write(_PRINTK, b"1")
            self.fd = os.open(f"{self._path}/trace_pipe", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except BaseException:
            with suppress(OSError):
                os.rmdir(self._path)
            raise

    def _write(self, name: str, data: bytes) -> None:
        with open(f"{self._path}/{name}", "wb", buffering=0) as file:
            file.write(data)

    def flush(self) -> None:
        """Ask for a mark behind all that was written so far; `flushed` tells when it was read."""
        if not self._asked:
            self._asked = True
            self._write("trace_marker", _MARK)

    def read(self) -> bytes:
        """The whole lines that there are."""
        parts = [self._rest]
        while True:
            try:
                part = os.read(self.fd, 1 << 16)
            except (BlockingIOError, InterruptedError):
                break
            if not part:
                break
            parts.append(part)
        whole, newline, self._rest = b"".join(parts).rpartition(b"\n")
        lines = (whole + newline).splitlines(keepends=True)
        if self._asked and any(_MARK in line for line in lines):
            self.flushed = True
            lines = [line for line in lines if _MARK not in line]
        return b"".join(lines)

    def close(self) -> None:
        """Remove the instance. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            with suppress(OSError):
                self._write(_PRINTK, b"0")
            with suppress(OSError):
                os.rmdir(self._path)
