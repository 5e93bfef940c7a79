/* Programs on the loopback's packets, inline: the kernel holds each packet back (NFQUEUE) until we say what becomes of it. */
#include "rt.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <linux/netlink.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { QUEUE_FIELDS = NFQA_PAYLOAD + 1, QUEUE_HEAD = NLMSG_HDRLEN + NLMSG_ALIGN(sizeof(struct nfgenmsg)) };

struct queue_field {
    const u8 *data;
    u64 size;
};

/* The attributes of a message, by kind. */
static void queue_fields(const u8 *at, const u8 *end, struct queue_field *out)
{
    memset(out, 0, QUEUE_FIELDS * sizeof *out);
    while (at + NLA_HDRLEN <= end) {
        struct nlattr head;
        memcpy(&head, at, sizeof head);
        u32 kind = head.nla_type & NLA_TYPE_MASK;
        if (head.nla_len < NLA_HDRLEN || at + head.nla_len > end)
            return;
        if (kind < QUEUE_FIELDS)
            out[kind] = (struct queue_field){at + NLA_HDRLEN, head.nla_len - NLA_HDRLEN};
        at += NLA_ALIGN(head.nla_len);
    }
}

/* Say what becomes of a packet; `size` bytes at `data` in the place of what it was, unless `data` is NULL. */
static void queue_answer(struct rt_wire *w, u32 queue, u32 id, u32 verdict, const u8 *data, u64 size)
{
    struct {
        struct nlmsghdr message;
        struct nfgenmsg family;
        struct nlattr head;
        struct nfqnl_msg_verdict_hdr verdict;
        struct nlattr payload;
    } out = {.message = {.nlmsg_type = NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_VERDICT, .nlmsg_flags = NLM_F_REQUEST}};
    out.family = (struct nfgenmsg){.nfgen_family = 0, .version = NFNETLINK_V0, .res_id = htons((u16)queue)};
    out.head = (struct nlattr){.nla_len = NLA_HDRLEN + sizeof out.verdict, .nla_type = NFQA_VERDICT_HDR};
    out.verdict = (struct nfqnl_msg_verdict_hdr){.verdict = htonl(verdict), .id = id};
    out.payload = (struct nlattr){.nla_len = (u16)(NLA_HDRLEN + size), .nla_type = NFQA_PAYLOAD};
    struct iovec pieces[2] = {{&out, data ? sizeof out : sizeof out - sizeof out.payload}, {(void *)data, data ? size : 0}};
    out.message.nlmsg_len = (u32)(pieces[0].iov_len + pieces[1].iov_len);
    while (writev(w->in, pieces, data ? 2 : 1) < 0 && errno == EINTR)
        ;
}

/* One packet. It comes without its link's header, which on the loopback says nothing but the protocol. */
static void queue_packet(struct rt_wire *w, u32 queue, const u8 *message, u64 size, struct rt_env *env)
{
    struct queue_field field[QUEUE_FIELDS];
    struct nfqnl_msg_packet_hdr head;
    queue_fields(message + QUEUE_HEAD, message + size, field);
    if (field[NFQA_PACKET_HDR].size < sizeof head)
        return;
    memcpy(&head, field[NFQA_PACKET_HDR].data, sizeof head);
    const struct queue_field payload = field[NFQA_PAYLOAD];
    w->packets++;
    w->bytes += payload.size + WIRE_SHORTEST;
    u8 *frame = w->longest + WIRE_HEAD, *end = w->longest + WIRE_LONGEST - WIRE_TAIL;
    if (!payload.data || payload.size + WIRE_SHORTEST > (u64)(end - frame)) {
        w->lost++;
        queue_answer(w, queue, head.packet_id, NF_ACCEPT, NULL, 0);
        return;
    }
    memset(frame, 0, ETHERTYPE);
    memcpy(frame + ETHERTYPE, &head.hw_protocol, 2);
    memcpy(frame + WIRE_SHORTEST, payload.data, payload.size);
    struct rt_xdp ctx = {
        (u64)frame, (u64)frame + WIRE_SHORTEST + payload.size, (u64)frame, w->ifindex, 0, 0, 0, (u64)frame - WIRE_HEAD, (u64)end};
    u32 verdict = wire_judge(w, &ctx, env);
    u64 length = ctx.data_end - ctx.data;
    if (verdict == WIRE_PASS && length > WIRE_SHORTEST) {
        const u8 *now = (const u8 *)ctx.data + WIRE_SHORTEST;
        int same = length - WIRE_SHORTEST == payload.size && !memcmp(now, payload.data, payload.size);
        w->passed++;
        queue_answer(w, queue, head.packet_id, NF_ACCEPT, same ? NULL : now, length - WIRE_SHORTEST);
        return;
    }
    queue_answer(w, queue, head.packet_id, NF_DROP, NULL, 0);
    if (verdict == WIRE_TX && w->out >= 0) {
        w->sent_back++;
        if (send(w->out, (const void *)ctx.data, length, MSG_DONTWAIT) < 0)
            w->lost++;
    } else if (verdict == WIRE_DROP) {
        w->dropped++;
    } else {
        w->refused++;
    }
}

/* Serve the queue that `in` is bound to until told to stop. `longest` is this loop's: see rt_queue_open. */
RT_API void rt_queue_loop(struct rt_wire *w, struct rt_env *env, u32 queue)
{
    u8 *message = malloc(WIRE_LONGEST);
    while (message) {
        ssize_t got = recv(w->in, message, WIRE_LONGEST, MSG_DONTWAIT);
        if (got < 0) {
            /* Whoever has us stop has let no more come: what is here already is judged. */
            if (errno == ENOBUFS)
                w->lost++;
            else if (__atomic_load_n(&w->stop, __ATOMIC_ACQUIRE) || !wire_sleep(w))
                break;
            continue;
        }
        rt_lock(&w->lock);
        for (u64 at = 0; at + NLMSG_HDRLEN <= (u64)got;) {
            struct nlmsghdr head;
            memcpy(&head, message + at, sizeof head);
            if (head.nlmsg_len < NLMSG_HDRLEN || at + head.nlmsg_len > (u64)got)
                break;
            if (head.nlmsg_type == (NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET))
                queue_packet(w, queue, message + at, head.nlmsg_len, env);
            at += NLMSG_ALIGN(head.nlmsg_len);
        }
        rt_unlock(&w->lock);
    }
    free(message);
    __atomic_store_n(&w->ended, 1, __ATOMIC_RELEASE);
}

/* Make room for a packet. Returns 0 or -errno; rt_wire_close lets go of it. */
RT_API s64 rt_queue_open(struct rt_wire *w)
{
    w->longest = malloc(WIRE_LONGEST);
    return w->longest ? 0 : -ENOMEM;
}
