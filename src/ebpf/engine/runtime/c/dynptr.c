/* Dynptrs: pieces of memory whose length is known at run time. On the stack they are 16 bytes, laid out as Linux does. */
#include "rt.h"

#include <errno.h>
#include <string.h>

#define HELPER(name) RT_API u64 rt_helper_##name(u64 a, u64 b, u64 c, u64 d, u64 e, struct rt_env *env)

struct dynptr {
    u8 *data; /* a packet's context, if it is of a packet; NULL: it is none */
    u32 size; /* the low 24 bits; above them its kind, and whether it is read-only */
    u32 offset;
};
enum { DYNPTR_LARGEST = 0xFFFFFF, DYNPTR_LOCAL = 1 << 28, DYNPTR_RING = 2 << 28, DYNPTR_SKB = 3 << 28, DYNPTR_XDP = 4 << 28, DYNPTR_KIND = 7 << 28 };
#define DYNPTR_READ_ONLY 0x80000000u

static int dynptr_has(const struct dynptr *p, u32 offset, u32 size)
{
    u32 whole = p->size & DYNPTR_LARGEST;
    return size <= whole && offset <= whole - size;
}

/* Where `size` bytes at `offset` are, or NULL if they reach past the end: the dynptr's, or by now the packet's. */
static u8 *dynptr_at(const struct dynptr *p, u32 offset, u32 size)
{
    u64 begin, end;
    if (!dynptr_has(p, offset, size))
        return NULL;
    if ((p->size & DYNPTR_KIND) == DYNPTR_SKB) {
        begin = ((struct rt_skb *)p->data)->data;
        end = ((struct rt_skb *)p->data)->data_end;
    } else if ((p->size & DYNPTR_KIND) == DYNPTR_XDP) {
        begin = ((struct rt_xdp *)p->data)->data;
        end = ((struct rt_xdp *)p->data)->data_end;
    } else {
        return p->data + p->offset + offset;
    }
    begin += p->offset + (u64)offset;
    return begin + size <= end ? (u8 *)begin : NULL;
}

static int of_packet(const struct dynptr *p) { return (p->size & DYNPTR_KIND) >= DYNPTR_SKB; }
/* What is answered where the packet has become too short. */
static s64 too_short(const struct dynptr *p) { return (p->size & DYNPTR_KIND) == DYNPTR_SKB ? -EFAULT : -EINVAL; }

HELPER(dynptr_from_mem)
{
    (void)e, (void)env;
    struct dynptr *p = (void *)d;
    s64 result = (u32)b > DYNPTR_LARGEST ? -E2BIG : c ? -EINVAL : 0;
    *p = (struct dynptr){result ? NULL : (u8 *)a, result ? 0 : (u32)b | DYNPTR_LOCAL, 0};
    return (u64)result;
}

HELPER(dynptr_read)
{
    (void)env;
    const struct dynptr *p = (void *)c;
    if (!p->data || e)
        return (u64)-EINVAL;
    if (!dynptr_has(p, (u32)d, (u32)b))
        return (u64)-E2BIG;
    u8 *from = dynptr_at(p, (u32)d, (u32)b);
    if (!from)
        return (u64)too_short(p);
    memmove((void *)a, from, (u32)b);
    return 0;
}

u64 rt_helper_skb_store_bytes(u64, u64, u64, u64, u64, struct rt_env *);

HELPER(dynptr_write)
{
    const struct dynptr *p = (void *)a;
    if (!p->data || p->size & DYNPTR_READ_ONLY)
        return (u64)-EINVAL;
    if (!dynptr_has(p, (u32)b, (u32)d))
        return (u64)-E2BIG;
    if ((p->size & DYNPTR_KIND) == DYNPTR_SKB)
        return rt_helper_skb_store_bytes((u64)p->data, p->offset + (u32)b, c, d, e, env);
    if (e)
        return (u64)-EINVAL;
    u8 *to = dynptr_at(p, (u32)b, (u32)d);
    if (!to)
        return (u64)too_short(p);
    memmove(to, (void *)c, (u32)d);
    return 0;
}

HELPER(dynptr_data)
{
    (void)d, (void)e, (void)env;
    const struct dynptr *p = (void *)a;
    return !p->data || p->size & DYNPTR_READ_ONLY || of_packet(p) ? 0 : (u64)dynptr_at(p, (u32)b, (u32)c);
}

u64 rt_helper_ringbuf_reserve(u64, u64, u64, u64, u64, struct rt_env *);
u64 rt_helper_ringbuf_submit(u64, u64, u64, u64, u64, struct rt_env *);
u64 rt_helper_ringbuf_discard(u64, u64, u64, u64, u64, struct rt_env *);

HELPER(ringbuf_reserve_dynptr)
{
    (void)e;
    struct dynptr *p = (void *)d;
    *p = (struct dynptr){0};
    if (c)
        return (u64)-EINVAL;
    if ((u32)b > DYNPTR_LARGEST)
        return (u64)-E2BIG;
    u8 *record = (u8 *)rt_helper_ringbuf_reserve(a, (u32)b, 0, 0, 0, env);
    if (!record)
        return (u64)-EINVAL;
    *p = (struct dynptr){record, (u32)b | DYNPTR_RING, 0};
    return 0;
}

/* One whose record was never reserved is given back all the same. */
HELPER(ringbuf_submit_dynptr)
{
    (void)c, (void)d, (void)e;
    struct dynptr *p = (void *)a;
    if (p->data)
        rt_helper_ringbuf_submit((u64)p->data, b, 0, 0, 0, env);
    *p = (struct dynptr){0};
    return 0;
}
HELPER(ringbuf_discard_dynptr)
{
    (void)c, (void)d, (void)e;
    struct dynptr *p = (void *)a;
    if (p->data)
        rt_helper_ringbuf_discard((u64)p->data, b, 0, 0, 0, env);
    *p = (struct dynptr){0};
    return 0;
}

/* -- kernel functions */

#define KFUNC(name) RT_API u64 rt_kfunc_##name(u64 a, u64 b, u64 c, u64 d, u64 e, struct rt_env *env)
#define UNUSED (void)a, (void)b, (void)c, (void)d, (void)e, (void)env

static u64 of_context(u64 context, u64 length, u64 flags, u64 to, u32 kind)
{
    struct dynptr *p = (void *)to;
    *p = flags ? (struct dynptr){0} : (struct dynptr){(u8 *)context, (u32)length | kind, 0};
    return flags ? (u64)-EINVAL : 0;
}

KFUNC(dynptr_from_xdp)
{
    UNUSED;
    const struct rt_xdp *x = (void *)a;
    return of_context(a, x->data_end - x->data, b, c, DYNPTR_XDP);
}
KFUNC(dynptr_from_skb)
{
    UNUSED;
    const struct rt_skb *skb = (void *)a;
    return of_context(a, skb->data_end - skb->data, b, c, DYNPTR_SKB);
}
/* For programs that must not write to packets. */
RT_API u64 rt_reading_dynptr_from_skb(u64 a, u64 b, u64 c, u64 d, u64 e, struct rt_env *env)
{
    UNUSED;
    const struct rt_skb *skb = (void *)a;
    return of_context(a, skb->data_end - skb->data, b, c, DYNPTR_SKB | DYNPTR_READ_ONLY);
}

KFUNC(dynptr_slice)
{
    UNUSED;
    const struct dynptr *p = (void *)a;
    return p->data ? (u64)dynptr_at(p, (u32)b, (u32)d) : 0;
}
KFUNC(dynptr_slice_rdwr)
{
    UNUSED;
    const struct dynptr *p = (void *)a;
    return p->data && !(p->size & DYNPTR_READ_ONLY) ? (u64)dynptr_at(p, (u32)b, (u32)d) : 0;
}

KFUNC(dynptr_adjust)
{
    UNUSED;
    struct dynptr *p = (void *)a;
    u32 start = (u32)b, end = (u32)c, size = p->size & DYNPTR_LARGEST;
    if (!p->data || start > end)
        return (u64)-EINVAL;
    if (start > size || end > size)
        return (u64)-ERANGE;
    p->offset += start;
    p->size = (p->size & ~(u32)DYNPTR_LARGEST) | (end - start);
    return 0;
}

KFUNC(dynptr_is_null) { UNUSED; return !((struct dynptr *)a)->data; }
KFUNC(dynptr_is_rdonly) { UNUSED; return ((struct dynptr *)a)->data && ((struct dynptr *)a)->size & DYNPTR_READ_ONLY; }
KFUNC(dynptr_size)
{
    UNUSED;
    const struct dynptr *p = (void *)a;
    return p->data ? p->size & DYNPTR_LARGEST : (u32)-EINVAL;
}
KFUNC(dynptr_clone)
{
    UNUSED;
    const struct dynptr *p = (void *)a;
    *(struct dynptr *)b = p->data ? *p : (struct dynptr){0};
    return p->data ? 0 : (u64)-EINVAL;
}

KFUNC(dynptr_copy)
{
    UNUSED;
    const struct dynptr *to = (void *)a, *from = (void *)c;
    u8 *source = (u8 *)rt_kfunc_dynptr_slice(c, d, 0, e, 0, env), *target = (u8 *)rt_kfunc_dynptr_slice_rdwr(a, b, 0, e, 0, env);
    if (source && target) {
        memmove(target, source, (u32)e);
        return 0;
    }
    if (source)
        return rt_helper_dynptr_write(a, b, (u64)source, (u32)e, 0, env);
    if (target)
        return rt_helper_dynptr_read((u64)target, (u32)e, c, d, 0, env);
    return !dynptr_has(to, (u32)b, (u32)e) || !dynptr_has(from, (u32)d, (u32)e) ? (u64)-E2BIG : (u64)-EINVAL;
}

KFUNC(dynptr_memset)
{
    UNUSED;
    const struct dynptr *p = (void *)a;
    u8 *target = (u8 *)rt_kfunc_dynptr_slice_rdwr(a, b, 0, c, 0, env);
    if (target)
        memset(target, (int)(u8)d, (u32)c);
    if (target)
        return 0;
    return p->size & DYNPTR_READ_ONLY || dynptr_has(p, (u32)b, (u32)c) ? (u64)-EINVAL : (u64)-E2BIG;
}
