/* Kernel functions that programs call by name: iterators over numbers, sections, strings. A body has the shape of a helper's. */
#include "rt.h"

#include <errno.h>
#include <string.h>

#define KFUNC(name) RT_API u64 rt_kfunc_##name(u64 a, u64 b, u64 c, u64 d, u64 e, struct rt_env *env)
#define UNUSED (void)a, (void)b, (void)c, (void)d, (void)e, (void)env

/* -- numbers from one to another */

struct iter_num {
    s32 current, end;
};
enum { MOST_NUMBERS = 1 << 23 };

KFUNC(iter_num_new)
{
    UNUSED;
    struct iter_num *it = (void *)a;
    s32 start = (s32)b, end = (s32)c;
    s64 result = start > end ? -EINVAL : (s64)end - start > MOST_NUMBERS ? -E2BIG : 0;
    *it = result ? (struct iter_num){0, 0} : (struct iter_num){(s32)((u32)start - 1), end};
    return (u64)result;
}

/* Where the number stands; NULL at the end, and when who runs here has had enough time. */
KFUNC(iter_num_next)
{
    UNUSED;
    struct iter_num *it = (void *)a;
    s32 next = (s32)((u32)it->current + 1);
    if (next >= it->end || __atomic_load_n(&env->stop, __ATOMIC_RELAXED)) {
        *it = (struct iter_num){0, 0};
        return 0;
    }
    it->current = next;
    return (u64)&it->current;
}

KFUNC(iter_num_destroy)
{
    UNUSED;
    *(struct iter_num *)a = (struct iter_num){0, 0};
    return 0;
}

/* -- sections: what is taken away from programs waits for their end anyway */

KFUNC(rcu_read_lock) { UNUSED; return 0; }
KFUNC(rcu_read_unlock) { UNUSED; return 0; }
KFUNC(preempt_disable) { UNUSED; return 0; }
KFUNC(preempt_enable) { UNUSED; return 0; }

/* -- strings, at any address: what cannot be read is an error */

enum { LONGEST_TEXT = 65536, PIECE = 128 };

/* A text that is read in pieces. */
struct text {
    u64 at;
    u64 begin;  /* of the piece */
    u32 length; /* 0: there is none yet */
    char piece[PIECE];
};

/* The character at a place; an error where there is none to read. */
static int char_at(struct text *text, u64 place)
{
    u64 at = text->at + place;
    if (at - text->begin >= text->length) {
        /* Never across a page: the next one may not be there although the text ends before it. */
        u64 length = RT_PAGE - (at & (RT_PAGE - 1));
        length = length < PIECE ? length : PIECE;
        s64 result = rt_read_kernel(text->piece, length, at);
        text->length = result ? 0 : (u32)length;
        text->begin = at;
        if (result)
            return (int)result;
    }
    return (u8)text->piece[at - text->begin];
}

static struct text text_at(u64 at)
{
    struct text text;
    text.at = text.begin = at;
    text.length = 0;
    return text;
}

/* Of ASCII and Latin 1, as the kernel has it. */
static int lower(int c) { return (c >= 'A' && c <= 'Z') || (c >= 0xC0 && c <= 0xDE && c != 0xD7) ? c + 32 : c; }

static s64 compare(u64 a, u64 b, int fold)
{
    struct text one = text_at(a), other = text_at(b);
    for (u64 i = 0; i < LONGEST_TEXT; i++) {
        int c = char_at(&one, i), d = c < 0 ? 0 : char_at(&other, i);
        if (c < 0 || d < 0)
            return c < 0 ? c : d;
        if (fold)
            c = lower(c), d = lower(d);
        if (c != d)
            return c < d ? -1 : 1;
        if (!c)
            return 0;
    }
    return -E2BIG;
}

KFUNC(strcmp) { UNUSED; return (u64)compare(a, b, 0); }
KFUNC(strcasecmp) { UNUSED; return (u64)compare(a, b, 1); }

/* The first of the characters that is `wanted` (`last`: the last of them); `end`: or where the text ends. */
static s64 find_char(u64 at, u64 count, int wanted, int last, int end)
{
    struct text text = text_at(at);
    s64 found = -ENOENT;
    for (u64 i = 0; i < count && i < LONGEST_TEXT; i++) {
        int c = char_at(&text, i);
        if (c < 0)
            return c;
        if (c == wanted || (end && !c)) {
            found = (s64)i;
            if (!last)
                return found;
        }
        if (!c)
            return found;
    }
    return count >= LONGEST_TEXT ? -E2BIG : end ? (s64)count : -ENOENT;
}

KFUNC(strnchr) { UNUSED; return (u64)find_char(a, b, (u8)c, 0, 0); }
KFUNC(strchr) { UNUSED; return (u64)find_char(a, LONGEST_TEXT, (u8)b, 0, 0); }
KFUNC(strchrnul) { UNUSED; return (u64)find_char(a, LONGEST_TEXT, (u8)b, 0, 1); }
KFUNC(strrchr) { UNUSED; return (u64)find_char(a, LONGEST_TEXT, (u8)b, 1, 0); }
KFUNC(strnlen) { UNUSED; return (u64)find_char(a, b, 0, 0, 1); }
KFUNC(strlen) { UNUSED; return (u64)find_char(a, LONGEST_TEXT, 0, 0, 1); }

/* How many characters from the first on are (`among`: 1) or are not (0) in a set. */
static s64 span(u64 at, u64 set, int among)
{
    struct text text = text_at(at), of = text_at(set);
    for (u64 i = 0; i < LONGEST_TEXT; i++) {
        int c = char_at(&text, i), each = 0;
        if (c <= 0)
            return c < 0 ? c : (s64)i;
        u64 j = 0;
        for (; j < LONGEST_TEXT; j++) {
            each = char_at(&of, j);
            if (each <= 0 || each == c)
                break;
        }
        if (each < 0)
            return each;
        if (j == LONGEST_TEXT)
            return -E2BIG;
        if ((each == 0) == among)
            return (s64)i;
    }
    return -E2BIG;
}

KFUNC(strspn) { UNUSED; return (u64)span(a, b, 1); }
KFUNC(strcspn) { UNUSED; return (u64)span(a, b, 0); }

/* Where a text is in the first `count` characters of another. */
static s64 find_text(u64 at, u64 part, u64 count)
{
    struct text text = text_at(at), of = text_at(part);
    for (u64 i = 0; i < LONGEST_TEXT; i++) {
        u64 j = 0;
        for (; i + j <= count && j < LONGEST_TEXT; j++) {
            int wanted = char_at(&of, j);
            if (wanted <= 0)
                return wanted < 0 ? wanted : (s64)i;
            if (i + j == count)
                break;
            int c = char_at(&text, i + j);
            if (c <= 0)
                return c < 0 ? c : -ENOENT;
            if (c != wanted)
                break;
        }
        if (j == LONGEST_TEXT)
            return -E2BIG;
        if (i + j == count)
            return -ENOENT;
    }
    return -E2BIG;
}

KFUNC(strnstr) { UNUSED; return (u64)find_text(a, b, c); }
KFUNC(strstr) { UNUSED; return (u64)find_text(a, b, LONGEST_TEXT); }
