#!/usr/bin/env python3
"""A line for every program that is started: the first eBPF script of every tutorial.

ebpf run examples/hello.py -- make        (what does make start?)
"""

from bcc import BPF

program = r"""
int hello(void *ctx) {
    bpf_trace_printk("a program is started");
    return 0;
}
"""

b = BPF(text=program)
b.attach_kprobe(event=b.get_syscall_fnname("execve"), fn_name="hello")
b.trace_print()
