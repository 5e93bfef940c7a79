/* What programs above the driver may do with a packet: the helpers of socket filters and tc programs. */
#include "rt.h"

#include <errno.h>
#include <string.h>

#define HELPER(name) RT_API u64 rt_helper_##name(u64 a, u64 b, u64 c, u64 d, u64 e, struct rt_env *env)
#define UNUSED (void)a, (void)b, (void)c, (void)d, (void)e, (void)env

enum { STORE_INVALIDATES_HASH = 2, STORE_FLAGS = 3 };
enum { FIELD_SIZE = 0xF, PSEUDO_HEADER = 0x10, MANGLED_0 = 0x20, ENFORCE = 0x40, L4_FLAGS = 0xFF };
enum { MANGLED = 0xFFFF, LARGEST_OFFSET_16 = 0xFFFF, OTHER_HOST = 3, NO_SUPPORT = 524 };

static u32 length(const struct rt_skb *skb) { return (u32)(skb->data_end - skb->data); }

/* `size` bytes at `offset`, or 0. */
static u8 *bytes_at(struct rt_skb *skb, u32 offset, u32 size)
{
    if (offset > INT32_MAX || (u64)offset + size > length(skb))
        return 0;
    return (u8 *)skb->data + offset;
}

/* Where LD_ABS and LD_IND count from when the offset is below these: the header behind the link's, the link's own. */
enum { FROM_NETWORK = -0x100000, FROM_LINK = -0x200000 };

/* LD_ABS and LD_IND: a number of the packet in this machine's order, -1 where there is none. */
RT_API s64 rt_skb_load(const struct rt_skb *skb, s64 offset_, u32 size)
{
    s32 offset = (s32)offset_;
    u64 from = skb->data + (u64)(s64)offset;
    if (offset < 0) {
        if (offset < FROM_LINK)
            return -1;
        from = offset >= FROM_NETWORK ? skb->network_header + (u64)(offset - FROM_NETWORK) : skb->link_header + (u64)(offset - FROM_LINK);
    }
    if (from + size > skb->data_end)
        return -1;
    const u8 *at = (const u8 *)from;
    u32 value = 0;
    for (u32 i = 0; i < size; i++)
        value = value << 8 | at[i];
    return value;
}

HELPER(skb_load_bytes)
{
    (void)e, (void)env;
    u8 *from = bytes_at((struct rt_skb *)a, (u32)b, (u32)d);
    if (!from) {
        memset((void *)c, 0, (u32)d);
        return (u64)-EFAULT;
    }
    memcpy((void *)c, from, (u32)d);
    return 0;
}

HELPER(skb_load_bytes_relative)
{
    (void)env;
    struct rt_skb *skb = (void *)a;
    /* 0: from the Ethernet header, 1: from the one behind it. */
    u64 start = (u32)e == 0 ? skb->link_header : (u32)e == 1 ? skb->network_header : 0;
    if (!start || (u32)b > LARGEST_OFFSET_16 || start + (u32)b + (u32)d > skb->data_end) {
        memset((void *)c, 0, (u32)d);
        return (u64)-EFAULT;
    }
    memcpy((void *)c, (void *)(start + (u32)b), (u32)d);
    return 0;
}

HELPER(skb_store_bytes)
{
    (void)env;
    struct rt_skb *skb = (void *)a;
    if (e & ~(u64)STORE_FLAGS)
        return (u64)-EINVAL;
    u8 *to = bytes_at(skb, (u32)b, (u32)d);
    if (!to)
        return (u64)-EFAULT;
    memcpy(to, (void *)c, (u32)d);
    if (e & STORE_INVALIDATES_HASH)
        skb->hash = 0;
    return 0;
}

HELPER(skb_pull_data)
{
    (void)c, (void)d, (void)e, (void)env;
    return (u32)b > length((struct rt_skb *)a) ? (u64)-ENOMEM : 0;
}

static u32 fold(u64 sum)
{
    while (sum >> 16)
        sum = (sum & 0xFFFF) + (sum >> 16);
    return (u32)sum;
}

/* RFC 1624: the checksum after a field changed from `from` to `to`. */
static void replace(u8 *at, u32 from, u32 to, u32 size)
{
    u16 sum;
    memcpy(&sum, at, 2);
    u64 all = (u16)~sum;
    if (size == 2)
        all += (u16)~from + (u64)(u16)to;
    else
        all += (u16)~from + (u64)(u16)(~from >> 16) + (u16)to + (u64)(to >> 16);
    sum = (u16)~fold(all);
    memcpy(at, &sum, 2);
}

static void replace_by_difference(u8 *at, u32 difference)
{
    u16 sum;
    memcpy(&sum, at, 2);
    sum = (u16)~fold((u64)difference + (u16)~sum);
    memcpy(at, &sum, 2);
}

static s64 replace_field(u8 *at, u64 from, u64 to, u64 size)
{
    if (size == 0 && !from)
        replace_by_difference(at, (u32)to);
    else if (size == 2 || size == 4)
        replace(at, (u32)from, (u32)to, (u32)size);
    else
        return -EINVAL;
    return 0;
}

HELPER(l3_csum_replace)
{
    (void)env;
    if (e & ~(u64)FIELD_SIZE)
        return (u64)-EINVAL;
    if ((u32)b > LARGEST_OFFSET_16 || b & 1)
        return (u64)-EFAULT;
    u8 *at = bytes_at((struct rt_skb *)a, (u32)b, 2);
    return at ? (u64)replace_field(at, c, d, e) : (u64)-EFAULT;
}

HELPER(l4_csum_replace)
{
    (void)env;
    if (e & ~(u64)L4_FLAGS)
        return (u64)-EINVAL;
    if ((u32)b > LARGEST_OFFSET_16 || b & 1)
        return (u64)-EFAULT;
    u8 *at = bytes_at((struct rt_skb *)a, (u32)b, 2);
    if (!at)
        return (u64)-EFAULT;
    u16 sum;
    memcpy(&sum, at, 2);
    /* UDP's checksum of zero says that there is none. */
    if (e & MANGLED_0 && !(e & ENFORCE) && !sum)
        return 0;
    s64 result = replace_field(at, c, d, e & FIELD_SIZE);
    memcpy(&sum, at, 2);
    if (!result && e & MANGLED_0 && !sum) {
        sum = MANGLED;
        memcpy(at, &sum, 2);
    }
    return (u64)result;
}

/* There is no checksum of a whole packet here that could be brought up to date. */
HELPER(csum_update) { UNUSED; return (u64)-(s64)NO_SUPPORT; }

HELPER(set_hash) { UNUSED; ((struct rt_skb *)a)->hash = (u32)b; return 0; }
HELPER(set_hash_invalid) { UNUSED; ((struct rt_skb *)a)->hash = 0; return 0; }
/* A hash of the bytes that tell flows apart; Linux's has a key of its own in each boot. */
HELPER(get_hash_recalc)
{
    UNUSED;
    struct rt_skb *skb = (void *)a;
    if (!skb->hash) {
        u64 sum = 0xcbf29ce484222325ull;
        u8 *at = (u8 *)skb->network_header, *end = (u8 *)skb->data_end;
        for (u32 i = 0; at + i < end && i < 44; i++)
            if (i >= 6)
                sum = (sum ^ at[i]) * 0x100000001b3ull;
        skb->hash = (u32)(sum ^ sum >> 32) | 1;
    }
    return skb->hash;
}

HELPER(skb_change_type)
{
    UNUSED;
    struct rt_skb *skb = (void *)a;
    if (skb->pkt_type > OTHER_HOST || (u32)b > OTHER_HOST)
        return (u64)-EINVAL;
    skb->pkt_type = (u32)b;
    return 0;
}

HELPER(skb_change_tail)
{
    (void)d, (void)e, (void)env;
    struct rt_skb *skb = (void *)a;
    u64 end = skb->data + (u32)b;
    if (c || end < skb->network_header || end > skb->hard_end)
        return (u64)-EINVAL;
    if (end > skb->data_end)
        memset((void *)skb->data_end, 0, end - skb->data_end);
    skb->data_end = end;
    skb->len = length(skb);
    return 0;
}

HELPER(skb_change_head)
{
    (void)d, (void)e, (void)env;
    struct rt_skb *skb = (void *)a;
    if (c)
        return (u64)-EINVAL;
    if ((u32)b > skb->data - skb->hard_begin)
        return (u64)-ENOMEM;
    skb->data -= (u32)b;
    skb->data_meta = skb->link_header = skb->data;
    memset((void *)skb->data, 0, (u32)b);
    skb->len = length(skb);
    return 0;
}
