// Programs that are refused, one for each kind of mistake: the line with `// E0006` is the one that is refused, by that reason.
// With FIXED each is mended as its explanation says, and accepted.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ptrace.h>
#include <linux/tcp.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>

#define barrier(x) asm volatile("" : "+r"(x))
#ifdef FIXED
#define WRONG(code)
#define RIGHT(code) code
#else
#define WRONG(code) code
#define RIGHT(code)
#endif

struct value {
	__u32 index;
	__s32 length;
	__u64 count;
	char bytes[64];
};
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, struct value);
} values SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");
struct locked {
	struct bpf_spin_lock lock;
	__u64 time;
};
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, struct locked);
} locks SEC(".maps");
const volatile int limit = 7;

#define PACKET(ctx) \
	void *data = (void *)(long)(ctx)->data, *data_end = (void *)(long)(ctx)->data_end
#define VALUE(v, out) \
	__u32 key = bpf_get_prandom_u32(); \
	struct value *v = bpf_map_lookup_elem(&values, &key); \
	if (!v) \
		return out

SEC("xdp")
int packet_unproved(struct xdp_md *ctx)
{
	PACKET(ctx);
	struct ethhdr *eth = data;
	RIGHT(if ((void *)(eth + 1) > data_end) return XDP_PASS;)
	return eth->h_proto == 8; // E0001
}

SEC("xdp")
int packet_short(struct xdp_md *ctx)
{
	PACKET(ctx);
	struct ethhdr *eth = data;
	if ((void *)(eth + 1) > data_end)
		return XDP_PASS;
	struct iphdr *ip = (void *)(eth + 1);
	RIGHT(if ((void *)(ip + 1) > data_end) return XDP_PASS;)
	return ip->protocol == 6; // E0002
}

SEC("xdp")
int packet_moved(struct xdp_md *ctx)
{
	PACKET(ctx);
	struct iphdr *ip = data;
	if ((void *)(ip + 1) > data_end)
		return XDP_PASS;
	struct tcphdr *tcp = (void *)ip + ip->ihl * 4;
	RIGHT(if ((void *)(tcp + 1) > data_end) return XDP_PASS;)
	return tcp->dest == 80; // E0003
}

SEC("xdp")
int packet_void(struct xdp_md *ctx)
{
	PACKET(ctx);
	struct ethhdr *eth = data;
	if ((void *)(eth + 1) > data_end)
		return XDP_PASS;
	bpf_xdp_adjust_head(ctx, -14);
	RIGHT(eth = (void *)(long)ctx->data;)
	RIGHT(if ((void *)(eth + 1) > (void *)(long)ctx->data_end) return XDP_PASS;)
	return eth->h_proto == 8; // E0004
}

SEC("kprobe/x")
int number_as_pointer(struct pt_regs *ctx)
{
	__u64 *p = (void *)ctx->rdi;
	__u64 x;
	RIGHT(if (bpf_probe_read_kernel(&x, sizeof(x), p)) return 0;)
	WRONG(x = *p;) // E0005
	return x == 1;
}

SEC("xdp")
int maybe_null(struct xdp_md *ctx)
{
	__u32 key = ctx->rx_queue_index;
	struct value *v = bpf_map_lookup_elem(&values, &key);
	RIGHT(if (!v) return XDP_PASS;)
	v->count += 1; // E0006
	return XDP_PASS;
}

SEC("xdp")
int moved_maybe_null(struct xdp_md *ctx)
{
	__u32 key = ctx->rx_queue_index;
	struct value *v = bpf_map_lookup_elem(&values, &key);
	RIGHT(if (!v) return XDP_PASS;)
	char *p = v->bytes; // E0007
	barrier(p);
	WRONG(if (!v) return XDP_PASS;)
	return *p;
}

SEC("xdp")
int off_by_one(struct xdp_md *ctx)
{
	VALUE(v, XDP_PASS);
	__u64 i = v->index;
	if (i > RIGHT(63) WRONG(64))
		return XDP_PASS;
	return v->bytes[i] == 1; // E0008
}

SEC("xdp")
int unbounded_index(struct xdp_md *ctx)
{
	VALUE(v, XDP_PASS);
	__s64 i = v->count;
	if (i > 63)
		return XDP_PASS;
	RIGHT(if (i < 0) return XDP_PASS;)
	return v->bytes[i] == 1; // E0009
}

SEC("kprobe/x")
int negative_size(struct pt_regs *ctx)
{
	VALUE(v, 0);
	char buf[64];
	__s64 n = v->count;
	if (n > 64)
		n = 64;
	RIGHT(if (n < 0) return 0;)
	bpf_probe_read_kernel(buf, n, (void *)ctx->rdi); // E0010
	return buf[0];
}

SEC("kprobe/x")
int unbounded_size(struct pt_regs *ctx)
{
	VALUE(v, 0);
	char buf[64];
	__u64 n = v->index;
	RIGHT(if (n > sizeof(buf)) n = sizeof(buf);)
	bpf_probe_read_kernel(buf, n, (void *)ctx->rdi); // E0011
	return buf[0];
}

SEC("kprobe/x")
int zero_size(struct pt_regs *ctx)
{
	VALUE(v, 0);
	char buf[64];
	__u64 n = v->index & 63;
	RIGHT(if (!n) return 0;)
	bpf_get_current_comm(buf, n); // E0012
	return buf[0];
}

SEC("xdp")
int uninitialised(struct xdp_md *ctx)
{
	__u64 x;
	RIGHT(x = 0;)
	WRONG(asm volatile("%0 = r8" : "=r"(x));) // E0013
	return x == 7;
}

SEC("xdp")
int stack_bounds(struct xdp_md *ctx)
{
	VALUE(v, XDP_PASS);
	char buf[16] = {};
	__u64 i = v->index & RIGHT(15) WRONG(1023);
	barrier(i);
	RIGHT(i &= 15;)
	buf[i] = 1; // E0015
	barrier(i);
	return buf[0];
}

SEC("xdp")
int leaked(struct xdp_md *ctx)
{
	__u64 *e = bpf_ringbuf_reserve(&ring, 8, 0);
	if (!e)
		return XDP_PASS;
	*e = 1;
	if (ctx->rx_queue_index == 7) {
		RIGHT(bpf_ringbuf_discard(e, 0);)
		return XDP_DROP;
	}
	bpf_ringbuf_submit(e, 0);
	return XDP_PASS;
} // E0016

SEC("xdp")
int endless(struct xdp_md *ctx)
{
	__u64 i = 0, n = ctx->rx_queue_index;
	barrier(i);
	WRONG(while (i != 1) asm volatile("" ::: "memory");) // E0018
	RIGHT(for (i = 0; i < 4 && i != n; i++) barrier(n);)
	return XDP_PASS;
}

static __attribute__((noinline)) int inner(struct xdp_md *ctx) // E0020
{
	char buf[RIGHT(64) WRONG(400)] = {};
	bpf_probe_read_kernel(buf, sizeof(buf), ctx);
	return buf[3];
}

SEC("xdp")
int deep(struct xdp_md *ctx)
{
	char buf[200] = {};
	bpf_probe_read_kernel(buf, sizeof(buf), ctx);
	return buf[4] + inner(ctx);
}

SEC("tracepoint/x/y")
int helper_not_allowed(void *ctx)
{
	WRONG(bpf_redirect(1, 0);) // E0021
	return 0;
}

SEC("xdp")
int context_access(struct xdp_md *ctx)
{
	WRONG(return *(volatile __u16 *)&ctx->ingress_ifindex == 3;) // E0022
	return ctx->ingress_ifindex == 3;
}

SEC("cgroup_skb/ingress")
int return_value(struct __sk_buff *ctx)
{
	__u64 r = ctx->len;
	RIGHT(r = !!r;)
	barrier(r);
	RIGHT(r &= 1;)
	return r; // E0023
}

__attribute__((noinline)) int sum(struct value *v)
{
	RIGHT(if (!v) return 0;)
	return v->index + v->length; // E0006 global_null
}

SEC("xdp")
int global_null(struct xdp_md *ctx)
{
	VALUE(v, XDP_PASS);
	return sum(v) == 3;
}

SEC("tc")
int locked_call(struct __sk_buff *ctx)
{
	__u32 key = ctx->mark;
	struct locked *v = bpf_map_lookup_elem(&locks, &key);
	if (!v)
		return 0;
	__u64 now = bpf_ktime_get_ns();
	bpf_spin_lock(&v->lock);
	WRONG(now = bpf_ktime_get_ns();) // E0025
	v->time = now;
	bpf_spin_unlock(&v->lock);
	return 0;
}

SEC("kprobe/x")
int missing(struct pt_regs *ctx)
{
	WRONG(__u32 key = 1;)
	WRONG(struct locked *v = bpf_map_lookup_elem(&locks, &key);) // E0026
	WRONG(return v != 0;)
	return 0;
}

SEC("xdp")
int misaligned(struct xdp_md *ctx)
{
	char buf[32] = {};
	char *p = buf;
	barrier(p);
	WRONG(*(volatile __u32 *)(p + 2) = 1;) // E0028
	RIGHT(*(volatile __u32 *)(p + 4) = 1;)
	return buf[6];
}

SEC("xdp")
int pointer_arithmetic(struct xdp_md *ctx)
{
	VALUE(v, XDP_PASS);
	__u64 p = (__u64)v;
	WRONG(p &= ~7ULL;) // E0029
	barrier(p);
	return *(char *)p;
}

SEC("xdp")
int argument_type(struct xdp_md *ctx)
{
	__u32 key = 1;
	void *m = RIGHT(&values) WRONG(&key);
	barrier(m);
	return bpf_map_lookup_elem(m, &key) != 0; // E0030
}

SEC("xdp")
int read_only(struct xdp_md *ctx)
{
	int *p = (int *)&limit;
	barrier(p);
	WRONG(*p = 3;) // E0031
	return *p == 7;
}

SEC("xdp")
int reference_misuse(struct xdp_md *ctx)
{
	char *e = bpf_ringbuf_reserve(&ring, 8, 0);
	if (!e)
		return XDP_PASS;
	WRONG(e += 4;)
	barrier(e);
	bpf_ringbuf_submit(e, 0); // E0035
	return XDP_PASS;
}

SEC("tc")
int lock_misuse(struct __sk_buff *ctx)
{
	__u32 key = ctx->mark;
	struct locked *v = bpf_map_lookup_elem(&locks, &key);
	if (!v)
		return 0;
	RIGHT(bpf_spin_lock(&v->lock);)
	bpf_spin_unlock(&v->lock); // E0036
	return 0;
}

SEC("xdp")
int map_type(struct xdp_md *ctx)
{
	WRONG(bpf_ringbuf_query(&values, 0);) // E0038
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
