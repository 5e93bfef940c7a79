"""Waiting until descriptors of the user kernel have something to read."""

import os
import select
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ebpf.kernels.user.objects import Object

if TYPE_CHECKING:
    from ebpf.kernels.user.kernel import UserKernel


def ready(kernel: "UserKernel", fds: Sequence[int]) -> list[int]:
    """Which of the descriptors have something to read; the others will write their event descriptor when they do."""
    sources = {fd: kernel.table.get(fd, Object, "poll") for fd in fds}
    for held in sources.values():
        held.arm()
    return [fd for fd, held in sources.items() if held.readable()]


def wait(kernel: "UserKernel", fds: Sequence[int], timeout_s: float | None) -> list[int]:
    """Wait until a descriptor has something to read; lets a held command go first."""
    kernel.alive("poll")
    kernel.lab.release()
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    sources = {fd: kernel.table.get(fd, Object, "poll") for fd in fds}
    while True:
        ready = [fd for fd, held in sources.items() if held.readable()]
        if ready:
            return ready
        over = kernel.lab.ended()
        if over:
            # What the command's last events wrote is there by now: look once more before saying that it is over.
            ready = [fd for fd, held in sources.items() if held.readable()]
            if ready:
                return ready
            if kernel.lab.interrupt():
                raise KeyboardInterrupt
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            return []
        _sleep(kernel, list(sources.values()), left, ended=over)


def _sleep(kernel: "UserKernel", sources: list[Object], left: float | None, *, ended: bool) -> None:
    poller = select.poll()
    for held in sources:
        if held.event_fd >= 0:
            poller.register(held.event_fd, select.POLLIN)
            held.arm()
    for fd in [] if ended else kernel.lab.descriptors():
        poller.register(fd, select.POLLIN)
    if any(held.readable() for held in sources):
        return
    events = poller.poll(None if left is None else max(left * 1000, 1))
    for fd, _ in events:
        if any(held.event_fd == fd for held in sources):
            try:
                os.read(fd, 8)
            except BlockingIOError:
                continue
