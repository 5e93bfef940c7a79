"""Programs on raw tracepoints."""

from contextlib import ExitStack

from ebpf.attach import prefix
from ebpf.attach.link import Link
from ebpf.object import Program
from ebpf.sys.calls import RawTracepointOpen
from ebpf.uapi import ProgType


def raw_tracepoint(program: Program, name: str) -> Link:
    """Run a program at a raw tracepoint, with the tracepoint's own arguments. Raises KernelError ENOENT for an unknown one."""
    kernel = program.kernel
    with ExitStack() as stack:
        scope = kernel.lab.scope
        if scope is None:
            fd = program.fd
        else:
            code = [prefix.mov(6, 1), *prefix.in_scope(scope), prefix.mov(1, 6)]
            fd = prefix.load_prefixed(program, code, ProgType(program.spec.type))
            stack.callback(kernel.close, fd)
        stack.callback(kernel.close, kernel.bpf(RawTracepointOpen(name, fd)))
        held = stack.pop_all()
    return Link("raw_tracepoint", name, held.close)
