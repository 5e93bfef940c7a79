/* Where packets come from and go to: the socket of who sends them, tunnels, other interfaces. A packet that is given to a test run
 * belongs to a socket of who runs it, as on Linux; it came through no tunnel, and no transformation. */
#include "rt.h"

#include <errno.h>
#include <net/if.h>
#include <string.h>

#define HELPER(name) RT_API u64 rt_helper_##name(u64 a, u64 b, u64 c, u64 d, u64 e, struct rt_env *env)
#define UNUSED (void)a, (void)b, (void)c, (void)d, (void)e, (void)env

/* -- the socket */

/* Each run's packets have a socket of their own. */
HELPER(get_socket_cookie)
{
    static u64 last;
    UNUSED;
    if (!env->socket_cookie)
        env->socket_cookie = __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
    return env->socket_cookie;
}
/* The socket is nobody's, as a test run's is on Linux. */
HELPER(get_socket_uid) { UNUSED; return 0; }
/* There is one network. */
HELPER(get_netns_cookie) { UNUSED; return 1; }
HELPER(skb_cgroup_id) { UNUSED; return rt_cgroup_of(env); }

u64 rt_helper_get_current_ancestor_cgroup_id(u64, u64, u64, u64, u64, struct rt_env *);
u64 rt_helper_current_task_under_cgroup(u64, u64, u64, u64, u64, struct rt_env *);
HELPER(skb_ancestor_cgroup_id) { UNUSED; return rt_helper_get_current_ancestor_cgroup_id(b, 0, 0, 0, 0, env); }
HELPER(skb_under_cgroup) { UNUSED; return rt_helper_current_task_under_cgroup(b, c, 0, 0, 0, env); }

/* -- other interfaces */

/* The copy that goes out there is not seen by anybody: programs run here on packets that are given. */
HELPER(clone_redirect)
{
    enum { INGRESS = 1 };
    char name[IF_NAMESIZE];
    UNUSED;
    return c & ~(u64)INGRESS || !if_indextoname((u32)b, name) ? (u64)-EINVAL : 0;
}

HELPER(skb_get_xfrm_state)
{
    UNUSED;
    memset((void *)c, 0, (u32)d);
    return (u64)-EINVAL;
}

/* -- tunnels: what a program says that a packet is to go through, it can ask again */

/* struct bpf_tunnel_key. Older programs know less of it: up to the places in SHORTER. */
struct tunnel_key {
    u32 id, remote[4];
    u8 tos, ttl;
    u16 flags;
    u32 label, local[4];
};
static const u32 SHORTER[] = {offsetof(struct tunnel_key, local), offsetof(struct tunnel_key, label), offsetof(struct tunnel_key, flags),
                              offsetof(struct tunnel_key, remote) + 4};
enum { TUNNEL_IPV6 = 1, TUNNEL_ZERO_SUM = 2, TUNNEL_WHOLE = 4, TUNNEL_NUMBERED = 8, TUNNEL_NO_KEY = 16, TUNNEL_FLAGS = 16 };
/* Flags of a tunnel, in the network's order where programs see them. */
enum { HAS_SUM = 1, HAS_KEY = 4, HAS_NUMBER = 8, IS_WHOLE = 0x100, UNCACHED = 0x2000, HAS_OPTIONS = 0xD800, LONGEST_OPTIONS = 255, LABEL = 0xFFFFF };

static int is_shorter(u32 size)
{
    for (u32 i = 0; i < sizeof SHORTER / sizeof *SHORTER; i++)
        if (size == SHORTER[i])
            return 1;
    return 0;
}

HELPER(skb_set_tunnel_key)
{
    UNUSED;
    struct rt_tunnel *tunnel = &env->tunnel;
    struct tunnel_key key = {0};
    if (d & ~(u64)(TUNNEL_IPV6 | TUNNEL_ZERO_SUM | TUNNEL_WHOLE | TUNNEL_NUMBERED | TUNNEL_NO_KEY))
        return (u64)-EINVAL;
    if ((u32)c != sizeof key && !is_shorter((u32)c))
        return (u64)-EINVAL;
    memcpy(&key, (void *)b, (u32)c);
    if ((!(d & TUNNEL_IPV6) && key.label) || key.flags)
        return (u64)-EINVAL;
    u32 flags = HAS_KEY | HAS_SUM | UNCACHED | (d & TUNNEL_WHOLE ? IS_WHOLE : 0) | (d & TUNNEL_NUMBERED ? HAS_NUMBER : 0);
    if (d & TUNNEL_ZERO_SUM)
        flags &= ~(u32)HAS_SUM;
    if (d & TUNNEL_NO_KEY)
        flags &= ~(u32)HAS_KEY;
    *tunnel = (struct rt_tunnel){.known = 1, .ipv6 = d & TUNNEL_IPV6, .id = key.id, .tos = key.tos, .ttl = key.ttl, .flags = (u16)flags};
    u32 width = tunnel->ipv6 ? 16 : 4;
    memcpy(tunnel->to, key.remote, width);
    memcpy(tunnel->from, key.local, width);
    tunnel->label = key.label & LABEL;
    return 0;
}

/* Seen from the other end: what comes through the tunnel comes from where this end's packets came from. */
HELPER(skb_get_tunnel_key)
{
    UNUSED;
    const struct rt_tunnel *tunnel = &env->tunnel;
    struct tunnel_key key = {0};
    s64 result = 0;
    if (!tunnel->known || d & ~(u64)(TUNNEL_IPV6 | TUNNEL_FLAGS))
        result = -EINVAL;
    else if (tunnel->ipv6 != (d & TUNNEL_IPV6))
        result = -EPROTO;
    else if ((u32)c != sizeof key && (!is_shorter((u32)c) || ((u32)c == SHORTER[3] && tunnel->ipv6)))
        result = -EINVAL;
    if (!result) {
        key = (struct tunnel_key){.id = tunnel->id, .tos = tunnel->tos, .ttl = tunnel->ttl, .label = tunnel->ipv6 ? tunnel->label : 0};
        key.flags = d & TUNNEL_FLAGS ? __builtin_bswap16(tunnel->flags) : 0;
        memcpy(key.remote, tunnel->from, sizeof key.remote);
        memcpy(key.local, tunnel->to, sizeof key.local);
    }
    memset((void *)b, 0, (u32)c);
    memcpy((void *)b, &key, (u32)c < sizeof key ? (u32)c : sizeof key);
    return (u64)result;
}

HELPER(skb_set_tunnel_opt)
{
    UNUSED;
    struct rt_tunnel *tunnel = &env->tunnel;
    if (!tunnel->known || (u32)c & 3)
        return (u64)-EINVAL;
    if ((u32)c > LONGEST_OPTIONS)
        return (u64)-ENOMEM;
    memcpy(tunnel->options, (void *)b, (u32)c);
    tunnel->options_size = (u8)c;
    tunnel->flags |= HAS_OPTIONS;
    return 0;
}

HELPER(skb_get_tunnel_opt)
{
    UNUSED;
    const struct rt_tunnel *tunnel = &env->tunnel;
    s64 result = !tunnel->known || !(tunnel->flags & HAS_OPTIONS) ? -ENOENT : (u32)c < tunnel->options_size ? -ENOMEM : tunnel->options_size;
    memset((void *)b, 0, (u32)c);
    if (result > 0)
        memcpy((void *)b, tunnel->options, (u64)result);
    return (u64)result;
}
