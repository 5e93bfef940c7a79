"""Waiting for events inside asyncio: by descriptor where the kernel has real ones, else in a thread."""

import asyncio
from collections.abc import Sequence

from ebpf.sys.kernel import Kernel

_SLICE_S = 0.1


async def ready(kernel: Kernel, fds: Sequence[int]) -> None:
    """Return when one of the kernel's descriptors has something to read. A held command is let go first."""
    if kernel.wait(fds, 0):
        return
    files = kernel.descriptors(fds)
    if files is None:
        # In slices: who is cancelled does not leave a thread behind that waits for ever.
        while not await asyncio.to_thread(kernel.wait, fds, _SLICE_S):
            pass
        return
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    for file in files:
        loop.add_reader(file, arrived.set)
    try:
        await arrived.wait()
    finally:
        for file in files:
            loop.remove_reader(file)
