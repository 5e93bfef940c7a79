#!/usr/bin/env python3
"""How many programs does each user start? A hash map carries the counts from the program to Python.

ebpf run examples/exec_counts.py -- sh -c 'ls; ls; date'
"""

import pwd

from bcc import BPF

# The tutorial's program: look up, add one, update. Exact where events come one after another (in user space);
# on Linux two processors can read the same old value, and a count is lost: see exec_counts_exact.py.
program = r"""
BPF_HASH(counter_table);

int hello(void *ctx) {
    u64 uid;
    u64 counter = 0;
    u64 *p;

    uid = bpf_get_current_uid_gid() & 0xFFFFFFFF;
    p = counter_table.lookup(&uid);
    if (p != 0) {
        counter = *p;
    }
    counter++;
    counter_table.update(&uid, &counter);
    return 0;
}
"""

b = BPF(text=program)
b.attach_kprobe(event=b.get_syscall_fnname("execve"), fn_name="hello")
try:
    b.trace_print()
except KeyboardInterrupt:
    for uid, count in sorted(b["counter_table"].items(), key=lambda item: item[0].value):
        try:
            name = pwd.getpwuid(uid.value).pw_name
        except KeyError:
            name = "?"
        print(f"{name} ({uid.value}) started {count.value} programs")
