"""Programs on raw tracepoints."""

from ebpf.attach.link import Link
from ebpf.object import Program
from ebpf.sys.calls import RawTracepointOpen


def raw_tracepoint(program: Program, name: str) -> Link:
    """Run a program at a raw tracepoint, with the tracepoint's own arguments."""
    kernel = program.kernel
    fd = kernel.bpf(RawTracepointOpen(name, program.fd))
    return Link("raw_tracepoint", name, lambda: kernel.close(fd))
