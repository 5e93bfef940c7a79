"""Which kernel a script's BPF objects live in, and how `bcc` means us while it runs."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any

from ebpf.sys.kernel import Kernel

_KERNEL: ContextVar[Kernel | None] = ContextVar("ebpf_bcc_kernel", default=None)
_OPEN: ContextVar[list[Any] | None] = ContextVar("ebpf_bcc_open", default=None)


@contextmanager
def session(kernel: Kernel) -> Iterator[list[Any]]:
    """BPF objects made inside live in `kernel`, and are cleaned up at the end. Yields the list of them."""
    opened: list[Any] = []
    kernel_token, open_token = _KERNEL.set(kernel), _OPEN.set(opened)
    try:
        yield opened
    finally:
        for each in reversed(opened):
            each.cleanup()
        _KERNEL.reset(kernel_token)
        _OPEN.reset(open_token)


def current_kernel() -> Kernel | None:
    """The session's kernel, None outside of one."""
    return _KERNEL.get()


def register(bpf: Any) -> bool:
    """Have the session clean an object up; False if there is no session."""
    opened = _OPEN.get()
    if opened is None:
        return False
    opened.append(bpf)
    return True


@contextmanager
def install() -> Iterator[None]:
    """Inside, `import bcc` finds us; a bcc that is installed stays as it is."""
    shim = ModuleType("bcc")
    be_bcc(vars(shim))
    from ebpf.bcc import table, utils

    saved = {name: sys.modules.get(name) for name in ("bcc", "bcc.utils", "bcc.table")}
    sys.modules.update({"bcc": shim, "bcc.utils": utils, "bcc.table": table})
    try:
        yield
    finally:
        for name, module in saved.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module


def be_bcc(names: dict[str, Any]) -> None:
    """Give a module's names what a script finds in `bcc`, and have `bcc.utils` and `bcc.table` be ours."""
    import ebpf.bcc as ours
    from ebpf.bcc import table, utils

    names["__doc__"] = ours.__doc__
    for name in ours.BCC_NAMES:
        names[name] = getattr(ours, name)
    names["__version__"] = ours.BCC_VERSION
    names["utils"], names["table"] = utils, table
    if names.get("__file__"):
        sys.modules.update({"bcc.utils": utils, "bcc.table": table})
