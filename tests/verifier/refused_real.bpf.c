// More programs that are refused, as they come up in practice; see refused.bpf.c for how they are marked.
// With FIXED each is mended, and accepted.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/ptrace.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define barrier(x) asm volatile("" : "+r"(x))
#ifdef FIXED
#define WRONG(code)
#define RIGHT(code) code
#else
#define WRONG(code) code
#define RIGHT(code)
#endif

struct event {
	__u32 pid;
	__s32 length;
	__u64 time;
	char comm[16];
	char path[64];
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct event);
} events SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u64);
	__type(value, struct event);
} seen SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
} ports SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
} next SEC(".maps");
struct counter {
	struct bpf_spin_lock lock;
	__u64 packets;
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, struct counter);
} counters SEC(".maps");
__u64 histogram[16];
const volatile __u32 wanted = 7;

#define PACKET(ctx) \
	void *data = (void *)(long)(ctx)->data, *data_end = (void *)(long)(ctx)->data_end

SEC("xdp")
int swaps_addresses(struct xdp_md *ctx)
{
	PACKET(ctx);
	struct ethhdr *eth = data;
	RIGHT(if ((void *)(eth + 1) > data_end) return XDP_PASS;)
	eth->h_dest[0] = 2; // E0001
	return XDP_TX;
}

SEC("xdp")
int compares_the_wrong_way(struct xdp_md *ctx)
{
	PACKET(ctx);
	struct ethhdr *eth = data;
	WRONG(if ((void *)(eth + 1) < data_end) return XDP_PASS;)
	RIGHT(if ((void *)(eth + 1) > data_end) return XDP_PASS;)
	return eth->h_proto == 8 ? XDP_DROP : XDP_PASS; // E0001
}

SEC("tc")
int reads_udp_after_ip(struct __sk_buff *skb)
{
	PACKET(skb);
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	struct udphdr *udp = (void *)(ip + 1);
	if ((void *)(ip + 1) > data_end)
		return TC_ACT_OK;
	RIGHT(if ((void *)(udp + 1) > data_end) return TC_ACT_OK;)
	return udp->dest == bpf_htons(53) ? TC_ACT_SHOT : TC_ACT_OK; // E0002
}

SEC("xdp")
int compares_the_beginning(struct xdp_md *ctx)
{
	PACKET(ctx);
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	WRONG(if ((void *)ip > data_end) return XDP_PASS;)
	RIGHT(if ((void *)(ip + 1) > data_end) return XDP_PASS;)
	return ip->ttl > 3; // E0002
}

SEC("xdp")
int payload_behind_options(struct xdp_md *ctx)
{
	PACKET(ctx);
	struct tcphdr *tcp = data;
	if ((void *)(tcp + 1) > data_end)
		return XDP_PASS;
	char *payload = (void *)tcp + tcp->doff * 4;
	RIGHT(if ((void *)(payload + 1) > data_end) return XDP_PASS;)
	return payload[0] == 'G'; // E0003
}

SEC("tc")
int pulls_and_reads(struct __sk_buff *skb)
{
	PACKET(skb);
	struct ethhdr *eth = data;
	if ((void *)(eth + 1) > data_end)
		return TC_ACT_OK;
	bpf_skb_pull_data(skb, 64);
	RIGHT(eth = (void *)(long)skb->data;)
	RIGHT(if ((void *)(eth + 1) > (void *)(long)skb->data_end) return TC_ACT_OK;)
	return eth->h_proto == 8 ? TC_ACT_SHOT : TC_ACT_OK; // E0004
}

SEC("tc")
int stores_and_reads(struct __sk_buff *skb)
{
	PACKET(skb);
	struct ethhdr *eth = data;
	__u8 two = 2;
	if ((void *)(eth + 1) > data_end)
		return TC_ACT_OK;
	bpf_skb_store_bytes(skb, 0, &two, 1, 0);
	RIGHT(eth = (void *)(long)skb->data;)
	RIGHT(if ((void *)(eth + 1) > (void *)(long)skb->data_end) return TC_ACT_OK;)
	return eth->h_proto == 8 ? TC_ACT_SHOT : TC_ACT_OK; // E0004
}

SEC("kprobe/x")
int follows_a_list(struct pt_regs *ctx)
{
	__u64 *node = (void *)ctx->rdi;
	__u64 next_;
	RIGHT(if (bpf_probe_read_kernel(&next_, sizeof(next_), node)) return 0;)
	WRONG(next_ = *node;) // E0005
	return next_ != 0;
}

SEC("xdp")
int second_lookup(struct xdp_md *ctx)
{
	__u64 key = ctx->rx_queue_index, other = key + 1;
	struct event *a = bpf_map_lookup_elem(&seen, &key);
	if (!a)
		return XDP_PASS;
	struct event *b = bpf_map_lookup_elem(&seen, &other);
	RIGHT(if (!b) return XDP_PASS;)
	a->time = b->time; // E0006
	return XDP_PASS;
}

SEC("kprobe/x")
int record_untested(struct pt_regs *ctx)
{
	struct event *e = bpf_ringbuf_reserve(&ring, sizeof(*e), 0);
	RIGHT(if (!e) return 0;)
	e->pid = bpf_get_current_pid_tgid() >> 32; // E0006
	bpf_ringbuf_submit(e, 0);
	return 0;
}

SEC("tc")
int socket_untested(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	RIGHT(if (!sk) return TC_ACT_OK;)
	return sk->family == 2 ? TC_ACT_SHOT : TC_ACT_OK; // E0006
}

SEC("xdp")
int element_of_maybe_null(struct xdp_md *ctx)
{
	__u64 key = ctx->rx_queue_index;
	struct event *e = bpf_map_lookup_elem(&seen, &key);
	RIGHT(if (!e) return XDP_PASS;)
	char *path = e->path + (key & 15); // E0007
	barrier(path);
	WRONG(if (!e) return XDP_PASS;)
	return *path;
}

SEC("xdp")
int bucket_too_far(struct xdp_md *ctx)
{
	__u32 bucket = ctx->rx_queue_index;
	WRONG(if (bucket > 16) return XDP_PASS;)
	RIGHT(if (bucket >= 16) return XDP_PASS;)
	barrier(bucket);
	RIGHT(if (bucket >= 16) return XDP_PASS;)
	histogram[bucket] += 1; // E0008
	return XDP_PASS;
}

SEC("kprobe/x")
int letter_of_a_name(struct pt_regs *ctx)
{
	__u32 key = 0;
	struct event *e = bpf_map_lookup_elem(&events, &key);
	if (!e)
		return 0;
	__u8 i = ctx->rsi;
	RIGHT(if (i >= sizeof(e->comm)) return 0;)
	e->comm[i] = 0; // E0008
	return 0;
}

SEC("kprobe/x")
int signed_index(struct pt_regs *ctx)
{
	__u64 key = bpf_get_current_pid_tgid();
	struct event *e = bpf_map_lookup_elem(&seen, &key);
	if (!e)
		return 0;
	long i = e->length;
	WRONG(if (i > 63) return 0;)
	RIGHT(if (i < 0 || i > 63) return 0;)
	return e->path[i]; // E0009
}

SEC("kprobe/x")
int any_index(struct pt_regs *ctx)
{
	__u64 key = bpf_get_current_pid_tgid();
	struct event *e = bpf_map_lookup_elem(&seen, &key);
	if (!e)
		return 0;
	__u64 i = ctx->rsi;
	RIGHT(if (i >= sizeof(e->path)) return 0;)
	return e->path[i]; // E0009
}

SEC("kprobe/x")
int signed_length(struct pt_regs *ctx)
{
	char buf[64];
	long n = ctx->rdx;
	WRONG(if (n > 64) return 0;)
	RIGHT(if (n < 0 || n > 64) return 0;)
	bpf_probe_read_user(buf, n, (void *)ctx->rsi); // E0010
	return buf[0];
}

SEC("kprobe/x")
int any_length(struct pt_regs *ctx)
{
	char buf[64];
	__u32 n = *(__u32 *)&ctx->rdx;
	RIGHT(if (n > sizeof(buf)) return 0;)
	bpf_probe_read_user(buf, n, (void *)ctx->rsi); // E0011
	return buf[0];
}

SEC("tc")
int loads_nothing(struct __sk_buff *skb)
{
	char buf[64];
	__u32 n = skb->len;
	if (n > sizeof(buf))
		n = sizeof(buf);
	barrier(n);
	RIGHT(if (!n) return TC_ACT_OK;)
	if (n > sizeof(buf))
		return TC_ACT_OK;
	bpf_skb_load_bytes(skb, 0, buf, n); // E0012
	return TC_ACT_OK;
}

SEC("kprobe/x")
int result_of_a_branch(struct pt_regs *ctx)
{
	__u64 x;
	WRONG(asm volatile("if %1 == 0 goto +1; r7 = 1; %0 = r7" : "=r"(x) : "r"(ctx->rdi) : "r7");) // E0013
	RIGHT(x = ctx->rdi != 0;)
	return x;
}

SEC("kprobe/x")
int index_into_an_array(struct pt_regs *ctx)
{
	char names[16] = {};
	__u32 i = ctx->rsi;
	WRONG(if (i > 31) return 0;)
	RIGHT(if (i > 15) return 0;)
	barrier(i);
	RIGHT(if (i > 15) return 0;)
	names[i] = 1; // E0015
	barrier(names[3]);
	return names[3];
}

SEC("tc")
int socket_kept(struct __sk_buff *skb)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk = bpf_sk_lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return TC_ACT_OK;
	int state = sk->state;
	RIGHT(bpf_sk_release(sk);)
	return state == 10 ? TC_ACT_SHOT : TC_ACT_OK;
} // E0016

SEC("kprobe/x")
int record_kept_on_error(struct pt_regs *ctx)
{
	struct event *e = bpf_ringbuf_reserve(&ring, sizeof(*e), 0);
	if (!e)
		return 0;
	if (bpf_get_current_comm(e->comm, sizeof(e->comm))) {
		RIGHT(bpf_ringbuf_discard(e, 0);)
		return 0;
	}
	bpf_ringbuf_submit(e, 0);
	return 0;
} // E0016

SEC("xdp")
int waits_for_a_flag(struct xdp_md *ctx)
{
	__u32 i = 0;
	WRONG(while (i < 10) asm volatile("" : "+r"(i));) // E0018
	RIGHT(while (i < 10) i++;)
	return i == 10;
}

SEC("xdp")
int too_many_ways(struct xdp_md *ctx)
{
	__u64 odd = 0;
	WRONG(for (int i = 0; i < 20000; i++))
	RIGHT(for (int i = 0; i < 200; i++))
		if (bpf_get_prandom_u32() & 1) { // E0019
			odd += i;
			barrier(odd);
		}
	return odd & 1;
}

static __attribute__((noinline)) int jumps(struct __sk_buff *skb) // E0020
{
	char buf[64];
	bpf_skb_load_bytes(skb, 0, buf, sizeof(buf));
	bpf_tail_call(skb, &next, 1);
	return buf[0];
}

SEC("tc")
int tail_call_from_deep(struct __sk_buff *skb)
{
	char buf[WRONG(300) RIGHT(100)];
	bpf_skb_load_bytes(skb, 0, buf, sizeof(buf));
	barrier(buf[1]);
	return jumps(skb) + buf[1];
}

SEC("xdp")
int loads_as_a_filter(struct xdp_md *ctx)
{
	char buf[4] = {};
	WRONG(bpf_skb_load_bytes(ctx, 0, buf, sizeof(buf));) // E0021
	RIGHT(bpf_xdp_load_bytes(ctx, 0, buf, sizeof(buf));)
	return buf[0];
}

SEC("xdp")
int writes_its_queue(struct xdp_md *ctx)
{
	WRONG(ctx->rx_queue_index = 0;) // E0022
	return XDP_PASS;
}

SEC("tc")
int field_of_others(struct __sk_buff *skb)
{
	WRONG(return skb->local_port == 80;) // E0022
	return TC_ACT_OK;
}

SEC("cgroup/connect4")
int permits_oddly(struct bpf_sock_addr *ctx)
{
	int verdict = ctx->user_port == bpf_htons(80) ? 2 : 1;
	RIGHT(verdict = 1;)
	return verdict; // E0023
}

SEC("tc")
int prints_under_a_lock(struct __sk_buff *skb)
{
	__u32 key = 0;
	struct counter *c = bpf_map_lookup_elem(&counters, &key);
	if (!c)
		return TC_ACT_OK;
	bpf_spin_lock(&c->lock);
	WRONG(c->packets += bpf_get_prandom_u32();) // E0025
	bpf_spin_unlock(&c->lock);
	return TC_ACT_OK;
}

SEC("xdp")
int shifts_a_pointer(struct xdp_md *ctx)
{
	PACKET(ctx);
	__u64 page = (__u64)data;
	WRONG(page >>= 12;) // E0029
	barrier(page);
	return page == (__u64)data_end;
}

SEC("xdp")
int size_for_a_pointer(struct xdp_md *ctx)
{
	__u64 key = 0;
	WRONG(bpf_map_update_elem(&seen, &key, (void *)16, 0);) // E0030
	return XDP_PASS;
}

SEC("xdp")
int writes_a_constant(struct xdp_md *ctx)
{
	__u32 *p = (void *)&wanted;
	barrier(p);
	WRONG(*p += 1;) // E0031
	return XDP_PASS;
}

SEC("kprobe/x")
int submits_what_is_gone(struct pt_regs *ctx)
{
	struct event *e = bpf_ringbuf_reserve(&ring, sizeof(*e), 0);
	if (!e)
		return 0;
	bpf_ringbuf_submit(e, 0);
	WRONG(e->time = bpf_ktime_get_ns();) // E0005
	return 0;
}

SEC("kprobe/x")
int submits_twice(struct pt_regs *ctx)
{
	struct event *e = bpf_ringbuf_reserve(&ring, sizeof(*e), 0);
	if (!e)
		return 0;
	bpf_ringbuf_submit(e, 0);
	WRONG(bpf_ringbuf_submit(e, 0);) // E0030
	return 0;
}

SEC("tc")
int leaves_with_a_lock(struct __sk_buff *skb)
{
	__u32 key = 0;
	struct counter *c = bpf_map_lookup_elem(&counters, &key);
	if (!c)
		return TC_ACT_OK;
	bpf_spin_lock(&c->lock);
	c->packets++;
	RIGHT(bpf_spin_unlock(&c->lock);)
	return TC_ACT_OK;
} // E0036

SEC("xdp")
int redirects_by_a_hash(struct xdp_md *ctx)
{
	WRONG(return bpf_redirect_map(&seen, 0, 0);) // E0038
	return bpf_redirect_map(&ports, 0, 0);
}

char LICENSE[] SEC("license") = "GPL";
