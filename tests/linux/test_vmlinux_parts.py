"""vmlinux.h of the running kernel: the part that a program needs gives the code that the whole gives, in under 0.1 s."""

import os
from pathlib import Path

import pytest

from ebpf.compile import compile_c, vmlinux
from ebpf.elf import read_object
from ebpf.kernels import open_kernel
from ebpf.object import Collection

pytestmark = pytest.mark.linux
HEAD = """
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_endian.h>
char LICENSE[] SEC("license") = "GPL";
struct event { u32 pid; char comm[TASK_COMM_LEN]; u64 ino; };
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); } events SEC(".maps");
"""
CASES = {
    "task": """SEC("raw_tp/sched_switch") int BPF_PROG(f, bool preempt, struct task_struct *prev, struct task_struct *next)
{ struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0); if (!e) return 0; e->pid = BPF_CORE_READ(prev, real_parent, tgid);
  e->ino = BPF_CORE_READ(next, mm, exe_file, f_inode, i_ino); bpf_get_current_comm(e->comm, sizeof(e->comm));
  bpf_ringbuf_submit(e, BPF_RB_FORCE_WAKEUP); return 0; }""",
    "packet": """SEC("xdp") int f(struct xdp_md *ctx) { struct ethhdr *eth = (void *)(long)ctx->data; struct iphdr *ip = (void *)(eth + 1);
  if ((void *)(ip + 1) > (void *)(long)ctx->data_end) return XDP_ABORTED;
  return eth->h_proto == bpf_htons(ETH_P_IP) && ip->protocol == IPPROTO_TCP ? XDP_DROP : XDP_PASS; }""",
    "registers": 'SEC("kprobe/do_unlinkat") int BPF_KPROBE(f, int dfd, struct filename *name) { return PT_REGS_IP(ctx) + dfd + (name != 0); }',
    "system_call": 'SEC("ksyscall/openat") int BPF_KSYSCALL(f, int dfd, const char *path) { return dfd + (path != 0); }',
    "tracepoint": 'SEC("tp/sched/sched_switch") int f(struct trace_event_raw_sched_switch *ctx) { return ctx->next_pid; }',
    "socket": """SEC("raw_tp/tcp_destroy_sock") int BPF_PROG(f, struct sock *sk)
{ return BPF_CORE_READ(sk, __sk_common.skc_family) == AF_INET && BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum); }""",
    "iterator": """SEC("iter/task") int f(struct bpf_iter__task *ctx) { struct task_struct *t = ctx->task; if (t) BPF_SEQ_PRINTF(ctx->meta->seq, "%d\\n", t->pid);
  return 0; }""",
    "typed": """SEC("tp_btf/sched_switch") int BPF_PROG(f, bool preempt, struct task_struct *p) { return p->pid + p->real_parent->tgid; }""",
    "kfunc": """SEC("tp_btf/task_newtask") int BPF_PROG(f, struct task_struct *t, u64 flags)
{ struct task_struct *p = bpf_task_from_pid(1); if (p) bpf_task_release(p); return 0; }""",
    "bit_field": 'SEC("raw_tp/x") int BPF_PROG(f, struct sk_buff *s) { return BPF_CORE_READ_BITFIELD_PROBED(s, pkt_type) + bpf_core_type_exists(struct sk_buff); }',
}


@pytest.mark.parametrize("case", CASES)
def test_the_part_gives_the_same_code_as_the_whole_and_the_kernel_takes_it(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    part = read_object(compile_c("a.bpf.c", text=HEAD + CASES[case], flags=["-Wall", "-Werror"]).object)
    folder = vmlinux.header_folder
    monkeypatch.setattr("ebpf.compile.c.header_folder", lambda clang, text, **_: folder(clang, text, whole=True))
    extra = "#define ETH_P_IP 0x800\n#define AF_INET 2\n"
    whole = read_object(compile_c("a.bpf.c", text=extra + HEAD + CASES[case], flags=["-Wall", "-Werror"]).object)
    assert part.programs["f"].insns == whole.programs["f"].insns
    with open_kernel("linux") as kernel, Collection.load(part, kernel) as ours, Collection.load(whole, kernel) as theirs:
        assert ours.programs["f"].info().tag == theirs.programs["f"].info().tag


def test_a_program_with_the_kernels_types_takes_no_more_of_a_cpu_than_a_tenth_of_a_second(tmp_path: Path) -> None:
    path = tmp_path / "a.bpf.c"
    path.write_text(HEAD + CASES["task"])
    compile_c(path)
    spent = []
    for _ in range(7):
        begin = os.times()
        compile_c(path)
        spent.append(sum(after - before for before, after in zip(begin[:4], os.times()[:4], strict=True)))
    assert min(spent) < 0.1
