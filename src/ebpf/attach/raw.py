"""Programs on raw tracepoints, and those that were loaded for what they trace: tp_btf, fentry and its like, LSM, freplace."""

import errno
from contextlib import ExitStack

from ebpf.attach.link import Attachable, Link, held, refused
from ebpf.errors import KernelError, PrivilegeError
from ebpf.object import Program
from ebpf.sys.calls import RawTracepointOpen
from ebpf.uapi import ProgType


def raw_tracepoint(program: Attachable, name: str, *, cookie: int = 0) -> Link:
    """Run a program at a raw tracepoint, with the tracepoint's own arguments. Raises KernelError ENOENT for an unknown one."""
    kernel = program.kernel
    with ExitStack() as stack:
        scope = kernel.lab.scope
        if scope is None or not isinstance(program, Program):
            fd = program.fd
        else:
            from ebpf.attach import prefix

            code = [prefix.mov(6, 1), *prefix.in_scope(scope), prefix.mov(1, 6)]
            fd = prefix.load_prefixed(program, code, ProgType(program.spec.type))
            stack.callback(kernel.close, fd)
        link = kernel.bpf(RawTracepointOpen(name, fd, cookie))
        stack.callback(kernel.close, link)
        undo = stack.pop_all().close
    return Link("raw_tracepoint", name, undo, kernel=kernel, fds=(link,))


_NOT_TRACING = ("the program was not loaded for something that is traced", 'its section is SEC("tp_btf/...") or SEC("fentry/...")')
_WHY = {
    errno.EINVAL: _NOT_TRACING,
    errno.EFAULT: _NOT_TRACING,
    errno.EBUSY: ("another program replaces the function already", "detach that one first"),
}


def trace(program: Attachable, *, cookie: int = 0) -> Link:
    """Attach a program to what it was loaded for (tp_btf, fentry, fexit, fmod_ret, LSM, freplace). Raises AttachError."""
    kernel = program.kernel
    target = program.spec.attach_to if isinstance(program, Program) else ""
    kind = program.spec.section.removeprefix("?").partition("/")[0] if isinstance(program, Program) else "trace"
    try:
        return held(kernel, kind, target, kernel.bpf(RawTracepointOpen("", program.fd, cookie)))
    except PrivilegeError:
        raise
    except KernelError as error:
        raise refused(error, kind, target, _WHY) from error
