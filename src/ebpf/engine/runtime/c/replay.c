/* A program over every packet of a capture: no copy of the file, one copy of each packet into a buffer it may write to. */
#include "rt.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

/* A packet's buffer is a page, as Linux's test runs have it, with 320 bytes at its end kept; longer packets fill theirs. */
enum { HEADROOM = 256, TAILROOM = 320, SHORTEST = 14, VERDICTS = 8, ROOM = RT_PAGE - TAILROOM };

/* What a replay is given and what it counts. Verdict numbers above 4 are counted as 7. */
struct rt_replay {
    const u8 *at, *end; /* the records (classic pcap) or blocks (pcapng) */
    u32 pcapng, swapped;
    u8 *buffer;
    u64 buffer_size;
    u64 limit;          /* stop after so many packets; 0: none */
    s32 sinks[VERDICTS]; /* classic pcap files by verdict, header written; -1: none */
    u32 ifindex, nanoseconds; /* nanoseconds: a classic file's fractions */
    /* results */
    u64 packets, invalid, bytes, elapsed_ns, oversize, consumed;
    u64 verdicts[VERDICTS];
    u32 torn;
};

static inline u32 word(const u8 *at, u32 swapped)
{
    u32 value;
    memcpy(&value, at, 4);
    return swapped ? __builtin_bswap32(value) : value;
}

/* A packet's time as it stands in the file, and how many of its units make a second. */
struct stamp {
    u64 seconds, fraction, units;
};

static void save(s32 fd, const struct rt_xdp *ctx, struct stamp when)
{
    u32 length = (u32)(ctx->data_end - ctx->data);
    u64 units = when.units ? when.units : 1000000, seconds = when.seconds + when.fraction / units;
    u64 rest = when.fraction % units;
    for (; units >> 40; units >>= 1)
        rest >>= 1; /* so that the product fits */
    rest = rest * 1000000 / units;
    u32 header[4] = {(u32)seconds, (u32)rest, length, length};
    (void)!write(fd, header, 16);
    (void)!write(fd, (const u8 *)ctx->data, length);
}

/* What is the same for all packets, but the longest. */
static inline struct rt_xdp context(const struct rt_replay *r)
{
    return (struct rt_xdp){.ingress_ifindex = r->ifindex, .hard_begin = (u64)r->buffer, .hard_end = (u64)r->buffer + ROOM};
}

/* Run the program over one packet. The answer is the file that the packet then belongs in, or -1. */
static inline __attribute__((always_inline)) s32 one(struct rt_replay *r, rt_prog prog, struct rt_env *env, struct rt_xdp *ctx, const u8 *packet, u32 length)
{
    r->packets++;
    r->bytes += length;
    if (__builtin_expect(length < SHORTEST, 0)) {
        r->invalid++;
        return -1;
    }
    if (__builtin_expect(length + HEADROOM + TAILROOM > r->buffer_size, 0)) {
        r->oversize++;
        return -1;
    }
    u8 *data = (u8 *)ctx->hard_begin + HEADROOM;
    if (length <= 64 && packet + 64 <= r->end)
        __builtin_memcpy_inline(data, packet, 64); /* one fixed-size copy is quicker than a call */
    else
        memcpy(data, packet, length);
    ctx->data = ctx->data_meta = (u64)data;
    ctx->data_end = (u64)data + length;
    if (__builtin_expect(HEADROOM + (u64)length > ROOM, 0))
        ctx->hard_end = ctx->data_end;
    u32 verdict = (u32)rt_call(prog, ctx, env);
    if (__builtin_expect(HEADROOM + (u64)length > ROOM, 0))
        ctx->hard_end = ctx->hard_begin + ROOM;
    verdict = verdict < VERDICTS - 1 ? verdict : VERDICTS - 1;
    r->verdicts[verdict]++;
    return r->sinks[verdict];
}

static void classic(struct rt_replay *r, rt_prog prog, struct rt_env *env)
{
    const u8 *at = r->at, *end = r->end;
    struct rt_xdp ctx = context(r);
    u32 swapped = r->swapped;
    while (end - at >= 16) {
        u32 length = word(at + 8, swapped);
        if (length > (u64)(end - at) - 16) {
            r->torn = 1;
            break;
        }
        s32 sink = one(r, prog, env, &ctx, at + 16, length);
        if (__builtin_expect(sink >= 0, 0))
            save(sink, &ctx, (struct stamp){word(at, swapped), word(at + 4, swapped), r->nanoseconds ? 1000000000 : 1000000});
        at += 16 + (u64)length;
        if (r->packets == r->limit)
            break;
    }
    if (at != end && end - at < 16)
        r->torn = 1;
    r->consumed = (u64)(at - r->at);
}

enum { SECTION = 0x0A0D0D0A, INTERFACE = 1, PACKET_OLD = 2, SIMPLE = 3, ENHANCED = 6, INTERFACES = 64, TSRESOL = 9 };

/* How many units of an interface's time make a second: an option of its block, microseconds without it. */
static u64 units_of(const u8 *at, u32 size, u32 swapped)
{
    u32 option = 16;
    while (option + 4 <= size - 4) {
        u32 both = word(at + option, swapped), code = swapped ? both >> 16 : both & 0xFFFF, length = swapped ? both & 0xFFFF : both >> 16;
        if (!code)
            break;
        if (code == TSRESOL && length >= 1 && option + 5 <= size - 4) {
            u8 resolution = at[option + 4];
            u64 units = 1;
            if (resolution & 0x80)
                return 1ull << (resolution & 0x3F);
            for (u32 i = 0; i < resolution && i < 19; i++)
                units *= 10;
            return units;
        }
        option += 4 + ((length + 3) & ~3u);
    }
    return 1000000;
}

static void blocks(struct rt_replay *r, rt_prog prog, struct rt_env *env)
{
    const u8 *at = r->at, *end = r->end;
    u32 swapped = r->swapped, interfaces = 0;
    u64 units[INTERFACES];
    struct rt_xdp ctx = context(r);
    while (end - at >= 12) {
        u32 type = word(at, swapped);
        if (type == SECTION) {
            swapped = word(at + 8, 0) != 0x1A2B3C4D;
            interfaces = 0;
        }
        u32 size = word(at + 4, swapped);
        if (size < 12 || size & 3 || size > (u64)(end - at)) {
            r->torn = 1;
            break;
        }
        if ((type == ENHANCED || type == PACKET_OLD) && size >= 32) {
            u32 length = word(at + 20, swapped);
            if (length > size - 32) {
                r->torn = 1;
                break;
            }
            u64 stamp = (u64)word(at + 12, swapped) << 32 | word(at + 16, swapped);
            u32 number = type == ENHANCED ? word(at + 8, swapped) : 0;
            s32 sink = one(r, prog, env, &ctx, at + 28, length);
            if (__builtin_expect(sink >= 0, 0))
                save(sink, &ctx, (struct stamp){0, stamp, number < interfaces ? units[number] : 1000000});
        } else if (type == SIMPLE && size >= 16) {
            u32 length = word(at + 8, swapped);
            if (length > size - 16)
                length = size - 16;
            s32 sink = one(r, prog, env, &ctx, at + 12, length);
            if (__builtin_expect(sink >= 0, 0))
                save(sink, &ctx, (struct stamp){0, 0, 1});
        } else if (type == INTERFACE && size >= 20 && interfaces < INTERFACES) {
            units[interfaces++] = units_of(at, size, swapped);
        }
        at += size;
        if (r->limit && r->packets == r->limit)
            break;
    }
    if (at != end && end - at < 12)
        r->torn = 1;
    r->consumed = (u64)(at - r->at);
}

RT_API void rt_replay(struct rt_replay *r, rt_prog prog, struct rt_env *env)
{
    struct timespec begin, finish;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    if (r->pcapng)
        blocks(r, prog, env);
    else
        classic(r, prog, env);
    clock_gettime(CLOCK_MONOTONIC, &finish);
    r->elapsed_ns += (u64)(finish.tv_sec - begin.tv_sec) * 1000000000ull + (u64)finish.tv_nsec - (u64)begin.tv_nsec;
}

/* Run a program `repeat` times on one context, or until it is stopped: what a test run does. Returns the last result. */
RT_API u64 rt_run(rt_prog prog, void *ctx, struct rt_env *env, u32 repeat, u64 *elapsed_ns)
{
    struct timespec begin, finish;
    u64 result = 0;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (u32 i = 0; i < repeat && !rt_stopped(env); i++)
        result = rt_call(prog, ctx, env);
    clock_gettime(CLOCK_MONOTONIC, &finish);
    *elapsed_ns = (u64)(finish.tv_sec - begin.tv_sec) * 1000000000ull + (u64)finish.tv_nsec - (u64)begin.tv_nsec;
    return result;
}
