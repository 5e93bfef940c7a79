/* SYN cookies: the number that an answer to a SYN bears, by which its acknowledgement is known without any memory of it. */
#include "maps.h"

#include <errno.h>
#include <string.h>

#define HELPER(name) RT_API u64 rt_helper_##name(u64 a, u64 b, u64 c, u64 d, u64 e, struct rt_env *env)
#define UNUSED (void)a, (void)b, (void)c, (void)d, (void)e, (void)env

/* A cookie is good for so many units of its time. Its low bits hold which of four segment sizes was meant. */
enum { COOKIE_UNIT_S = 64, COOKIE_AGE = 2, COOKIE_BITS = 24, COOKIE_MASK = (1 << COOKIE_BITS) - 1, COOKIE_SIZES = 4 };
static const u16 SEGMENTS_V4[COOKIE_SIZES] = {536, 1300, 1440, 1460}, SEGMENTS_V6[COOKIE_SIZES] = {1280 - 60, 1480 - 60, 1500 - 60, 9000 - 60};

struct tcp {
    u16 source, dest;
    u32 seq, ack;
    u8 offset, flags;
    u16 window, sum, urgent;
};

/* Who talks to whom. */
struct pair {
    u8 from[16], to[16];
    u16 source, dest;
};

static u32 cookie_hash(const struct pair *pair, u32 count, u32 which)
{
    /* Where this library lies is a secret of the process. */
    return (u32)(rt_mix((const u8 *)pair, sizeof *pair, (u64)&cookie_hash ^ ((u64)count << 1 | which) * 0x9E3779B97F4A7C15ull) >> 32);
}

static struct pair pair_of(const u8 *addresses, u32 width, const struct tcp *tcp)
{
    struct pair pair;
    memset(&pair, 0, sizeof pair);
    memcpy(pair.from, addresses, width);
    memcpy(pair.to, addresses + width, width);
    pair.source = tcp->source;
    pair.dest = tcp->dest;
    return pair;
}

static u32 cookie_time(struct rt_env *env) { return (u32)(rt_now(env) / (COOKIE_UNIT_S * 1000000000ull)); }

/* The segment size that a SYN asks for; 0 if it does not. */
static u32 asked_segment(const u8 *tcp, u32 size)
{
    enum { END_OF_OPTIONS, NO_OPTION, SEGMENT, SEGMENT_SIZE = 4 };
    u32 found = 0;
    for (u32 at = sizeof(struct tcp); at < size;) {
        u8 kind = tcp[at];
        if (kind == NO_OPTION) {
            at++;
            continue;
        }
        if (kind == END_OF_OPTIONS || at + 1 >= size)
            break;
        u8 length = tcp[at + 1];
        if (length < 2 || at + length > size)
            break;
        u32 wanted = (u32)tcp[at + 2] << 8 | tcp[at + 3];
        if (kind == SEGMENT && length == SEGMENT_SIZE && wanted)
            found = wanted;
        at += length;
    }
    return found;
}

static u64 make_cookie(const u8 *addresses, u32 width, const u8 *header, u32 size, const u16 *segments, u32 usual, struct rt_env *env)
{
    struct tcp tcp;
    memcpy(&tcp, header, size < sizeof tcp ? size : sizeof tcp);
    if (size < sizeof tcp || size != (u32)(tcp.offset >> 4) * 4)
        return (u64)-EINVAL;
    u32 asked = asked_segment(header, size), which = COOKIE_SIZES - 1;
    asked = asked ? asked : usual;
    while (which && asked < segments[which])
        which--;
    struct pair pair = pair_of(addresses, width, &tcp);
    u32 count = cookie_time(env);
    u32 cookie = cookie_hash(&pair, 0, 0) + __builtin_bswap32(tcp.seq) + (count << COOKIE_BITS) + ((cookie_hash(&pair, count, 1) + which) & COOKIE_MASK);
    return cookie | (u64)segments[which] << 32;
}

static u64 check_cookie(const u8 *addresses, u32 width, const struct tcp *tcp, struct rt_env *env)
{
    struct pair pair = pair_of(addresses, width, tcp);
    u32 cookie = __builtin_bswap32(tcp->ack) - 1 - cookie_hash(&pair, 0, 0) - (__builtin_bswap32(tcp->seq) - 1);
    u32 count = cookie_time(env), age = (count - (cookie >> COOKIE_BITS)) & (0xFFFFFFFFu >> COOKIE_BITS);
    if (age >= COOKIE_AGE)
        return (u64)-EACCES;
    return ((cookie - cookie_hash(&pair, count - age, 1)) & COOKIE_MASK) < COOKIE_SIZES ? 0 : (u64)-EACCES;
}

/* Where the addresses are in a header of IPv4 and of IPv6. */
enum { ADDRESSES_V4 = 12, ADDRESSES_V6 = 8, USUAL_V4 = 536, USUAL_V6 = 1220 };

HELPER(tcp_raw_gen_syncookie_ipv4)
{
    UNUSED;
    return make_cookie((u8 *)a + ADDRESSES_V4, 4, (u8 *)b, (u32)c, SEGMENTS_V4, USUAL_V4, env);
}
HELPER(tcp_raw_gen_syncookie_ipv6)
{
    UNUSED;
    return make_cookie((u8 *)a + ADDRESSES_V6, 16, (u8 *)b, (u32)c, SEGMENTS_V6, USUAL_V6, env);
}
HELPER(tcp_raw_check_syncookie_ipv4) { UNUSED; return check_cookie((u8 *)a + ADDRESSES_V4, 4, (void *)b, env); }
HELPER(tcp_raw_check_syncookie_ipv6) { UNUSED; return check_cookie((u8 *)a + ADDRESSES_V6, 16, (void *)b, env); }
