"""Programs on perf events: kernel functions and tracepoints."""

from contextlib import ExitStack

from ebpf.attach import prefix
from ebpf.attach.link import Link
from ebpf.errors import NotSupportedError
from ebpf.object import Program
from ebpf.sys.kernel import Kprobe, PerfSource, Tracepoint
from ebpf.uapi import ProgType


def kprobe(program: Program, function: str, *, ret: bool = False, offset: int = 0) -> Link:
    """Run a program whenever a kernel function is entered (`ret`: returns).

    Where a kernel has no kprobes, system calls' functions are reached by their tracepoints instead, with the same context.

    Raises NotFoundError for an unknown function, NotSupportedError for one that this kernel cannot reach, VerifierError.
    """
    kind = "kretprobe" if ret else "kprobe"
    source = Kprobe(function, offset, ret)
    try:
        return _on_event(program, source, kind, function)
    except NotSupportedError as refusal:
        from ebpf.attach.emulate import syscall_kprobe

        link = syscall_kprobe(program, source)
        if link is None:
            raise refusal
        return link


def tracepoint(program: Program, name: str) -> Link:
    """Run a program at a tracepoint, `category:event`."""
    category, _, event = name.partition(":")
    return _on_event(program, Tracepoint(category, event), "tracepoint", name)


def _on_event(program: Program, source: PerfSource, kind: str, target: str) -> Link:
    kernel = program.kernel
    with ExitStack() as stack:
        # The event first: an unknown one is said before the program is loaded.
        event = kernel.perf_event_open(source)
        stack.callback(kernel.close, event)
        scope = kernel.lab.scope
        if scope is None:
            fd = program.fd
        else:
            code = [prefix.mov(6, 1), *prefix.in_scope(scope), prefix.mov(1, 6)]
            fd = prefix.load_prefixed(program, code, ProgType(program.spec.type))
            stack.callback(kernel.close, fd)
        kernel.perf_set_bpf(event, fd)
        held = stack.pop_all()
    return Link(kind, target, held.close)
