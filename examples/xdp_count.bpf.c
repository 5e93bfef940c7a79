// Count packets by IP protocol, and let every one pass.
//
//   ebpf prog run examples/xdp_count.bpf.c --pcap traffic.pcap
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 256);
    __type(key, __u32);
    __type(value, __u64);
} by_protocol SEC(".maps");

__u64 packets = 0;
__u64 not_ip = 0;

SEC("xdp")
int count(struct xdp_md *ctx)
{
    void *data = (void *)(long)ctx->data;
    void *data_end = (void *)(long)ctx->data_end;
    struct ethhdr *eth = data;
    struct iphdr *ip = (void *)(eth + 1);

    packets++;
    // The verifier insists: no byte of the packet is read before it is known to be there.
    if ((void *)(ip + 1) > data_end || eth->h_proto != bpf_htons(ETH_P_IP)) {
        not_ip++;
        return XDP_PASS;
    }
    __u32 protocol = ip->protocol;
    __u64 *seen = bpf_map_lookup_elem(&by_protocol, &protocol);
    if (seen)
        __sync_fetch_and_add(seen, 1);
    return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
