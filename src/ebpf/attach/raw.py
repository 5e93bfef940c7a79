"""Programs on raw tracepoints, and those that were loaded for what they trace: tp_btf, fentry and its like, LSM, freplace."""

import errno
from contextlib import ExitStack

from ebpf.attach.link import Attachable, Link, create, held, refused
from ebpf.errors import KernelError, NotSupportedError, PrivilegeError
from ebpf.object import Program, function_of
from ebpf.sys.calls import Call, LinkCreate, RawTracepointOpen, TracedFunction
from ebpf.uapi import AttachType, ProgType


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
        try:
            link = kernel.bpf(RawTracepointOpen(name, fd, cookie))
        except KernelError as error:
            if cookie and error.errno == errno.EINVAL:
                raise _no_cookie("raw_tracepoint", _RAW_COOKIES) from error
            raise
        stack.callback(kernel.close, link)
        undo = stack.pop_all().close
    return Link("raw_tracepoint", name, undo, kernel=kernel, fds=(link,))


_NOT_TRACING = ("the program was not loaded for something that is traced", 'its section is SEC("tp_btf/...") or SEC("fentry/...")')
#: The first Linux that has cookies for raw tracepoints.
_RAW_COOKIES = "6.10"
_TRACED = frozenset({ProgType.TRACING, ProgType.LSM})
_WHY = {
    errno.EINVAL: _NOT_TRACING,
    errno.EFAULT: _NOT_TRACING,
    errno.EBUSY: ("another program replaces the function already", "detach that one first"),
}
_WHY_REPLACED = {
    errno.EINVAL: ("the program is no extension, or the function is of other types", 'its section is SEC("freplace/...")'),
    errno.EBUSY: ("another program replaces the function already", "detach that one first"),
}


def trace(program: Attachable, *, cookie: int = 0) -> Link:
    """Attach a program to what it was loaded for (tp_btf, fentry, fexit, fmod_ret, LSM, freplace). Raises AttachError."""
    kernel = program.kernel
    target = program.spec.attach_to if isinstance(program, Program) else ""
    kind = program.spec.section.removeprefix("?").partition("/")[0] if isinstance(program, Program) else "trace"
    attach = program.spec.attach_type if isinstance(program, Program) and program.spec.type in _TRACED else None
    call: Call[int] = RawTracepointOpen("", program.fd, cookie)
    if cookie and attach is not None and attach != AttachType.TRACE_RAW_TP:
        # Links took cookies for these before raw tracepoints did.
        call = LinkCreate(program.fd, 0, attach, cookie=cookie, options=TracedFunction(0))
    try:
        return held(kernel, kind, target, kernel.bpf(call))
    except PrivilegeError:
        raise
    except KernelError as error:
        if cookie and attach is not None and error.errno == errno.EINVAL:
            raise _no_cookie(kind, _RAW_COOKIES if attach == AttachType.TRACE_RAW_TP else "5.19") from error
        raise refused(error, kind, target, _WHY) from error


def freplace(program: Attachable, into: Attachable, function: str = "") -> Link:
    """Replace a function of another program than the one that `program` was loaded for (by default the one of the same name).

    Both must have the same types, and the kernel is asked to prove anew that the replacement may stand there. Raises NotFoundError
    for a function that is not there, AttachError.
    """
    name = function or (program.spec.attach_to if isinstance(program, Program) else "")
    target = function_of(program.kernel, into.fd, into.name, name)
    call = LinkCreate(program.fd, into.fd, 0, options=TracedFunction(target.btf_id))
    return create(program.kernel, call, "freplace", f"{into.name}:{name}", _WHY_REPLACED)


def _no_cookie(kind: str, since: str) -> NotSupportedError:
    return NotSupportedError("a cookie", f"this kernel has none for {kind} (Linux {since})")
