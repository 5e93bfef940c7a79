/* Numbers out of text, by the rules of bpf_strtol and bpf_strtoul. */
#include "rt.h"

#include <errno.h>
#include <string.h>

#define HELPER(name) RT_API u64 rt_helper_##name(u64 a, u64 b, u64 c, u64 d, u64 e, struct rt_env *env)

enum { BASES = 0x1F, LONGEST = 63 };

static int is_space(u8 c) { return c == ' ' || (c >= 9 && c <= 13) || c == 0xA0; }

static u32 digit(u8 c)
{
    u8 lower = c | 0x20;
    return c >= '0' && c <= '9' ? c - '0' : lower >= 'a' && lower <= 'f' ? lower - 'a' + 10u : 255;
}

/* How many bytes were read, or an error; the value without its sign in `value`. */
static s64 parse(const u8 *text, u32 size, u64 flags, u64 *value, int *negative)
{
    u32 at = 0, base = flags & BASES;
    if (flags & ~(u64)BASES || (base != 0 && base != 8 && base != 10 && base != 16))
        return -EINVAL;
    while (at < size && is_space(text[at]))
        at++;
    *negative = at < size && text[at] == '-';
    at += (u32)*negative;
    if (at >= size)
        return -EINVAL;
    u8 piece[LONGEST + 3] = {0};
    u32 length = size - at < LONGEST ? size - at : LONGEST, i = 0;
    memcpy(piece, text + at, length);
    int hex = piece[0] == '0' && (piece[1] | 0x20) == 'x';
    if (!base)
        base = hex && digit(piece[2]) < 16 ? 16 : piece[0] == '0' ? 8 : 10;
    if (base == 16 && hex)
        i = 2;
    u32 first = i;
    u64 sum = 0;
    int over = 0;
    for (; i < length && digit(piece[i]) < base; i++)
        if (__builtin_mul_overflow(sum, base, &sum) || __builtin_add_overflow(sum, (u64)digit(piece[i]), &sum))
            over = 1;
    if (over)
        return -ERANGE;
    if (i == first)
        return -EINVAL;
    *value = sum;
    return at + i;
}

HELPER(strtol)
{
    (void)e, (void)env;
    u64 value = 0;
    int negative = 0;
    s64 *out = (s64 *)d;
    *out = 0;
    s64 read = parse((const u8 *)a, (u32)b, c, &value, &negative);
    if (read < 0)
        return (u64)read;
    if (negative ? (s64)-value > 0 : (s64)value < 0)
        return (u64)-ERANGE;
    *out = negative ? (s64)-value : (s64)value;
    return (u64)read;
}

HELPER(strtoul)
{
    (void)e, (void)env;
    u64 value = 0;
    int negative = 0;
    *(u64 *)d = 0;
    s64 read = parse((const u8 *)a, (u32)b, c, &value, &negative);
    if (read < 0)
        return (u64)read;
    if (negative)
        return (u64)-EINVAL;
    *(u64 *)d = value;
    return (u64)read;
}
