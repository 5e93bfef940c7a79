/* Dynptrs: pieces of memory whose length is known at run time. On the stack they are 16 bytes, laid out as Linux does. */
#include "rt.h"

#include <errno.h>
#include <string.h>

#define HELPER(name) RT_API u64 rt_helper_##name(u64 a, u64 b, u64 c, u64 d, u64 e, struct rt_env *env)

struct dynptr {
    u8 *data; /* NULL: it is none */
    u32 size; /* the low 24 bits; above them its kind, and whether it is read-only */
    u32 offset;
};
enum { DYNPTR_LARGEST = 0xFFFFFF, DYNPTR_LOCAL = 1 << 28, DYNPTR_RING = 2 << 28 };
#define DYNPTR_READ_ONLY 0x80000000u

/* Where `size` bytes at `offset` are, or NULL if they reach past the end. */
static u8 *dynptr_at(const struct dynptr *p, u32 offset, u32 size)
{
    u32 whole = p->size & DYNPTR_LARGEST;
    return size > whole || offset > whole - size ? NULL : p->data + p->offset + offset;
}

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
    u8 *from = dynptr_at(p, (u32)d, (u32)b);
    if (!from)
        return (u64)-E2BIG;
    memmove((void *)a, from, (u32)b);
    return 0;
}

HELPER(dynptr_write)
{
    (void)env;
    const struct dynptr *p = (void *)a;
    if (!p->data || p->size & DYNPTR_READ_ONLY)
        return (u64)-EINVAL;
    u8 *to = dynptr_at(p, (u32)b, (u32)d);
    if (!to)
        return (u64)-E2BIG;
    if (e)
        return (u64)-EINVAL;
    memmove(to, (void *)c, (u32)d);
    return 0;
}

HELPER(dynptr_data)
{
    (void)d, (void)e, (void)env;
    const struct dynptr *p = (void *)a;
    return !p->data || p->size & DYNPTR_READ_ONLY ? 0 : (u64)dynptr_at(p, (u32)b, (u32)c);
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
