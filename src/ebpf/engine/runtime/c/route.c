/* Where packets go: redirects, and routes out of a table that the caller gave. */
#include "maps.h"

#include <errno.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define HELPER(name) RT_API u64 rt_helper_##name(u64 a, u64 b, u64 c, u64 d, u64 e, struct rt_env *env)
/* The bodies that XDP programs have for themselves. */
#define XDP_HELPER(name) RT_API u64 rt_xdp_##name(u64 a, u64 b, u64 c, u64 d, u64 e, struct rt_env *env)

enum { XDP_ABORTED = 0, XDP_REDIRECT = 4, TC_SHOT = 2, TC_REDIRECT = 7 };
enum { INGRESS = 1, ACTION_MASK = 3, BROADCAST = 8, EXCLUDE_INGRESS = 16 };

static void go(struct rt_env *env, u64 ifindex, u64 flags)
{
    env->to_ifindex = (u32)ifindex;
    env->to_flags = (u32)flags;
}

XDP_HELPER(redirect)
{
    (void)c, (void)d, (void)e;
    go(env, a, 0);
    return b ? XDP_ABORTED : XDP_REDIRECT;
}

HELPER(redirect)
{
    (void)c, (void)d, (void)e;
    go(env, a, b);
    return b & ~(u64)INGRESS ? TC_SHOT : TC_REDIRECT;
}

HELPER(redirect_peer)
{
    (void)a, (void)c, (void)d, (void)e;
    /* The other end of an interface's pair is in somebody else's namespace: no interface. */
    go(env, 0, INGRESS);
    return b ? TC_SHOT : TC_REDIRECT;
}

HELPER(redirect_neigh)
{
    enum { NEIGHBOUR = 20 };
    (void)b, (void)e;
    go(env, a, 0);
    return (c && (u32)c < NEIGHBOUR) || d ? TC_SHOT : TC_REDIRECT;
}

HELPER(redirect_map)
{
    (void)d, (void)e;
    struct rt_map *map = (void *)a;
    u64 flags = c;
    u32 key = (u32)b;
    if (flags & ~(u64)(ACTION_MASK | BROADCAST | EXCLUDE_INGRESS))
        return XDP_ABORTED;
    const u64 *to = flags & BROADCAST ? 0 : rt_map_value(map, &key, 0);
    go(env, to ? *to : 0, 0);
    return flags & BROADCAST || to ? XDP_REDIRECT : flags & ACTION_MASK;
}

/* -- routes */

/* struct bpf_fib_lookup. */
struct fib {
    u8 family, l4_protocol;
    u16 sport, dport, length;
    u32 ifindex;
    u32 flow; /* in: type of service or flow; out: metric */
    u8 source[16], target[16];
    u16 vlan_protocol, vlan;
    u8 smac[6], dmac[6];
};

enum { FIB_FLAGS = 0x7F, FIB_OUTPUT = 2, FIB_SKIP_NEIGHBOUR = 4, FIB_SET_SOURCE = 0x10 };
enum { FIB_OK = 0, FIB_NOT_FORWARDED = 4, FIB_NO_NEIGHBOUR = 7, FIB_FRAGMENT = 8 };

/* The longest prefix of the table that holds an address. */
static const struct rt_route *route_of(const struct rt_env *env, u32 family, const u8 *to)
{
    for (const struct rt_route *r = env->routes; r && r->family; r++) {
        u32 whole = r->bits / 8, rest = r->bits % 8;
        if (r->family != family || memcmp(r->prefix, to, whole))
            continue;
        if (!rest || !((r->prefix[whole] ^ to[whole]) >> (8 - rest)))
            return r;
    }
    return NULL;
}

/* Fill in what is known; `fits` is whether a length was given that has to fit the route. */
static u64 lookup_route(struct fib *fib, u64 size, u64 flags, int fits, struct rt_env *env)
{
    if ((u32)size < sizeof *fib || (u32)flags & ~(u32)FIB_FLAGS)
        return (u64)-EINVAL;
    if (fib->family != AF_INET && fib->family != AF_INET6)
        return (u64)-EAFNOSUPPORT;
    const struct rt_route *r = route_of(env, fib->family, fib->target);
    if (!r)
        return FIB_NOT_FORWARDED;
    if (r->result)
        return r->result;
    if (fits && r->mtu && fib->length > r->mtu) {
        fib->length = (u16)r->mtu;
        return FIB_FRAGMENT;
    }
    fib->ifindex = r->ifindex;
    fib->flow = r->metric;
    if (r->gateway_family) {
        fib->family = (u8)r->gateway_family;
        memcpy(fib->target, r->gateway, r->gateway_family == AF_INET ? 4 : 16);
    }
    if (flags & FIB_SET_SOURCE)
        memcpy(fib->source, r->source, fib->family == AF_INET ? 4 : 16);
    if (!(flags & FIB_SKIP_NEIGHBOUR)) {
        if (!r->neighbour)
            return FIB_NO_NEIGHBOUR;
        memcpy(fib->smac, r->smac, 6);
        memcpy(fib->dmac, r->dmac, 6);
    }
    fib->vlan = fib->vlan_protocol = 0;
    if (fits && r->mtu)
        fib->length = (u16)r->mtu;
    return FIB_OK;
}

XDP_HELPER(fib_lookup) { (void)a, (void)e; return lookup_route((struct fib *)b, c, d, 1, env); }

/* Without a length it is the packet itself that has to fit the interface. */
HELPER(fib_lookup)
{
    enum { LINK_ROOM = 18 };
    (void)e;
    struct rt_skb *skb = (void *)a;
    struct fib *fib = (void *)b;
    int fits = (u32)c >= sizeof *fib && fib->length;
    u8 family = fib->family, to[16];
    memcpy(to, fib->target, 16);
    u64 answer = lookup_route(fib, c, d, fits, env);
    if (answer != FIB_OK || fits)
        return answer;
    const struct rt_route *r = route_of(env, family, to);
    u32 mtu = r->link_mtu ? r->link_mtu : r->mtu;
    fib->length = (u16)mtu;
    return mtu && skb->len > mtu + LINK_ROOM ? FIB_FRAGMENT : FIB_OK;
}

/* -- the longest packet of an interface */

static s64 interface_mtu(u32 index)
{
    struct ifreq request = {0};
    if (!if_indextoname(index, request.ifr_name))
        return -ENODEV;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int failed = fd < 0 || ioctl(fd, SIOCGIFMTU, &request);
    if (fd >= 0)
        close(fd);
    return failed ? -ENODEV : request.ifr_mtu;
}

enum { LINK_HEADER = 14, SEGMENTS = 1 };
static u64 check_mtu(u32 index, u32 *length, s32 change, u32 packet)
{
    s64 mtu = interface_mtu(index);
    if (mtu < 0)
        return (u64)mtu;
    s64 wanted = (*length ? (s64)*length + LINK_HEADER : packet) + change;
    *length = (u32)mtu;
    return wanted > mtu + LINK_HEADER;
}

XDP_HELPER(check_mtu)
{
    struct rt_xdp *x = (void *)a;
    (void)env;
    if (e)
        return (u64)-EINVAL;
    return check_mtu((u32)b ? (u32)b : x->ingress_ifindex, (u32 *)c, (s32)d, (u32)(x->data_end - x->data));
}
HELPER(check_mtu)
{
    struct rt_skb *skb = (void *)a;
    (void)env;
    if (e & ~(u64)SEGMENTS || (e & SEGMENTS && ((s32)d || *(u32 *)c)))
        return (u64)-EINVAL;
    return check_mtu((u32)b ? (u32)b : skb->ifindex, (u32 *)c, (s32)d, skb->len);
}
