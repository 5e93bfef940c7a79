#!/usr/bin/env python3
"""The same with increment(), an atomic addition: exact on both kernels, however many processors count at once.

ebpf run examples/exec_counts_exact.py -- sh -c 'ls; ls; date'
"""

from bcc import BPF

program = r"""
BPF_HASH(counter_table);

int hello(void *ctx) {
    u64 uid = bpf_get_current_uid_gid() & 0xFFFFFFFF;
    counter_table.increment(uid);
    return 0;
}
"""

b = BPF(text=program)
b.attach_kprobe(event=b.get_syscall_fnname("execve"), fn_name="hello")
try:
    b.trace_print()
except KeyboardInterrupt:
    for uid, count in sorted(b["counter_table"].items(), key=lambda item: item[0].value):
        print(f"uid {uid.value} started {count.value} programs")
