/* What test_compile_headers.py compiles: a beginning that all share, then a program a macro family, each under its name. */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
struct inner { int n; struct inner *next; char name[16]; unsigned bits:3, more:7; signed sb:5; };
struct task_struct { int pid; struct task_struct *parent; struct inner *in; const char *comm; } __attribute__((preserve_access_index));
enum e { A = 1, B = 7 };

//// kprobe
SEC("kprobe/x") int BPF_KPROBE(f, int a, void *p, long c, long d, int e) { return a + (long)p + c + d + e; }

//// kprobe0
SEC("kprobe/x") int BPF_KPROBE(f) { return PT_REGS_PARM1(ctx); }

//// kret
SEC("kretprobe/x") int BPF_KRETPROBE(f, int r) { return r + PT_REGS_IP(ctx); }

//// kret0
SEC("kretprobe/x") int BPF_KRETPROBE(f) { return PT_REGS_RC(ctx) + PT_REGS_SP(ctx) + PT_REGS_FP(ctx); }

//// prog
SEC("raw_tp/x") int BPF_PROG(f, int a, struct task_struct *t, long c) { return a + c + t->pid; }

//// prog0
SEC("raw_tp/x") int BPF_PROG(f) { return ctx[0]; }

//// prog2
struct s { long a, b; };
SEC("raw_tp/x") int BPF_PROG2(f, struct s, s, int, i, char, c, void *, p) { return s.a + s.b + i + c
    + (long)p; }

//// prog20
SEC("raw_tp/x") int BPF_PROG2(f) { return ctx[3]; }

//// core
SEC("kprobe/x") int f(struct pt_regs *ctx) { struct task_struct *t = (void *)bpf_get_current_task();
    return BPF_CORE_READ(t, pid) + BPF_CORE_READ(t, parent, pid)
    + BPF_CORE_READ(t, parent, parent, parent, in, n); }

//// core_qualified
struct task_struct___o { volatile long state; struct inner *volatile in; const int c; } __attribute__((preserve_access_index));
SEC("raw_tp/x") int f(struct task_struct___o **ctx) { const int *const c = (void *)ctx[1];
    return BPF_CORE_READ(ctx[0], state) + BPF_CORE_READ(ctx[0], in, n) + BPF_CORE_READ(ctx[0], c) + *c; }

//// core_str
SEC("kprobe/x") int f(struct pt_regs *ctx) { struct task_struct *t = (void *)bpf_get_current_task();
    char b[16]; int n; BPF_CORE_READ_STR_INTO(&b, t, parent, comm); BPF_CORE_READ_INTO(&n, t, in, next, n);
    bpf_printk("%s %d", b, n); return bpf_core_read(&n, 4, &t->pid); }

//// user
SEC("kprobe/x") int f(struct pt_regs *ctx) { struct inner *t = (void *)PT_REGS_PARM1(ctx); char b[16];
    BPF_PROBE_READ_USER_STR_INTO(&b, t, next, name); return b[0] + BPF_PROBE_READ_USER(t, next, n)
    + BPF_CORE_READ_USER(t, next, n); }

//// probe_read
SEC("kprobe/x") int f(struct pt_regs *ctx) { struct inner *t = (void *)PT_REGS_PARM1(ctx); char b[16];
    BPF_PROBE_READ_STR_INTO(&b, t, next, name); return b[0] + BPF_PROBE_READ(t, next, next, n); }

//// bits
SEC("kprobe/x") int f(struct pt_regs *ctx) { struct inner *t = (void *)PT_REGS_PARM1(ctx);
    return BPF_CORE_READ_BITFIELD_PROBED(t, bits) + BPF_CORE_READ_BITFIELD_PROBED(t, sb); }

//// bits2
SEC("raw_tp/x") int BPF_PROG(f, struct inner *t) { return BPF_CORE_READ_BITFIELD(t, more); }

//// bits_written
SEC("raw_tp/x") int BPF_PROG(f, struct inner *t) { BPF_CORE_WRITE_BITFIELD(t, more, 5); BPF_CORE_WRITE_BITFIELD(t, sb, -3); return 0; }

//// usdt
#include <stdbool.h>
#include <bpf/usdt.bpf.h>
SEC("usdt") int BPF_USDT(f, int a, void *p, long c) { long v; bpf_usdt_arg(ctx, 11, &v);
    return a + (long)p + c + v + bpf_usdt_arg_cnt(ctx) + bpf_usdt_cookie(ctx); }

//// exists
SEC("kprobe/x") int f(void *ctx) { struct task_struct *t = 0; return bpf_core_field_exists(t->pid)
    + bpf_core_field_exists(struct task_struct, comm) + bpf_core_field_size(t->comm)
    + bpf_core_field_offset(struct task_struct, in) + bpf_core_type_exists(struct inner)
    + bpf_core_type_size(struct inner) + bpf_core_type_id_local(struct inner)
    + bpf_core_type_id_kernel(struct inner) + bpf_core_enum_value(enum e, B)
    + bpf_core_enum_value_exists(enum e, A) + bpf_core_type_matches(struct inner); }

//// printk
SEC("kprobe/x") int f(void *ctx) { bpf_printk("a"); bpf_printk("a %d", 1); bpf_printk("%d %d %d", 1, 2, 3);
    bpf_printk("%d %d %d %s", 1, 2, 3, "x"); return 0; }

//// map
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 10); __type(key, __u32); __type(value, __u64);
    __uint(pinning, LIBBPF_PIN_BY_NAME); } m SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u64); } n SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS); __uint(max_entries, 1); __uint(key_size, 4);
    __array(values, typeof(n)); } o SEC(".maps") = {.values = {&n}};
SEC("xdp") int f(struct xdp_md *ctx) { __u32 k = 1; __u64 *v = bpf_map_lookup_elem(&m, &k);
    if (v) __sync_fetch_and_add(v, 1); return XDP_PASS; }
char _license[] SEC("license") = "GPL";

//// endian
SEC("xdp") int f(struct xdp_md *ctx) { void *d = (void *)(long)ctx->data, *e = (void *)(long)ctx->data_end;
    struct ethhdr *h = d; if (d + sizeof(*h) + sizeof(struct iphdr) > e) return XDP_DROP;
    struct iphdr *i = (void *)(h + 1);
    return h->h_proto == bpf_htons(ETH_P_IP) && bpf_ntohl(i->saddr) == 5 && bpf_be64_to_cpu(*(__u64 *)d) != bpf_cpu_to_be64(77) ? XDP_DROP : XDP_PASS;
    }

//// tail
struct { __uint(type, BPF_MAP_TYPE_PROG_ARRAY); __uint(max_entries, 2); __uint(key_size, 4);
    __uint(value_size, 4); } jt SEC(".maps");
SEC("xdp") int f(struct xdp_md *ctx) { bpf_tail_call_static(ctx, &jt, 1); bpf_tail_call(ctx, &jt, 0);
    return 0; }

//// snprintf
SEC("kprobe/x") int f(void *ctx) { char b[32]; BPF_SNPRINTF(b, sizeof(b), "%d %s", 1, "x"); return b[0]; }

//// seq
struct it { struct seq_file *seq; };
SEC("iter/x") int f(struct it *ctx) { BPF_SEQ_PRINTF(ctx->seq, "%d %d", 1, 2); BPF_SEQ_PRINTF(ctx->seq, "x");
    return 0; }

//// weak
extern int LINUX_KERNEL_VERSION __kconfig; extern const void sym __ksym __weak;
    __hidden __noinline int g(int x) { barrier_var(x); barrier(); return x; }
SEC("kprobe/x") int f(void *ctx) { return g(LINUX_KERNEL_VERSION >= KERNEL_VERSION(5, 1, 300)) + !!&sym; }

//// xdp
SEC("xdp") int f(struct xdp_md *ctx) { return bpf_xdp_adjust_head(ctx, 4); }

//// tc
SEC("tc") int f(struct __sk_buff *skb) { __u32 v = 1; bpf_skb_store_bytes(skb, 0, &v, 4, 0);
    return bpf_get_socket_cookie(skb); }

//// loops
SEC("xdp") int f(struct xdp_md *ctx) { int i, sum = 0, *p;
    bpf_for(i, 0, 10) { int j; bpf_for(j, i, 10) sum += j; }
    bpf_repeat(3) sum++;
    bpf_for_each(num, p, 0, 4) sum += *p;
    return sum; }

//// ksyscall
SEC("ksyscall/openat") int BPF_KSYSCALL(f, int dfd, const char *path, int flags, int mode) {
    bpf_printk("%d %s", dfd, path); return flags + mode; }

//// syscall_regs
SEC("kprobe/x") int f(struct pt_regs *ctx) { struct pt_regs *regs = PT_REGS_SYSCALL_REGS(ctx);
    return PT_REGS_PARM1_CORE_SYSCALL(regs) + PT_REGS_PARM4_CORE_SYSCALL(regs) + PT_REGS_PARM5_CORE(regs); }

//// uprobe
SEC("uprobe") int BPF_UPROBE(f, int a, char *b) { return a + *b; }
SEC("uretprobe") int BPF_URETPROBE(g, long r) { return r; }

//// kfuncs
extern int later(void) __ksym __weak;
SEC("raw_tp/x") int BPF_PROG(f, void *p) { return bpf_core_cast(p, struct task_struct)->pid
    + (bpf_ksym_exists(later) ? later() : 0); }

//// pairs12
struct s2 { long a, b; };
SEC("raw_tp/x") int BPF_PROG2(f, char, a, short, b, int, c, long, d, struct s2, e, void *, g, int, h, int, i, int, j, int, k, int, l, int, m) {
    return a + b + c + d + e.a + e.b + (long)g + h + i + j + k + l + m; }

//// printk12
SEC("kprobe/x") int f(void *ctx) { bpf_printk("%d %d %d %d %d %d %d %d %d %d %d %d", 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12); return 0; }

//// place
SEC("raw_tp/x") int f(struct inner **ctx) { struct task_struct *t = container_of(ctx, struct task_struct, in);
    return offsetof(struct task_struct, parent) + offsetof(struct inner, name) + bpf_core_read(&t, 8, t); }

//// arrows10
struct step { struct step *n; int v; };
SEC("raw_tp/x") int f(struct step **ctx) { return BPF_CORE_READ(ctx[0], n, n, n, n, n, n, n, n, v); }

//// likely
SEC("raw_tp/x") int f(long *ctx) { return likely(ctx[0]) ? 1 : unlikely(ctx[1]) ? 2 : 3; }

//// stream
extern int bpf_stream_vprintk(int stream_id, const char *fmt__str, const void *args, __u32 len__sz) __weak __ksym;
SEC("raw_tp/x") int f(long *ctx) { return bpf_stream_printk(1, "%ld %d", ctx[0], 2); }

//// usdt_size
#include <stdbool.h>
#include <bpf/usdt.bpf.h>
SEC("usdt") int f(struct pt_regs *ctx) { return bpf_usdt_arg_size(ctx, 1); }
