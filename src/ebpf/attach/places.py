"""Where programs are attached: interfaces, cgroups, network namespaces, by name or path."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ebpf.errors import NotFoundError, UsageError, near
from ebpf.sys.kernel import Kernel


def interface_index(kernel: Kernel, interface: str) -> int:
    """The number of a network interface. Raises NotFoundError."""
    known = kernel.interfaces()
    if interface not in known:
        raise NotFoundError("interface", interface, near=near(interface, known) or sorted(known)[:4])
    return known[interface]


@contextmanager
def opened(path: str, what: str) -> Iterator[int]:
    """A descriptor of a cgroup's folder or a namespace's file, closed afterwards. Raises NotFoundError, UsageError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFoundError(what, path) from error
    except OSError as error:
        raise UsageError(f"{what} {path}: {(error.strerror or str(error)).lower()}") from error
    try:
        yield fd
    finally:
        os.close(fd)
