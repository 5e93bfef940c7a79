"""The one place where bpf(2) and perf_event_open(2) are called."""

import ctypes
import errno
import os
import sys
from functools import lru_cache

from ebpf.errors import KernelError, NotSupportedError, PrivilegeError

_NUMBERS = {"x86_64": (321, 298), "aarch64": (280, 241)}
# What the names of system calls' functions begin with.
_PREFIXES = {"x86_64": "__x64_sys_", "aarch64": "__arm64_sys_"}
_MEMORY = ctypes.c_char * 1


@lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def numbers() -> tuple[int, int]:
    """The numbers of bpf(2) and perf_event_open(2) here. Raises NotSupportedError on an unknown machine."""
    if sys.platform != "linux":
        raise NotSupportedError("the linux kernel", f"this is {sys.platform}", hint="use --kernel user")
    try:
        return _NUMBERS[os.uname().machine]
    except KeyError:
        raise NotSupportedError("the linux kernel", f"is not served on {os.uname().machine} yet") from None


def syscall_function(syscall: str) -> str:
    """The kernel function of a system call."""
    return _PREFIXES[os.uname().machine] + syscall


_PRIVATE, _BIND = 1 << 18, 1 << 12


def mount_bpffs(path: str) -> None:
    """Mount a bpffs at a folder, unseen by other mount namespaces. Raises OSError."""
    where = os.fsencode(path)
    if _libc().mount(None, where, b"none", _PRIVATE, None) != 0:
        # It is no mount point of its own yet: made one, it need not share with others what is mounted there.
        if ctypes.get_errno() != errno.EINVAL:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
        if _libc().mount(where, where, b"none", _BIND, None) != 0 or _libc().mount(None, where, b"none", _PRIVATE, None) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
    if _libc().mount(b"bpf", where, b"bpf", 0, b"mode=0700") != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)


def bpf(cmd: int, attr: "ctypes.Array[ctypes.c_char]") -> int:
    """Call bpf(2). Returns its result, or minus errno."""
    result = _libc().syscall(numbers()[0], cmd, attr, len(attr))
    return int(result) if result >= 0 else -ctypes.get_errno()


def perf_event_open(attr: "ctypes.Array[ctypes.c_char]", pid: int, cpu: int, group: int, flags: int) -> int:
    """Call perf_event_open(2). Returns a descriptor, or minus errno."""
    result = _libc().syscall(numbers()[1], attr, pid, cpu, group, flags)
    return int(result) if result >= 0 else -ctypes.get_errno()


_SO_ATTACH_BPF, _SO_DETACH_FILTER, _SO_ATTACH_REUSEPORT, _SO_DETACH_REUSEPORT = 50, 27, 52, 68


def attach_to_socket(sock_fd: int, prog_fd: int, *, reuseport: bool) -> None:
    """Attach a program to a socket (-1: take it off). Raises KernelError."""
    import socket

    if prog_fd < 0:
        option, name = (_SO_DETACH_REUSEPORT, "SO_DETACH_REUSEPORT_BPF") if reuseport else (_SO_DETACH_FILTER, "SO_DETACH_FILTER")
    else:
        option, name = (_SO_ATTACH_REUSEPORT, "SO_ATTACH_REUSEPORT_EBPF") if reuseport else (_SO_ATTACH_BPF, "SO_ATTACH_BPF")
    value = ctypes.c_int(prog_fd)
    if _libc().setsockopt(sock_fd, socket.SOL_SOCKET, option, ctypes.byref(value), 4) != 0:
        number = ctypes.get_errno()
        why = "the socket shares its port with none (SO_REUSEPORT, and bound)" if reuseport and number == errno.EINVAL else ""
        raise failure(number, f"setsockopt({name})", why)


def failure(number: int, call: str, why: str = "", *, log: str = "", capability: str = "CAP_BPF") -> KernelError:
    """The error for an errno; EPERM names the capability that is missing."""
    if number == errno.EPERM and not has_capability(capability):
        return PrivilegeError(number, call, capability, f"needs {capability} (or root)")
    return KernelError(number, call, why, log=log)


_BITS = {"CAP_BPF": 39, "CAP_PERFMON": 38, "CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}


def has_capability(name: str) -> bool:
    """Whether this process has a capability (or CAP_SYS_ADMIN, which stands for most)."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            line = next(line for line in file if line.startswith("CapEff:"))
    except (OSError, StopIteration):
        return False
    held = int(line.split()[1], 16)
    return bool(held >> _BITS[name] & 1) or (name != "CAP_NET_ADMIN" and bool(held >> _BITS["CAP_SYS_ADMIN"] & 1))
