"""BPF tokens (Linux 6.9): what a bpffs lends of the use of bpf(2) to a user namespace that has no privileges outside.

Whoever mounted it says how much (delegate_cmds, delegate_maps, delegate_progs, delegate_attachs): see the kernel's kernel/bpf/token.c.
"""

import errno
import os

from ebpf.errors import KernelError
from ebpf.kernels.linux.codec import attr
from ebpf.kernels.linux.syscall import bpf, failure
from ebpf.uapi import Cmd

_WHY = {
    errno.ENOENT: "is no bpffs, or lends nothing (delegate_cmds=... when it is mounted)",
    errno.EINVAL: "is no bpffs, or this kernel has no tokens (Linux 6.9)",
    errno.EPERM: "is a bpffs of another user namespace, or this process lacks CAP_BPF in its own",
    errno.EOPNOTSUPP: "is in the initial user namespace, where nothing needs to be lent",
    errno.ENOTDIR: "is no folder",
}


def open_token(path: str) -> int:
    """The descriptor of a token of the bpffs that is mounted at `path`. Raises KernelError."""
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        number = error.errno or errno.EIO
        raise KernelError(number, "open", f"BPF token: {path}: {os.strerror(number).lower()}") from error
    try:
        result = bpf(int(Cmd.TOKEN_CREATE), attr("II", 0, folder))
    finally:
        os.close(folder)
    if result < 0:
        raise failure(-result, "bpf(TOKEN_CREATE)", f"BPF token: {path} {_WHY.get(-result, os.strerror(-result).lower())}")
    return result
