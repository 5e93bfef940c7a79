"""The kernels: the only place that knows them all."""

import os

from ebpf.errors import UsageError
from ebpf.sys.kernel import Kernel

__all__ = ["open_kernel"]


def open_kernel(name: str | None = None) -> Kernel:
    """Open the kernel `name`: "user", "linux", or "auto" (Linux's where bpf(2) is permitted, else ours).

    Without a name EBPF_KERNEL decides, else it is auto.
    """
    name = name or os.environ.get("EBPF_KERNEL") or "auto"
    if name == "auto":
        from ebpf.kernels.linux import permitted

        name = "linux" if permitted() else "user"
    if name == "user":
        from ebpf.kernels.user import UserKernel

        return UserKernel()
    if name == "linux":
        from ebpf.kernels.linux import LinuxKernel

        return LinuxKernel()
    raise UsageError(f"no kernel '{name}'; there is user, linux and auto")
