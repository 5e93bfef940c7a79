"""Processes that tests fork, and what may go missing while others are killed."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ebpf.errors import KernelError


def fork(work: Callable[[], object]) -> int:
    """Have a process of its own do some work; its number. It ends with status 0 when the work is done, else with 1."""
    pid = os.fork()
    if not pid:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return pid


@contextmanager
def may_be_missing() -> Iterator[None]:
    """Go on where a key, slot or path is not there."""
    try:
        yield
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise
