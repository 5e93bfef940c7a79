/* Functions that Python calls as its own, without ctypes in between. The GIL is held: only what ends at once belongs here. */
#include "maps.h"
#include "python.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct rt_python rt_py;

RT_API void rt_python_init(const struct rt_python *table) { rt_py = *table; }

/* A map that is looked up in. Letters are struct's for numbers, 0 for bytes. Who closes the map takes it away here first. */
struct finder {
    struct rt_map *map;
    u32 forks;
    u32 size; /* of values */
    char key, value;
};

static int takes_sign(char letter) { return letter >= 'a'; }

/* A number's bytes; 0 if Python's object is none, or does not fit: then bpf() says what is wrong. */
static int put_number(object *number, char letter, u32 size, u8 *to)
{
    u64 value = takes_sign(letter) ? (u64)rt_py.as_signed(number) : rt_py.as_unsigned(number);
    if (value == ~0ull && rt_py.error()) {
        rt_py.forget_error();
        return 0;
    }
    u32 shift = 64 - 8 * size;
    u64 back = takes_sign(letter) ? (u64)((s64)(value << shift) >> shift) : value << shift >> shift;
    memcpy(to, &value, size);
    return back == value;
}

static object *get_number(const u8 *from, char letter, u32 size)
{
    u64 value = 0;
    u32 shift = 64 - 8 * size;
    memcpy(&value, from, size);
    return takes_sign(letter) ? rt_py.from_signed((s64)(value << shift) >> shift) : rt_py.from_unsigned(value);
}

/* The value under a key, None if there is none, NotImplemented if it has to be asked by bpf(). */
static object *find_by_python(object *self, object *key)
{
    struct finder *finder = rt_py.capsule_pointer(self, NULL);
    struct rt_map *map = finder->map;
    u8 number[8];
    const void *at = number;
    if (!map || finder->forks != rt_forks)
        return given(rt_py.not_implemented);
    if (finder->key) {
        if (!put_number(key, finder->key, map->key_size, number))
            return given(rt_py.not_implemented);
    } else {
        char *bytes;
        ssize_t size;
        if (rt_py.bytes_look(key, &bytes, &size)) {
            rt_py.forget_error();
            return given(rt_py.not_implemented);
        }
        if (size != (ssize_t)map->key_size)
            return given(rt_py.not_implemented);
        at = bytes;
    }
    object *made = NULL;
    u8 *to = number;
    if (!finder->value) {
        made = rt_py.bytes_new(NULL, finder->size);
        if (!made)
            return NULL;
        to = (u8 *)rt_py.bytes_at(made);
    }
    s64 result = rt_ops_of(map)->read(map, at, to, finder->size);
    if (!result)
        rt_hide_fields(map, to);
    if (!result)
        return made ? made : get_number(number, finder->value, finder->size);
    if (made)
        rt_py.release(made);
    return given(result == -ENOENT ? rt_py.none : rt_py.not_implemented);
}

static void end_finder(object *capsule) { free(rt_py.capsule_pointer(capsule, NULL)); }

/* Python's PyMethodDef, of a function with one argument. */
static struct {
    const char *name;
    object *(*body)(object *, object *);
    int flags;
    const char *text;
} find_method = {"find", find_by_python, 8, "The value under a key: None if there is none, NotImplemented if bpf() is to be asked."};

/* A function of Python's that looks keys of a map up; None if there is no memory. */
RT_API object *rt_finder_new(struct rt_map *map, u32 size, char key, char value)
{
    struct finder *finder = malloc(sizeof *finder);
    if (!finder)
        return given(rt_py.none);
    *finder = (struct finder){map, rt_forks, size, key, value};
    object *capsule = rt_py.capsule_new(finder, NULL, end_finder);
    if (!capsule)
        return NULL;
    object *made = rt_py.function_new(&find_method, capsule, NULL);
    rt_py.release(capsule);
    return made;
}

/* The map goes: from here on the function answers NotImplemented. */
RT_API void rt_finder_close(object *function)
{
    struct finder *finder = rt_py.capsule_pointer(rt_py.function_self(function), NULL);
    finder->map = NULL;
}
