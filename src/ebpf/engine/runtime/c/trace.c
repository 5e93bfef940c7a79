/* bpf_trace_printk: formatting as Linux does it, and the ring of lines that readers take from. */
#include "rt.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { LINE = 1024, TEXT = 512 };

static int text_of(struct rt_env *env, u64 at, char space, char *out, int size)
{
    s64 got;
    if (space == 'u' || (space != 'k' && !rt_is_kernel(env, at, 1)))
        got = rt_read_user_str(env, out, (u64)size, at);
    else
        got = -EFAULT;
    if (got < 0 && space != 'u') {
        extern u64 rt_helper_probe_read_kernel_str(u64, u64, u64, u64, u64, struct rt_env *);
        got = (s64)rt_helper_probe_read_kernel_str((u64)out, (u64)size, at, 0, 0, env);
    }
    if (got < 0) {
        out[0] = 0;
        return 0;
    }
    return (int)strlen(out);
}

/* Format like bpf_trace_printk. Returns the length, or -EINVAL for a format that Linux refuses. */
RT_API int rt_format(char *out, int size, const char *fmt, int fmt_size, const u64 *args, int nargs, struct rt_env *env)
{
    int done = 0, used = 0;
    if (fmt_size <= 0 || fmt[fmt_size - 1])
        return -EINVAL;
    for (int i = 0; i < fmt_size && fmt[i]; i++) {
        char spec[24] = "%", piece[TEXT];
        int at = 1, length = 0, wide = 0;
        unsigned char c = (unsigned char)fmt[i];
        if (c != '%') {
            if ((c < 32 && c != '\n' && c != '\t' && c != '\r') || c > 126)
                return -EINVAL;
            if (done < size - 1)
                out[done++] = (char)c;
            continue;
        }
        if (fmt[++i] == '%') {
            if (done < size - 1)
                out[done++] = '%';
            continue;
        }
        while (at < 16 && (fmt[i] == '0' || fmt[i] == '-' || fmt[i] == '+' || fmt[i] == '#' || fmt[i] == ' ' || (fmt[i] >= '1' && fmt[i] <= '9')))
            spec[at++] = fmt[i++];
        while (fmt[i] == 'l') {
            wide++;
            i++;
        }
        if (wide > 2 || used >= nargs)
            return -EINVAL;
        u64 value = args[used++];
        switch (fmt[i]) {
        case 'd':
        case 'i':
            memcpy(spec + at, "lld", 4);
            length = snprintf(piece, sizeof piece, spec, wide ? (long long)value : (long long)(s32)value);
            break;
        case 'u':
        case 'x':
        case 'X':
        case 'o':
            spec[at] = spec[at + 1] = 'l';
            spec[at + 2] = fmt[i];
            spec[at + 3] = 0;
            length = snprintf(piece, sizeof piece, spec, wide ? (unsigned long long)value : (unsigned long long)(u32)value);
            break;
        case 'c':
            if (wide)
                return -EINVAL;
            piece[0] = (char)value;
            length = 1;
            break;
        case 'p':
            if (fmt[i + 1] == 'k' || fmt[i + 1] == 'u') {
                char space = fmt[++i];
                if (fmt[i + 1] != 's')
                    return -EINVAL;
                i++;
                length = text_of(env, value, space, piece, sizeof piece);
                break;
            }
            if (fmt[i + 1] == 'x' || fmt[i + 1] == 'K' || fmt[i + 1] == 'S' || fmt[i + 1] == 's' || fmt[i + 1] == 'B')
                i++;
            length = snprintf(piece, sizeof piece, "%016llx", (unsigned long long)value);
            break;
        case 's':
            length = text_of(env, value, 0, piece, sizeof piece);
            break;
        default: return -EINVAL;
        }
        if (length > (int)sizeof piece - 1)
            length = (int)sizeof piece - 1;
        if (length > size - 1 - done)
            length = size - 1 - done;
        memcpy(out + done, piece, (size_t)length);
        done += length;
    }
    out[done] = 0;
    return done;
}

static void push(struct rt_trace *ring, const char *text, u32 length)
{
    u32 mask = ring->size - 1;
    if (length > ring->size)
        return;
    rt_lock(&ring->lock);
    while (ring->head - ring->tail + length > ring->size) {
        while (ring->data[ring->tail++ & mask] != '\n')
            ;
        ring->lost++;
    }
    u32 at = (u32)ring->head & mask, first = ring->size - at;
    if (first > length)
        first = length;
    memcpy(ring->data + at, text, first);
    memcpy(ring->data, text + first, length - first);
    __atomic_store_n(&ring->head, ring->head + length, __ATOMIC_RELEASE);
    rt_unlock(&ring->lock);
    if (__atomic_load_n(&ring->waiting, __ATOMIC_ACQUIRE) && ring->event_fd >= 0) {
        u64 one = 1;
        (void)!write(ring->event_fd, &one, 8);
    }
}

/* Copy whole lines out, at most `size` bytes. Returns the bytes; `*lost` gets the lines that were overwritten. */
RT_API u64 rt_trace_take(struct rt_trace *ring, u8 *out, u64 size, u64 *lost)
{
    rt_lock(&ring->lock);
    u64 have = ring->head - ring->tail, take = have < size ? have : size;
    for (u64 i = 0; i < take; i++)
        out[i] = ring->data[(ring->tail + i) & (ring->size - 1)];
    while (take < have && take && out[take - 1] != '\n')
        take--;
    ring->tail += take;
    *lost = ring->lost;
    ring->lost = 0;
    rt_unlock(&ring->lock);
    return take;
}

/* One line in ftrace's columns: comm-pid, cpu, flags, time, text. */
void rt_trace_line(struct rt_env *env, const char *text, int length)
{
    char line[LINE + 64];
    rt_know(env, RT_KNOW_COMM | RT_KNOW_CPU);
    u64 now = rt_now(env), us = (now + 500) / 1000;
    int n = snprintf(line, sizeof line, "%16s-%-7u [%03u] ....1 %5llu.%06llu: bpf_trace_printk: %.*s\n", env->task.comm, env->task.tid,
                     env->task.cpu, (unsigned long long)(us / 1000000), (unsigned long long)(us % 1000000), length, text);
    push(env->trace, line, (u32)n);
}

static u64 print(const char *fmt, u32 fmt_size, const u64 *args, int nargs, struct rt_env *env)
{
    char text[LINE];
    if (!env->trace)
        return 0;
    int length = rt_format(text, sizeof text, fmt, (int)fmt_size, args, nargs, env);
    if (length < 0)
        return (u64)(s64)length;
    /* The line ends by itself: one newline is not another line. */
    rt_trace_line(env, text, length && text[length - 1] == '\n' ? length - 1 : length);
    return (u64)length;
}

RT_API u64 rt_helper_trace_printk(u64 fmt, u64 size, u64 a, u64 b, u64 c, struct rt_env *env)
{
    u64 args[3] = {a, b, c};
    return print((const char *)fmt, (u32)size, args, 3, env);
}

RT_API u64 rt_helper_trace_vprintk(u64 fmt, u64 size, u64 data, u64 bytes, u64 e, struct rt_env *env)
{
    (void)e;
    if (bytes & 7 || bytes > 12 * 8)
        return (u64)-EINVAL;
    return print((const char *)fmt, (u32)size, (const u64 *)data, (int)(bytes / 8), env);
}

RT_API u64 rt_helper_snprintf(u64 out, u64 size, u64 fmt, u64 data, u64 bytes, struct rt_env *env)
{
    char text[LINE];
    if (bytes & 7 || bytes > 12 * 8)
        return (u64)-EINVAL;
    int length = rt_format(text, sizeof text, (const char *)fmt, (int)strlen((const char *)fmt) + 1, (const u64 *)data, (int)(bytes / 8), env);
    if (length < 0)
        return (u64)(s64)length;
    if (size) {
        u64 n = (u64)length < size - 1 ? (u64)length : size - 1;
        memcpy((void *)out, text, n);
        ((char *)out)[n] = 0;
    }
    return (u64)length + 1;
}
