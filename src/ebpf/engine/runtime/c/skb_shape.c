/* What tc programs do to a packet's shape: VLAN tags, headers of other lengths, and what hangs on the packet besides bytes. */
#include "rt.h"

#include <errno.h>
#include <string.h>

#define HELPER(name) RT_API u64 rt_helper_##name(u64 a, u64 b, u64 c, u64 d, u64 e, struct rt_env *env)
#define UNUSED (void)a, (void)b, (void)c, (void)d, (void)e, (void)env

enum { MACS = 12, ETHERNET = 14, TAG = 4, SHAPE_NO_SUPPORT = 524 };
/* EtherTypes as they lie in a packet. */
enum { IPV4 = 0x0008, IPV6 = 0xDD86, VLAN_Q = 0x0081, VLAN_AD = 0xA888 };
enum { IPV4_HEADER = 20, IPV6_HEADER = 40 };
/* The packet's own VLAN tag lies beside it: vlan[] is {there, tag, protocol}. */
enum { THERE = 0, TCI = 1, PROTOCOL = 2 };

static u32 swap16(u32 value) { return (value & 0xFF) << 8 | (value >> 8 & 0xFF); }
static int is_vlan(u32 protocol) { return protocol == VLAN_Q || protocol == VLAN_AD; }

static void set_vlan(struct rt_skb *skb, u32 protocol, u32 tci)
{
    skb->vlan[THERE] = 1;
    skb->vlan[TCI] = tci & 0xFFFF;
    skb->vlan[PROTOCOL] = protocol;
}

static void begin_at(struct rt_skb *skb, u64 data)
{
    skb->data = skb->data_meta = skb->link_header = data;
    skb->len = (u32)(skb->data_end - data);
}

/* Make room of `size` bytes at `offset`, or take as many away. */
static s64 widen(struct rt_skb *skb, u32 offset, u32 size)
{
    if (size > skb->data - skb->hard_begin)
        return -ENOMEM;
    memmove((void *)(skb->data - size), (void *)skb->data, offset);
    begin_at(skb, skb->data - size);
    memset((void *)(skb->data + offset), 0, size);
    skb->network_header = skb->data + ETHERNET;
    return 0;
}

static void narrow(struct rt_skb *skb, u32 offset, u32 size)
{
    memmove((void *)(skb->data + size), (void *)skb->data, offset);
    begin_at(skb, skb->data + size);
    skb->network_header = skb->data + ETHERNET;
}

HELPER(skb_vlan_push)
{
    (void)d, (void)e, (void)env;
    struct rt_skb *skb = (void *)a;
    u32 protocol = is_vlan((u16)b) ? (u16)b : VLAN_Q;
    if (skb->vlan[THERE]) {
        /* The tag that was there goes into the packet. */
        s64 result = widen(skb, MACS, TAG);
        if (result)
            return (u64)result;
        u16 old = (u16)skb->vlan[PROTOCOL], tci = (u16)swap16(skb->vlan[TCI]);
        memcpy((void *)(skb->data + MACS), &old, 2);
        memcpy((void *)(skb->data + MACS + 2), &tci, 2);
        skb->protocol = old;
        skb->network_header = skb->data + ETHERNET + TAG;
    }
    set_vlan(skb, protocol, (u32)c);
    return 0;
}

/* What follows a tag: an EtherType, or one of the older framings. */
static u32 inner_protocol(const u8 *behind)
{
    u16 type, first;
    memcpy(&type, behind, 2);
    memcpy(&first, behind + 2, 2);
    if (swap16(type) >= 0x600)
        return type;
    return first == 0xFFFF ? 0x0100 : 0x0400;
}

static s64 take_tag(struct rt_skb *skb, u32 *tci)
{
    u16 raw;
    if (skb->len < ETHERNET + TAG)
        return -ENOMEM;
    memcpy(&raw, (void *)(skb->data + ETHERNET), 2);
    *tci = swap16(raw);
    skb->protocol = inner_protocol((u8 *)skb->data + ETHERNET + 2);
    narrow(skb, MACS, TAG);
    return 0;
}

HELPER(skb_vlan_pop)
{
    (void)b, (void)c, (void)d, (void)e, (void)env;
    struct rt_skb *skb = (void *)a;
    u32 tci;
    if (skb->vlan[THERE]) {
        memset(skb->vlan, 0, sizeof skb->vlan);
    } else {
        if (!is_vlan(skb->protocol))
            return 0;
        s64 result = take_tag(skb, &tci);
        if (result)
            return (u64)result;
    }
    if (!is_vlan(skb->protocol))
        return 0;
    u32 protocol = skb->protocol;
    s64 result = take_tag(skb, &tci);
    if (!result)
        set_vlan(skb, protocol, tci);
    return (u64)result;
}

HELPER(skb_change_proto)
{
    (void)d, (void)e, (void)env;
    struct rt_skb *skb = (void *)a;
    u32 to = (u16)b, difference = IPV6_HEADER - IPV4_HEADER;
    if (c)
        return (u64)-EINVAL;
    if (skb->protocol == IPV4 && to == IPV6) {
        s64 result = widen(skb, ETHERNET, difference);
        if (result)
            return (u64)result;
    } else if (skb->protocol == IPV6 && to == IPV4) {
        if (skb->len < ETHERNET + difference)
            return (u64)-ENOMEM;
        narrow(skb, ETHERNET, difference);
    } else {
        return (u64)-SHAPE_NO_SUPPORT;
    }
    skb->protocol = to;
    skb->hash = 0;
    return 0;
}

enum { ROOM_NET = 0, ROOM_MAC = 1 };
enum { FIXED_GSO = 1, ENCAP_IPV4 = 2, ENCAP_IPV6 = 4, ENCAP_GRE = 8, ENCAP_UDP = 16, NO_CSUM_RESET = 32, ENCAP_ETH = 64 };
enum { DECAP_IPV4 = 128, DECAP_IPV6 = 256, ENCAP_L2_SHIFT = 56 };
enum { ENCAP_L3 = ENCAP_IPV4 | ENCAP_IPV6, ENCAP = ENCAP_L3 | ENCAP_GRE | ENCAP_UDP | ENCAP_ETH, DECAP = DECAP_IPV4 | DECAP_IPV6 };
enum { ROOM_FLAGS = FIXED_GSO | ENCAP | NO_CSUM_RESET | DECAP, MOST_ROOM = 0xFFF, MOST_LENGTH = 65536 };

static s64 grow(struct rt_skb *skb, u32 offset, u32 size, u64 flags)
{
    u32 inner_mac = (u32)(flags >> ENCAP_L2_SHIFT);
    if (flags & ENCAP) {
        if ((flags & ENCAP_L3) == ENCAP_L3 || ((flags & ENCAP_GRE) && (flags & ENCAP_UDP)))
            return -EINVAL;
        if (inner_mac > size || (flags & ENCAP_ETH && inner_mac < ETHERNET))
            return -EINVAL;
    }
    s64 result = widen(skb, offset, size);
    if (!result && flags & ENCAP_IPV4)
        skb->protocol = IPV4;
    if (!result && flags & ENCAP_IPV6)
        skb->protocol = IPV6;
    return result;
}

HELPER(skb_adjust_room)
{
    (void)e, (void)env;
    struct rt_skb *skb = (void *)a;
    s32 change = (s32)b;
    u32 size = (u32)(change < 0 ? -(s64)change : change), mode = (u32)c, net = (u32)(skb->data_end - skb->network_header);
    u64 flags = d, known = ROOM_FLAGS | 0xFFull << ENCAP_L2_SHIFT;
    if (flags & ~known || (flags & DECAP && change >= 0) || (flags & DECAP) == DECAP)
        return (u64)-EINVAL;
    if (size > MOST_ROOM)
        return (u64)-EFAULT;
    u32 least = skb->protocol == IPV4 ? IPV4_HEADER : skb->protocol == IPV6 ? IPV6_HEADER : 0;
    if (!least)
        return (u64)-SHAPE_NO_SUPPORT;
    if (mode != ROOM_NET && mode != ROOM_MAC)
        return (u64)-SHAPE_NO_SUPPORT;
    u32 offset = ETHERNET + (mode == ROOM_NET ? least : 0);
    if (flags & DECAP_IPV4)
        least = IPV4_HEADER;
    if (flags & DECAP_IPV6)
        least = IPV6_HEADER;
    if (change < 0 ? size >= net || net - size < least : skb->len + size > MOST_LENGTH)
        return (u64)-SHAPE_NO_SUPPORT;
    if (change >= 0)
        return (u64)grow(skb, offset, size, flags);
    if (skb->len < offset + size)
        return (u64)-ENOMEM;
    narrow(skb, offset, size);
    if (flags & DECAP_IPV4)
        skb->protocol = IPV4;
    if (flags & DECAP_IPV6)
        skb->protocol = IPV6;
    return 0;
}

/* -- what hangs on a packet besides its bytes */

enum { LEVEL_QUERY = 0, LEVEL_RESET = 3 };
/* Nobody has looked at the checksums of these packets: there is no level to tell. */
HELPER(csum_level) { (void)a, (void)c, (void)d, (void)e, (void)env; return b > LEVEL_RESET ? (u64)-EINVAL : b == LEVEL_QUERY ? (u64)-EACCES : 0; }

enum { STAMP_REAL = 0, STAMP_LAST = 2 };
HELPER(skb_set_tstamp)
{
    (void)d, (void)e, (void)env;
    struct rt_skb *skb = (void *)a;
    if (skb->protocol != IPV4 && skb->protocol != IPV6)
        return (u64)-EOPNOTSUPP;
    if ((u32)c > STAMP_LAST || ((u32)c != STAMP_REAL && !b))
        return (u64)-EINVAL;
    skb->tstamp = b;
    skb->tstamp_type = (u32)c;
    return 0;
}

/* Mark congestion in an IP header that allows it: 1 if it is marked now. */
static u64 mark_ipv4(u8 *ip)
{
    u32 ecn = (ip[1] + 1u) & 3, sum;
    u16 check;
    if (!(ecn & 2))
        return !ecn;
    memcpy(&check, ip + 10, 2);
    sum = check + (u32)swap16(0xFFFB) + (u32)swap16(ecn);
    check = (u16)(sum + (sum >= 0xFFFF));
    memcpy(ip + 10, &check, 2);
    ip[1] |= 3;
    return 1;
}

HELPER(skb_ecn_set_ce)
{
    (void)b, (void)c, (void)d, (void)e, (void)env;
    struct rt_skb *skb = (void *)a;
    u8 *ip = (u8 *)skb->network_header;
    u64 size = skb->data_end - skb->network_header;
    if (skb->protocol == IPV4)
        return size < IPV4_HEADER ? 0 : mark_ipv4(ip);
    if (skb->protocol != IPV6 || size < IPV6_HEADER)
        return 0;
    if (!(ip[1] & 0x30))
        return 0;
    ip[1] |= 0x30;
    return 1;
}

/* These packets came over no route, in no cgroup. */
HELPER(get_route_realm) { UNUSED; return 0; }
HELPER(get_cgroup_classid) { UNUSED; return 0; }
HELPER(skb_cgroup_classid) { UNUSED; return 0; }
