"""What tests ask of an ebpfd of their own."""

import time
from collections.abc import Callable
from contextlib import suppress

from ebpf.errors import KernelError, UsageError
from ebpf.isa import asm, encode
from ebpf.kernels.remote import RemoteKernel
from ebpf.sys.calls import MapCreate, ProgLoad
from ebpf.uapi import MapType, ProgType

HASH = MapCreate(MapType.HASH, 4, 8, 64, name="counts")
RETURN_2 = bytes.fromhex("b700000002000000 9500000000000000")


def updating(fd: int, value_size: int = 8) -> ProgLoad:
    """A program whose run writes one element of a hash: key 7, its value all 0x2a."""
    stores = "\n".join(f"*(u64 *)(r10 - {16 + at}) = r1" for at in range(0, value_size, 8))
    text = f"""
        r1 = 0x2a2a2a2a2a2a2a2a ll
        {stores}
        *(u32 *)(r10 - 4) = 7
        r1 = map[id:{fd}]
        r2 = r10
        r2 += -4
        r3 = r10
        r3 += {-8 - value_size}
        r4 = 0
        call 2
        r0 = 2
        exit
    """
    return ProgLoad(ProgType.XDP, encode(asm(text)), "GPL", name="updating")


# A program whose one run goes round 2**46 times, which may_goto permits: a loop in a function that is called in a loop.
ENDLESS = ProgLoad(
    ProgType.XDP, encode(asm("may_goto +2\ncall pc+3\ngoto -3\nr0 = 2\nexit\nmay_goto +1\ngoto -2\nr0 = 0\nexit")), "GPL", name="endless"
)


def running() -> int:
    """The daemon's pid, 0 if it does not run."""
    with suppress(KernelError, UsageError), RemoteKernel(start=False) as kernel:
        return int(kernel.status()["pid"])
    return 0


def wait_for(condition: Callable[[], object], seconds: float = 10) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
