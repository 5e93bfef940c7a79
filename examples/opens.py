#!/usr/bin/env python3
"""Which files are opened? Each openat() call becomes an event in a ring buffer, with its path and the caller's name.

ebpf run examples/opens.py -- cat /etc/hostname
"""

from bcc import BPF

program = r"""
struct event {
    u32 pid;
    char comm[16];
    char path[128];
};
BPF_RINGBUF_OUTPUT(events, 64);

int syscall__openat(struct pt_regs *ctx, int dfd, const char *path, int flags) {
    struct event event = {};
    event.pid = bpf_get_current_pid_tgid() >> 32;
    bpf_get_current_comm(&event.comm, sizeof(event.comm));
    bpf_probe_read_user_str(&event.path, sizeof(event.path), path);
    events.ringbuf_output(&event, sizeof(event), 0);
    return 0;
}
"""

b = BPF(text=program)


def show(ctx, data, size):
    event = b["events"].event(data)
    print(f"{event.comm.decode()} opens {event.path.decode()}")


b.attach_kprobe(event=b.get_syscall_fnname("openat"), fn_name="syscall__openat")
b["events"].open_ring_buffer(show)
try:
    while True:
        b.ring_buffer_poll()
except KeyboardInterrupt:
    pass
