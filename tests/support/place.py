"""Places of a test's own to attach to: a network namespace with a pair of interfaces, a cgroup."""

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ebpf.sys.rtnetlink import ACK, CREATE, EXCL, NESTED, attribute, exchange, request

_NEWNET = 0x40000000
#: Of rtnetlink: a new interface, its name, its kind, the kind's own settings, and of netkit's the other end.
_NEWLINK, _NAME, _LINKINFO, _KIND, _DATA, _NETKIT_PEER = 16, 3, 18, 1, 2, 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextmanager
def network() -> Iterator[None]:
    """This thread in a network namespace of its own: lo is up, and `v0` and `v1` are the ends of a pair (10.9.0.1, 10.9.0.2)."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    _check(_LIBC.unshare(_NEWNET))
    try:
        for words in (
            "link set lo up",
            "link add v0 type veth peer name v1",
            "addr add 10.9.0.1/24 dev v0",
            "link set v0 up",
            "link set v1 up",
        ):
            _ip(words)
        yield
    finally:
        _check(_LIBC.setns(home, _NEWNET))
        os.close(home)


def netkit(primary: str, peer: str) -> None:
    """A pair of netkit devices, which are up, in this network namespace; it goes with it."""
    info = attribute(_KIND, b"netkit\0") + attribute(
        _DATA | NESTED, attribute(_NETKIT_PEER | NESTED, bytes(16) + attribute(_NAME, peer.encode() + b"\0"))
    )
    body = bytes(16) + attribute(_NAME, primary.encode() + b"\0") + attribute(_LINKINFO | NESTED, info)
    exchange(request(_NEWLINK, CREATE | EXCL | ACK, body), dump=False)
    for name in (primary, peer):
        _ip(f"link set {name} up")


def _ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True, env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"})


@contextmanager
def bpffs() -> Iterator[str]:
    """A file system of pins of our own, of which nothing stays."""
    with tempfile.TemporaryDirectory(prefix="ebpf-test.") as folder:
        subprocess.run(["mount", "-t", "bpf", "bpf", folder], check=True)
        try:
            yield folder
        finally:
            subprocess.run(["umount", folder], check=True)


def cgroup_mount() -> str:
    """Where cgroup2 is mounted ("": nowhere)."""
    rows = Path("/proc/self/mountinfo").read_text().splitlines()
    return next((row.split()[4] for row in rows if " - cgroup2 " in row), "")


@contextmanager
def cgroup(name: str) -> Iterator[str]:
    """A cgroup of our own, empty at the end."""
    path = Path(cgroup_mount()) / f"ebpf-test-{os.getpid()}-{name}"
    path.mkdir()
    try:
        yield str(path)
    finally:
        path.rmdir()


def in_cgroup(path: str, act: Callable[[], None]) -> None:
    """Do something as a process of a cgroup: a child of this one, which must not fail."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            Path(path, "cgroup.procs").write_text("0")
            act()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "what was done in the cgroup failed"
