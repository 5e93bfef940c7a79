/* A program as a function of Python: a packet's bytes in, the verdict out. What of Python is needed is told by address. */
#include "rt.h"

#include <string.h>

enum { HEAD = 256, TAIL = 320, LEAST = 14 };

/* `prog` is NULL when the program is gone. Python's lock is held during a run, so that one buffer does for all threads. */
struct rt_caller {
    rt_prog prog;
    struct rt_env *env;
    u8 *buffer;
    u64 buffer_size;
    int (*bytes)(void *object, char **data, s64 *size);
    void *(*number)(u64 value);
    void (*fail)(void *type, const char *text);
    void *error;
    u32 ifindex, forks; /* forks: as it was when this was made */
};

static void *(*pointer_of)(void *number);

/* Tell how Python reads numbers; the answer is for `forks`. */
RT_API u32 rt_python(void *as_pointer)
{
    pointer_of = (void *(*)(void *))as_pointer;
    return rt_forks;
}

/* `self` is a number: where the caller lies. */
RT_API void *rt_call_packet(void *self, void *argument)
{
    struct rt_caller *c = pointer_of(self);
    char *packet;
    s64 size;
    if (c->bytes(argument, &packet, &size))
        return NULL;
    const char *wrong = NULL;
    if (!c->prog)
        wrong = "the program is closed";
    else if (c->forks != rt_forks)
        wrong = "the program does not survive fork: load it in the child";
    else if (size < LEAST)
        wrong = "a frame is too short: Ethernet needs 14 bytes";
    else if ((u64)size + HEAD + TAIL > c->buffer_size)
        wrong = "a frame is too long";
    if (wrong) {
        c->fail(c->error, wrong);
        return NULL;
    }
    u8 *data = c->buffer + HEAD;
    memcpy(data, packet, (u64)size);
    u64 room = HEAD + (u64)size < RT_PAGE - TAIL ? RT_PAGE - TAIL : HEAD + (u64)size;
    struct rt_xdp ctx = {(u64)data, (u64)data + (u64)size, (u64)data, c->ifindex, 0, 0, 0, (u64)c->buffer, (u64)c->buffer + room};
    return c->number((u32)rt_call(c->prog, &ctx, c->env));
}
