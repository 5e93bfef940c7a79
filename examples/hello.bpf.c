// The smallest XDP program that shows anything: a line for each packet, and a counter that Python can read.
//
//   ebpf prog run examples/hello.bpf.c --pcap traffic.pcap --trace
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

int counter = 0;

SEC("xdp")
int hello(struct xdp_md *ctx)
{
    bpf_printk("packet %d has %d bytes", counter, (long)ctx->data_end - (long)ctx->data);
    counter++;
    return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
