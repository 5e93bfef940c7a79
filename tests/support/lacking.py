"""What this kernel does not let be attached, as it answers when it is tried: the reason of a skip."""

from functools import cache

import pytest

from ebpf.attach.probe import probe
from ebpf.kernels import open_kernel


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
