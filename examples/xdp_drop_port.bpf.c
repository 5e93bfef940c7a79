// Drop UDP datagrams to port 9999, pass everything else.
//
//   ebpf prog run examples/xdp_drop_port.bpf.c --pcap traffic.pcap --write verdicts/
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

const volatile __u16 port = 9999;
__u64 dropped = 0;

SEC("xdp")
int drop_port(struct xdp_md *ctx)
{
    void *data = (void *)(long)ctx->data;
    void *data_end = (void *)(long)ctx->data_end;
    struct ethhdr *eth = data;
    struct iphdr *ip = (void *)(eth + 1);

    if ((void *)(ip + 1) > data_end || eth->h_proto != bpf_htons(ETH_P_IP))
        return XDP_PASS;
    if (ip->protocol != IPPROTO_UDP)
        return XDP_PASS;
    // The header's length is in its first byte, in words of 4 bytes: options make it longer than 20 bytes.
    __u32 length = ip->ihl * 4;
    if (length < sizeof(*ip))
        return XDP_PASS;
    struct udphdr *udp = (void *)ip + length;
    if ((void *)(udp + 1) > data_end)
        return XDP_PASS;
    if (udp->dest != bpf_htons(port))
        return XDP_PASS;
    dropped++;
    return XDP_DROP;
}

char LICENSE[] SEC("license") = "GPL";
