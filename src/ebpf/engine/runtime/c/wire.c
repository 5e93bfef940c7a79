/* XDP programs on the packets of a live interface: a loop between two packet sockets, or beside one. */
#include "rt.h"

#include <errno.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { WIRE_BATCH = 64, WIRE_BLOCK = 1 << 17, WIRE_ROOM = 1 << 12, WIRE_HEAD = 256, WIRE_TAIL = 320, WIRE_SHORTEST = 14 };
/* What does not fit into a frame of the ring, on a loopback with its 64 KiB, is fetched by itself. */
enum { WIRE_LONGEST = 1 << 17 };
enum { WIRE_PASS = 2, WIRE_TX = 3, WIRE_REDIRECT = 4, WIRE_REFUSED = 5 };
enum { WIRE_DROP = 1 };
/* What programs of tcx answer; all else lets the next one say. */
enum { TCX_PASS = 0, TCX_DROP = 2, TCX_REDIRECT = 7, TCX_INGRESS = 1 };
enum { WIRE_CHAIN = 64, SIDE_IN = 0, SIDE_OUT = 1 };
enum { WIRE_TAG = 4, ETHERTYPE = 12, OLDEST_ETHERTYPE = 0x600, IEEE_802_3 = 1, IEEE_802_2 = 4 };
/* How often an empty ring is looked at before the thread sleeps (some 30 us): who sends to a sleeper pays for waking it, each time. */
enum { WIRE_LOOKS = 1000 };

/* The filters of one side of an interface, in order. */
struct rt_wire_chain {
    u64 count;
    rt_prog prog[WIRE_CHAIN];
};

/* A direction of a wire. Frames that `in` receives go to the program (none: they pass); those that pass go out at `out`,
 * those that are sent back at `in`. With out = -1 the program only looks on: the packets reach the interface anyhow.
 * The kernel writes them into a ring of frames that both see. */
struct rt_wire {
    s32 in, out;
    s32 wake; /* readable when there is something to be told */
    u32 ifindex;
    u32 stop, ended;
    u32 lock; /* held while programs run */
    u32 frames;
    u8 *ring, *longest;
    rt_prog prog;
    struct rt_wire_chain chain[2]; /* what comes in at the interface, what goes out of it */
    u8 mac[6];                     /* the interface's own */
    u8 outward;                    /* these are frames that the interface sends */
    u8 both;                       /* what comes in here went out here, as on the loopback */
    u64 packets, bytes, passed, dropped, sent_back, refused, lost;
};

struct wire_batch {
    struct mmsghdr message[WIRE_BATCH];
    struct iovec piece[WIRE_BATCH];
    u32 count;
};

static void wire_send(struct rt_wire *w, struct wire_batch *b, s32 fd)
{
    u32 done = 0;
    while (done < b->count) {
        int sent = sendmmsg(fd, b->message + done, b->count - done, 0);
        if (sent > 0) {
            done += (u32)sent;
            continue;
        }
        if (errno == EINTR)
            continue;
        if (errno == ENOBUFS || errno == EAGAIN) {
            /* The other side's queue is full: a wire loses packets then. */
            w->lost++;
            done++;
            continue;
        }
        w->lost += b->count - done;
        break;
    }
    b->count = 0;
}

static void wire_put(struct wire_batch *b, u64 begin, u64 end)
{
    u32 i = b->count++;
    b->piece[i] = (struct iovec){(void *)begin, end - begin};
    memset(&b->message[i], 0, sizeof b->message[i]);
    b->message[i].msg_hdr.msg_iov = &b->piece[i];
    b->message[i].msg_hdr.msg_iovlen = 1;
}

/* Have `in` receive into a ring of `blocks` blocks. Returns 0 or -errno. */
RT_API s64 rt_wire_open(struct rt_wire *w, u32 blocks)
{
    int version = TPACKET_V2, reserve = WIRE_HEAD, copy = WIRE_ROOM;
    w->frames = blocks * (WIRE_BLOCK / WIRE_ROOM);
    struct tpacket_req ring = {WIRE_BLOCK, blocks, WIRE_ROOM, w->frames};
    if (setsockopt(w->in, SOL_PACKET, PACKET_VERSION, &version, sizeof version) ||
        setsockopt(w->in, SOL_PACKET, PACKET_RESERVE, &reserve, sizeof reserve) ||
        setsockopt(w->in, SOL_PACKET, PACKET_COPY_THRESH, &copy, sizeof copy) ||
        setsockopt(w->in, SOL_PACKET, PACKET_RX_RING, &ring, sizeof ring))
        return -errno;
    void *at = mmap(NULL, (size_t)blocks * WIRE_BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED, w->in, 0);
    if (at == MAP_FAILED)
        return -errno;
    w->ring = at;
    w->longest = malloc(WIRE_LONGEST);
    return w->longest ? 0 : -ENOMEM;
}

/* Let go of the ring, after the loop has ended. */
RT_API void rt_wire_close(struct rt_wire *w)
{
    if (w->ring)
        munmap(w->ring, (size_t)w->frames * WIRE_ROOM);
    free(w->longest);
    w->ring = w->longest = NULL;
}

static struct tpacket2_hdr *wire_frame(struct rt_wire *w, u32 i)
{
    return (struct tpacket2_hdr *)(w->ring + (u64)(i % w->frames) * WIRE_ROOM);
}

/* How many frames have come from `first` on, at most a batch. */
static u32 wire_ready(struct rt_wire *w, u32 first)
{
    u32 n = 0;
    while (n < WIRE_BATCH && __atomic_load_n(&wire_frame(w, first + n)->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER)
        n++;
    return n;
}

/* Sleep until there is something to do; false when the interface is gone. */
static int wire_sleep(struct rt_wire *w)
{
    struct pollfd ready[2] = {{w->in, POLLIN, 0}, {w->wake, POLLIN, 0}};
    if (poll(ready, 2, -1) < 0)
        return errno == EINTR;
    if (ready[0].revents & POLLNVAL)
        return 0;
    if (ready[0].revents & (POLLERR | POLLHUP)) {
        int error = 0;
        socklen_t size = sizeof error;
        if (getsockopt(w->in, SOL_SOCKET, SO_ERROR, &error, &size) || (error && error != ENETDOWN && error != ENOBUFS))
            return 0;
        if (error == ENETDOWN)
            usleep(1000);
    }
    return 1;
}

/* `protocol` of a frame: its EtherType in the network's order, or which of the older framings it has. */
static u32 wire_protocol(const u8 *frame)
{
    u32 number = (u32)frame[ETHERTYPE] << 8 | frame[ETHERTYPE + 1];
    if (number < OLDEST_ETHERTYPE)
        number = frame[WIRE_SHORTEST] == 0xFF && frame[WIRE_SHORTEST + 1] == 0xFF ? IEEE_802_3 : IEEE_802_2;
    return (number & 0xFF) << 8 | number >> 8;
}

/* `pkt_type` of a frame that came: to this host, to all, to several, to another one. */
static u32 wire_addressee(const struct rt_wire *w, const u8 *frame)
{
    static const u8 all[6] = {0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF};
    if (frame[0] & 1)
        return memcmp(frame, all, sizeof all) ? 2 : 1;
    return memcmp(frame, w->mac, sizeof w->mac) ? 3 : 0;
}

/* Where a redirected frame goes: out of the interface (1), in at it (0), or where we cannot bring it (-1). */
static int wire_target(const struct rt_wire *w, const struct rt_env *env)
{
    return env->to_ifindex != w->ifindex ? -1 : env->to_flags & TCX_INGRESS ? 0 : 1;
}

/* Have the filters of a side judge a frame: WIRE_PASS, _DROP, _REDIRECT or _REFUSED. `ctx` says where it is, then and now. */
static u32 wire_filter(struct rt_wire *w, u32 side, struct rt_xdp *ctx, struct rt_env *env)
{
    const struct rt_wire_chain *chain = &w->chain[side];
    const u8 *frame = (const u8 *)ctx->data;
    if (!chain->count || ctx->data_end - ctx->data < WIRE_SHORTEST)
        return WIRE_PASS;
    struct rt_skb skb = {.len = (u32)(ctx->data_end - ctx->data), .ifindex = w->ifindex};
    skb.protocol = wire_protocol(frame);
    skb.wire_len = skb.len;
    if (side == SIDE_IN) {
        skb.pkt_type = wire_addressee(w, frame);
        skb.ingress_ifindex = w->ifindex;
    }
    skb.data = skb.link_header = ctx->data;
    skb.data_meta = ctx->data_meta;
    skb.data_end = ctx->data_end;
    skb.network_header = ctx->data + WIRE_SHORTEST;
    skb.hard_begin = ctx->hard_begin;
    skb.hard_end = ctx->hard_end;
    u32 verdict = WIRE_PASS;
    for (u32 i = 0; i < chain->count; i++) {
        s32 answer = (s32)rt_call(chain->prog[i], &skb, env);
        if (answer != TCX_PASS && answer != TCX_DROP && answer != TCX_REDIRECT)
            continue;
        verdict = answer == TCX_PASS ? WIRE_PASS : answer == TCX_DROP ? WIRE_DROP : WIRE_REDIRECT;
        break;
    }
    if (skb.vlan[0] && skb.data - skb.hard_begin >= WIRE_TAG) {
        /* On a wire a frame has its tag in it. */
        u8 *to = (u8 *)(skb.data -= WIRE_TAG);
        u8 tag[WIRE_TAG] = {(u8)skb.vlan[2], (u8)(skb.vlan[2] >> 8), (u8)(skb.vlan[1] >> 8), (u8)skb.vlan[1]};
        memmove(to, to + WIRE_TAG, ETHERTYPE);
        memcpy(to + ETHERTYPE, tag, WIRE_TAG);
    }
    ctx->data = skb.data;
    ctx->data_end = skb.data_end;
    return verdict;
}

/* What becomes of a frame: WIRE_PASS (on its way), WIRE_TX (back to where it came from), WIRE_DROP, WIRE_REFUSED. */
static u32 wire_judge(struct rt_wire *w, struct rt_xdp *ctx, struct rt_env *env)
{
    u32 verdict = WIRE_PASS;
    if (w->outward) {
        verdict = wire_filter(w, SIDE_OUT, ctx, env);
        if (verdict != WIRE_REDIRECT)
            return verdict;
        /* Out of the same interface it would come here for ever: Linux gives up too. */
        return wire_target(w, env) == 0 ? WIRE_TX : WIRE_REFUSED;
    }
    if (w->both) {
        verdict = wire_filter(w, SIDE_OUT, ctx, env);
        if (verdict != WIRE_PASS)
            return verdict == WIRE_DROP ? WIRE_DROP : WIRE_REFUSED;
    }
    if (w->prog && ctx->data_end - ctx->data >= WIRE_SHORTEST)
        verdict = (u32)rt_call(w->prog, ctx, env);
    if (verdict == WIRE_REDIRECT)
        return wire_target(w, env) == 1 ? WIRE_TX : WIRE_REFUSED;
    if (verdict != WIRE_PASS)
        return verdict <= WIRE_DROP ? WIRE_DROP : verdict == WIRE_TX ? WIRE_TX : WIRE_REFUSED;
    verdict = wire_filter(w, SIDE_IN, ctx, env);
    if (verdict != WIRE_REDIRECT)
        return verdict;
    if (wire_target(w, env) != 1)
        return WIRE_REFUSED;
    verdict = wire_filter(w, SIDE_OUT, ctx, env);
    return verdict == WIRE_PASS ? WIRE_TX : verdict == WIRE_DROP ? WIRE_DROP : WIRE_REFUSED;
}

/* Serve until told to stop, or the interface is gone. */
RT_API void rt_wire_loop(struct rt_wire *w, struct rt_env *env)
{
    struct wire_batch *out = calloc(2, sizeof *out), *back = out + 1;
    u32 first = 0, looks = 0;
    while (out && !__atomic_load_n(&w->stop, __ATOMIC_ACQUIRE)) {
        u32 got = wire_ready(w, first);
        if (!got) {
            if (looks) {
                looks--;
                rt_pause();
            } else if (!wire_sleep(w)) {
                break;
            }
            continue;
        }
        looks = WIRE_LOOKS;
        rt_lock(&w->lock);
        for (u32 i = 0; i < got; i++) {
            struct tpacket2_hdr *head = wire_frame(w, first + i);
            u8 *data = (u8 *)head + head->tp_mac, *end = (u8 *)head + WIRE_ROOM - WIRE_TAIL;
            u64 length = head->tp_len;
            w->packets++;
            w->bytes += length;
            if (head->tp_status & TP_STATUS_COPY) {
                data = w->longest + WIRE_HEAD;
                end = w->longest + WIRE_LONGEST - WIRE_TAIL;
                ssize_t size = recv(w->in, data, (size_t)(end - data), MSG_DONTWAIT | MSG_TRUNC);
                length = size < 0 ? ~0ull : (u64)size;
                /* There is room for one of them. */
                got = i + 1;
            } else if (length > head->tp_snaplen) {
                length = ~0ull;
            }
            if (length > (u64)(end - data)) {
                w->lost++;
                continue;
            }
            struct rt_xdp ctx = {(u64)data, (u64)data + length, (u64)data, w->ifindex, 0, 0, 0, (u64)data - WIRE_HEAD, (u64)end};
            u32 verdict = wire_judge(w, &ctx, env);
            if (verdict == WIRE_PASS) {
                w->passed++;
                if (w->out >= 0)
                    wire_put(out, ctx.data, ctx.data_end);
            } else if (verdict == WIRE_TX && w->out >= 0) {
                w->sent_back++;
                wire_put(back, ctx.data, ctx.data_end);
            } else if (verdict == WIRE_DROP) {
                w->dropped++;
            } else {
                w->refused++;
            }
        }
        rt_unlock(&w->lock);
        wire_send(w, out, w->out);
        wire_send(w, back, w->in);
        for (u32 i = 0; i < got; i++)
            __atomic_store_n(&wire_frame(w, first + i)->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
        first = (first + got) % w->frames;
    }
    free(out);
    __atomic_store_n(&w->ended, 1, __ATOMIC_RELEASE);
}

/* Change the program; the one before is not running any more when this returns. */
RT_API void rt_wire_set(struct rt_wire *w, rt_prog prog)
{
    rt_lock(&w->lock);
    w->prog = prog;
    rt_unlock(&w->lock);
}

/* Change the filters of a side: `count` entries. Those that went are not running any more when this returns. */
RT_API void rt_wire_chain(struct rt_wire *w, u32 side, const rt_prog *progs, u32 count)
{
    rt_lock(&w->lock);
    if (count)
        memcpy(w->chain[side].prog, progs, count * sizeof *progs);
    w->chain[side].count = count;
    rt_unlock(&w->lock);
}
