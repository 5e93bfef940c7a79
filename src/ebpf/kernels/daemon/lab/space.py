"""Namespaces: entering new ones, so that what is done to the network and to mounts is seen by nobody else."""

import ctypes
import os
from contextlib import suppress

_NEWNS, _NEWUSER, _NEWNET = 0x00020000, 0x10000000, 0x40000000
_MS_REC, _MS_PRIVATE, _MS_BIND, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 16384, 1 << 18, 4096, 2, 4, 8
_SETNS = 308 if os.uname().machine == "x86_64" else 268


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)


def enter() -> None:
    """Enter a new user, mount and network namespace, in which uids and gids are what they were. For a process of one thread.

    Raises OSError where user namespaces are refused: nothing has changed then.
    """
    uid, gid = os.geteuid(), os.getegid()
    # root may map everybody, so that files keep their owners.
    whole = uid == 0 and _may_map_all()
    if whole:
        _enter_whole()
    else:
        _check(_libc().unshare(_NEWUSER | _NEWNS | _NEWNET), "unshare")
        with suppress(OSError):
            _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{uid} {uid} 1")
        _write("/proc/self/gid_map", f"{gid} {gid} 1")
    # Nothing that is mounted from here on reaches anybody else.
    _check(_libc().mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "mount")


def enter_as_root() -> None:
    """Enter a new mount and network namespace, and stay in the user namespace: for who is root already."""
    _check(_libc().unshare(_NEWNS | _NEWNET), "unshare")
    _check(_libc().mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "mount")


def mount_bpffs(path: str) -> bool:
    """Put a BPF file system in a folder's place, for this mount namespace."""
    return bool(_libc().mount(b"bpf", os.fsencode(path), b"bpf", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, b"mode=0700") == 0)


def _may_map_all() -> bool:
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            return len(file.read().split()) == 3
    except OSError:
        return False


def _enter_whole() -> None:
    """A namespace whose map is written by a child that stays outside: only it may map more than one id."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        uids = file.read().split()
    with open("/proc/self/gid_map", encoding="ascii") as file:
        gids = file.read().split()
    entered_read, entered_write = os.pipe()
    done_read, done_write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(entered_write)
            if not os.read(entered_read, 1):
                os._exit(1)
            parent = os.getppid()
            _write(f"/proc/{parent}/uid_map", f"{uids[0]} {uids[0]} {uids[2]}")
            _write(f"/proc/{parent}/gid_map", f"{gids[0]} {gids[0]} {gids[2]}")
            os.write(done_write, b"y")
        finally:
            os._exit(0)
    try:
        _check(_libc().unshare(_NEWUSER | _NEWNS | _NEWNET), "unshare")
        os.write(entered_write, b"y")
        os.close(done_write)
        if os.read(done_read, 1) != b"y":
            raise OSError(1, "the ids could not be mapped", "uid_map")
    finally:
        os.close(entered_write)
        os.close(entered_read)
        os.close(done_read)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def user_namespace() -> str:
    """This process's user namespace, as /proc names it."""
    return os.readlink("/proc/self/ns/user")


def network() -> int:
    """A descriptor of this process's network namespace."""
    return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def new_network() -> int:
    """Enter a new network namespace; the answer is its descriptor."""
    _check(_libc().unshare(_NEWNET), "unshare")
    return network()


def enter_network(fd: int) -> None:
    """Enter a network namespace."""
    _check(_libc().syscall(_SETNS, fd, _NEWNET), "setns")


def mount_empty(path: str) -> bool:
    """Put an empty folder in a folder's place, for this mount namespace; False where that cannot be done."""
    return bool(_libc().mount(b"lab", os.fsencode(path), b"tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, b"mode=0755") == 0)


def mount_file(source: str, target: str) -> bool:
    """Put a file in another's place, for this mount namespace."""
    return bool(_libc().mount(os.fsencode(source), os.fsencode(target), None, _MS_BIND, None) == 0)
