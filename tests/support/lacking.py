"""What this kernel does not let be attached, as it answers when it is tried: the reason of a skip."""

from functools import cache

import pytest

from ebpf.attach.probe import probe
from ebpf.btf import Kind
from ebpf.errors import KernelError
from ebpf.isa import asm, encode
from ebpf.kernels import open_kernel
from ebpf.sys.calls import ProgLoad
from ebpf.sys.kernel import VMLINUX
from ebpf.sys.types import open_types
from ebpf.uapi import ProgType


@cache
def reason(name: str) -> str:
    """Why programs cannot be attached in a way (a row of `doctor`), "" if they can."""
    with open_kernel("linux") as kernel:
        (row,) = probe(kernel, {name})
    return "" if row.works else row.why


def need(*names: str) -> None:
    """Skip the test where one of these ways of attaching is lacking."""
    for name in names:
        if why := reason(name):
            pytest.skip(f"{name}: {why}")


@cache
def has_type(name: str, kind: Kind) -> bool:
    """Whether the kernel's own types have one of this name."""
    with open_kernel("linux") as kernel:
        return open_types(kernel.read_file(VMLINUX), VMLINUX).find(name, kind) is not None


def need_type(name: str, kind: Kind) -> None:
    """Skip the test where the kernel's own types lack one that stands for what is tried."""
    if not has_type(name, kind):
        pytest.skip(f"this kernel's types have no {kind.name.lower()} {name}")


@cache
def raw_cookies() -> bool:
    """Whether programs on raw tracepoints may ask for their cookie (Linux 6.10): one that does is loaded."""
    code = encode(asm("call 174\nr0 = 0\nexit"))
    with open_kernel("linux") as kernel:
        try:
            kernel.close(kernel.bpf(ProgLoad(int(ProgType.RAW_TRACEPOINT), code, "GPL", "cookie", log_level=1)).fd)
        except KernelError as error:
            if "bpf_get_attach_cookie#174" not in error.log:
                raise
            return False
    return True
