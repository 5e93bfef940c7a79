/* About 4,000 instructions of what large programs consist of: headers parsed, options walked, counts in maps. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

typedef __u8 u8;
typedef __u32 u32;
typedef __u64 u64;

enum { RECORDS = 98 };

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1024);
    __type(key, u64);
    __type(value, u64);
} flows SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 256);
    __type(key, u32);
    __type(value, u64);
} kinds SEC(".maps");

/* One record of 12 bytes. */
static __always_inline int record(u8 *at, u64 *flow, u32 number)
{
    u32 kind = at[0] ^ number, length = at[1] & 63;
    if (kind == 1)
        return 1;
    if (kind == 2 || kind == 8)
        *flow = (*flow << 5 | *flow >> 59) ^ (u32)(at[2] << 8 | at[3]) ^ number;
    else if (kind < 64)
        *flow += (u64)kind * length;
    else if (length > 40 && *(u32 *)(at + 4) != *(u32 *)(at + 8))
        return 0;
    u64 *seen = bpf_map_lookup_elem(&kinds, &kind);
    if (seen)
        __sync_fetch_and_add(seen, 1);
    return 1;
}

SEC("xdp")
int large(struct xdp_md *ctx)
{
    u8 *at = (u8 *)(long)ctx->data, *end = (u8 *)(long)ctx->data_end;
    if (at + 12 * RECORDS > end)
        return XDP_ABORTED;
    u64 flow = 1;
#pragma clang loop unroll(full)
    for (u32 i = 0; i < RECORDS; i++) {
        if (!record(at + 12 * i, &flow, i))
            return XDP_DROP;
        if (i % 8 == 7) {
            u64 *count = bpf_map_lookup_elem(&flows, &flow);
            if (count)
                *count += 1;
            else
                bpf_map_update_elem(&flows, &flow, &flow, BPF_ANY);
        }
    }
    return flow & 1 ? XDP_PASS : XDP_TX;
}

char terms[] SEC("license") = "GPL";
