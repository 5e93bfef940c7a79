"""The kernels: the only place that knows them all."""

import errno
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ebpf.errors import KernelError, UsageError
from ebpf.sys.kernel import Kernel

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["daemon_fell", "daemon_log", "daemon_news", "daemon_runs", "daemon_status", "open_kernel", "open_lab", "stop_daemon"]


def open_kernel(name: str | None = None, *, here: bool = False, lasting: bool = False, token: str = "") -> Kernel:
    """Open the kernel `name`: "user", "linux", or "auto" (Linux's where bpf(2) is permitted, else ours).

    Without a name EBPF_KERNEL decides, else it is auto. The user kernel lives in this process, unless it is to be `lasting`
    (objects are to outlive it) or EBPF_DAEMON names a daemon and it need not be `here`: then it lives in ebpfd. `token` is the path
    of a bpffs that lends the use of Linux's kernel to this user namespace (without it LIBBPF_BPF_TOKEN_PATH, if that is set).
    """
    name = name or os.environ.get("EBPF_KERNEL") or "auto"
    if name == "auto":
        from ebpf.kernels.linux import permitted

        name = "linux" if permitted() else "user"
    if name == "user":
        if not here and (lasting or os.environ.get("EBPF_DAEMON")):
            from ebpf.kernels.remote import RemoteKernel

            return RemoteKernel()
        from ebpf.kernels.user import UserKernel

        return UserKernel()
    if name == "linux":
        from ebpf.kernels.linux import LinuxKernel

        return LinuxKernel(token=token)
    raise UsageError(f"no kernel '{name}'; there is user, linux and auto")


def daemon_news(kernel: Kernel) -> str:
    """What happened to the ebpfd before this one, in one line and told once; "" if nothing did, or the kernel is not in ebpfd."""
    if kernel.name != "user" or not kernel.lasting:
        return ""
    from ebpf.kernels.remote import RemoteKernel

    return kernel.take_news() if isinstance(kernel, RemoteKernel) else ""


def daemon_status() -> dict[str, Any] | None:
    """What ebpfd tells of itself; None if it does not run."""
    from ebpf.kernels.remote import RemoteKernel

    try:
        with RemoteKernel(start=False) as kernel:
            return kernel.status()
    except KernelError as error:
        if error.errno in (errno.ECONNREFUSED, errno.ECONNRESET):
            return None
        raise


def daemon_fell() -> bool:
    """Whether the last ebpfd ended unexpectedly, and none has been started since."""
    return not daemon_runs() and daemon_log().with_suffix(".pins").exists()


def daemon_runs() -> bool:
    """Whether ebpfd runs, of whatever version."""
    from ebpf.kernels.remote import connect

    try:
        connect(start=False)[0].close()
    except KernelError as error:
        if error.errno != errno.ECONNREFUSED:
            raise
        return False
    return True


def stop_daemon() -> bool:
    """Have ebpfd end, of whatever version it is; False if it does not run."""
    from ebpf.kernels.remote import RemoteKernel, terminate

    try:
        with RemoteKernel(start=False) as kernel:
            kernel.stop()
    except KernelError as error:
        if error.errno in (errno.ECONNREFUSED, errno.ECONNRESET):
            return False
        if error.errno not in (errno.EPROTONOSUPPORT, errno.EPROTO):
            raise
        terminate()
    return True


def daemon_log() -> "Path":
    """Where ebpfd writes what it has to say."""
    from pathlib import Path

    from ebpf.kernels.remote import socket_path

    return Path(socket_path()).with_suffix(".log")


def open_lab(argv: Sequence[str], say: Callable[[str], None] | None, *, linux: bool = False) -> int:
    """Run a command in a laboratory and return its exit status; `say` is given the lines of the banner (None: it has none).

    With `linux` its programs run in Linux's kernel, and it is for root.
    """
    from pathlib import Path

    from ebpf.kernels.daemon.lab import open_lab as enter
    from ebpf.kernels.remote import folder

    return enter(argv, Path(folder()), say, linux=linux)
