/* XDP programs on the packets of a live interface: a loop between two packet sockets, or beside one. */
#include "rt.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { WIRE_BATCH = 64, WIRE_ROOM = 4096, WIRE_HEAD = 256, WIRE_TAIL = 320, WIRE_SHORTEST = 14 };
enum { WIRE_PASS = 2, WIRE_TX = 3 };

/* A direction of a wire. Frames that `in` receives go to the program (none: they pass); those that pass go out at `out`,
 * those that are sent back at `in`. With out = -1 the program only looks on: the packets reach the interface anyhow. */
struct rt_wire {
    s32 in, out;
    s32 wake; /* readable when there is something to be told */
    u32 ifindex;
    u32 stop, ended;
    u32 lock; /* held while programs run */
    u32 spare;
    rt_prog prog;
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

/* Serve until told to stop, or the interface is gone. */
RT_API void rt_wire_loop(struct rt_wire *w, struct rt_env *env)
{
    struct wire_batch *in = calloc(3, sizeof *in), *out = in + 1, *back = in + 2;
    u8 *room = aligned_alloc(64, (size_t)WIRE_BATCH * WIRE_ROOM);
    while (in && room && !__atomic_load_n(&w->stop, __ATOMIC_ACQUIRE)) {
        struct pollfd ready[2] = {{w->in, POLLIN, 0}, {w->wake, POLLIN, 0}};
        if (poll(ready, 2, -1) < 0 && errno != EINTR)
            break;
        if (ready[0].revents & (POLLERR | POLLHUP | POLLNVAL)) {
            int error = 0;
            socklen_t size = sizeof error;
            if (getsockopt(w->in, SOL_SOCKET, SO_ERROR, &error, &size) || (error && error != ENETDOWN))
                break;
            if (ready[0].revents & POLLNVAL)
                break;
            if (error == ENETDOWN)
                usleep(1000);
        }
        if (!(ready[0].revents & POLLIN))
            continue;
        for (u32 i = 0; i < WIRE_BATCH; i++) {
            in->piece[i] = (struct iovec){room + i * WIRE_ROOM + WIRE_HEAD, WIRE_ROOM - WIRE_HEAD - WIRE_TAIL};
            memset(&in->message[i], 0, sizeof in->message[i]);
            in->message[i].msg_hdr.msg_iov = &in->piece[i];
            in->message[i].msg_hdr.msg_iovlen = 1;
        }
        int got = recvmmsg(w->in, in->message, WIRE_BATCH, MSG_DONTWAIT | MSG_TRUNC, NULL);
        if (got <= 0)
            continue;
        rt_lock(&w->lock);
        rt_prog prog = w->prog;
        for (int i = 0; i < got; i++) {
            u8 *buffer = room + i * WIRE_ROOM, *data = buffer + WIRE_HEAD;
            u64 length = in->message[i].msg_len;
            w->packets++;
            w->bytes += length;
            if (length > WIRE_ROOM - WIRE_HEAD - WIRE_TAIL) {
                w->lost++;
                continue;
            }
            u32 verdict = WIRE_PASS;
            struct rt_xdp ctx = {(u64)data, (u64)data + length, (u64)data, w->ifindex, 0, 0, 0, (u64)buffer,
                                 (u64)buffer + WIRE_ROOM - WIRE_TAIL};
            if (prog && length >= WIRE_SHORTEST)
                verdict = (u32)rt_call(prog, &ctx, env);
            if (verdict == WIRE_PASS) {
                w->passed++;
                if (w->out >= 0)
                    wire_put(out, ctx.data, ctx.data_end);
            } else if (verdict == WIRE_TX && w->out >= 0) {
                w->sent_back++;
                wire_put(back, ctx.data, ctx.data_end);
            } else if (verdict <= 1) {
                w->dropped++;
            } else {
                w->refused++;
            }
        }
        rt_unlock(&w->lock);
        wire_send(w, out, w->out);
        wire_send(w, back, w->in);
    }
    free(room);
    free(in);
    __atomic_store_n(&w->ended, 1, __ATOMIC_RELEASE);
}

/* Change the program; the one before is not running any more when this returns. */
RT_API void rt_wire_set(struct rt_wire *w, rt_prog prog)
{
    rt_lock(&w->lock);
    w->prog = prog;
    rt_unlock(&w->lock);
}
