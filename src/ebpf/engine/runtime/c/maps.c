/* Arrays and hashes, shared or per CPU. Look-ups take no lock; writers take the map's. */
#include "rt.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { PUT_ANY = 0, PUT_NOEXIST = 1, PUT_EXIST = 2, PUT_LOCK = 4 };

/* A hash's element: its place in the chain, then the key, then the value at a multiple of 8. */
struct element {
    u32 next; /* number of the next element + 1; with the high bit: the end of bucket (number) */
    u32 hash;
    u8 key[];
};
#define END 0x80000000u

static inline u32 round8(u32 n) { return (n + 7) & ~7u; }

static inline u32 *heads(struct rt_map *map) { return map->meta; }

static inline struct element *element(struct rt_map *map, u32 number)
{
    return (struct element *)(map->data + (u64)number * map->elem_size);
}

static inline u8 *value_of(struct rt_map *map, struct element *e) { return (u8 *)e + 8 + round8(map->key_size); }

static inline u32 hash_of(const struct rt_map *map, const void *key)
{
    const u8 *at = key;
    u32 left = map->key_size;
    u64 h = 0x9E3779B97F4A7C15ull ^ map->seed;
    while (left >= 8) {
        u64 word;
        memcpy(&word, at, 8);
        h = (h ^ word) * 0xFF51AFD7ED558CCDull;
        h ^= h >> 32;
        at += 8;
        left -= 8;
    }
    if (left) {
        u64 word = 0;
        memcpy(&word, at, left);
        h = (h ^ word) * 0xFF51AFD7ED558CCDull;
        h ^= h >> 32;
    }
    h *= 0xC4CEB9FE1A85EC53ull;
    return (u32)(h >> 32);
}

/* Prepare a hash's free list and empty buckets. */
RT_API void rt_map_init(struct rt_map *map)
{
    if (map->type != RT_MAP_HASH && map->type != RT_MAP_PERCPU_HASH)
        return;
    for (u32 i = 0; i < map->buckets; i++)
        heads(map)[i] = END | i;
    for (u32 i = 0; i < map->max_entries; i++)
        element(map, i)->next = i + 1 < map->max_entries ? i + 2 : 0;
    map->free_head = map->max_entries ? 1 : 0;
    map->count = 0;
}

static struct element *find(struct rt_map *map, const void *key, u32 hash)
{
    u32 bucket = hash & (map->buckets - 1);
    for (;;) {
        u32 at = __atomic_load_n(&heads(map)[bucket], __ATOMIC_ACQUIRE);
        while (!(at & END)) {
            struct element *e = element(map, at - 1);
            if (__atomic_load_n(&e->hash, __ATOMIC_ACQUIRE) == hash && !memcmp(e->key, key, map->key_size))
                return e;
            at = __atomic_load_n(&e->next, __ATOMIC_ACQUIRE);
            if (!at)
                break; /* it went back to the free list under us */
        }
        /* An element may have been recycled into another bucket's chain: then the end is not ours. */
        if (at == (END | bucket))
            return NULL;
    }
}

/* Chains change by one store each and are always whole; an owner that died may have left the free list short of an element. */
static void mend(struct rt_map *map)
{
    u8 *used = calloc((u64)map->max_entries / 8 + 1, 1);
    if (!used)
        return;
    map->count = 0;
    for (u32 i = 0; i < map->buckets; i++)
        for (u32 at = heads(map)[i]; !(at & END); at = element(map, at - 1)->next, map->count++)
            used[(at - 1) / 8] |= (u8)(1 << (at - 1) % 8);
    map->free_head = 0;
    for (u32 i = map->max_entries; i-- > 0;) {
        if (used[i / 8] & 1 << i % 8)
            continue;
        __atomic_store_n(&element(map, i)->next, map->free_head, __ATOMIC_RELEASE);
        map->free_head = i + 1;
    }
    free(used);
}

static void lock(struct rt_map *map)
{
    if (rt_lock(&map->lock))
        mend(map);
}

/* The value under a key for one CPU, or NULL. */
RT_API void *rt_map_value(struct rt_map *map, const void *key, u32 cpu)
{
    switch (map->type) {
    case RT_MAP_ARRAY:
    case RT_MAP_PERCPU_ARRAY: {
        u32 index;
        memcpy(&index, key, 4);
        if (index >= map->max_entries)
            return NULL;
        return map->data + (u64)index * map->elem_size + (u64)cpu * map->cpu_stride;
    }
    case RT_MAP_HASH:
    case RT_MAP_PERCPU_HASH: {
        struct element *e = find(map, key, hash_of(map, key));
        return e ? value_of(map, e) + (u64)cpu * map->cpu_stride : NULL;
    }
    }
    return NULL;
}

/* Write a value: one CPU's (`per_cpu` 0) or, for a per-CPU map, all CPUs' side by side (`per_cpu` 1). */
static void fill(struct rt_map *map, u8 *to, const void *value, int per_cpu, u32 cpu)
{
    if (!map->cpu_stride)
        memcpy(to, value, map->value_size);
    else if (per_cpu)
        memcpy(to, value, (u64)map->cpu_stride * map->ncpu);
    else
        memcpy(to + (u64)cpu * map->cpu_stride, value, map->value_size);
}

static s64 hash_put(struct rt_map *map, const void *key, const void *value, u64 flags, int per_cpu, u32 cpu)
{
    u32 hash = hash_of(map, key);
    s64 result = 0;
    lock(map);
    struct element *e = find(map, key, hash);
    if (e && flags == PUT_NOEXIST) {
        result = -EEXIST;
    } else if (!e && flags == PUT_EXIST) {
        result = -ENOENT;
    } else if (e) {
        fill(map, value_of(map, e), value, per_cpu, cpu);
    } else if (!map->free_head) {
        result = -E2BIG;
    } else {
        u32 number = map->free_head - 1;
        e = element(map, number);
        map->free_head = e->next;
        map->count++;
        memcpy(e->key, key, map->key_size);
        if (map->cpu_stride && !per_cpu)
            memset(value_of(map, e), 0, (u64)map->cpu_stride * map->ncpu);
        fill(map, value_of(map, e), value, per_cpu, cpu);
        /* Last: a reader that still stands on this element from its former life must not find it half made. */
        __atomic_store_n(&e->hash, hash, __ATOMIC_RELEASE);
        u32 *head = &heads(map)[hash & (map->buckets - 1)];
        e->next = *head;
        __atomic_store_n(head, number + 1, __ATOMIC_RELEASE);
    }
    rt_unlock(&map->lock);
    return result;
}

RT_API s64 rt_map_put(struct rt_map *map, const void *key, const void *value, u64 flags, int per_cpu, u32 cpu)
{
    if (flags & ~(u64)(PUT_LOCK | 3) || (flags & 3) == 3 || flags & PUT_LOCK)
        return -EINVAL;
    switch (map->type) {
    case RT_MAP_ARRAY:
    case RT_MAP_PERCPU_ARRAY: {
        u32 index;
        memcpy(&index, key, 4);
        if (index >= map->max_entries)
            return -E2BIG;
        if (flags == PUT_NOEXIST)
            return -EEXIST;
        fill(map, map->data + (u64)index * map->elem_size, value, per_cpu, cpu);
        return 0;
    }
    case RT_MAP_HASH:
    case RT_MAP_PERCPU_HASH:
        return hash_put(map, key, value, flags, per_cpu, cpu);
    }
    return -EINVAL;
}

RT_API s64 rt_map_remove(struct rt_map *map, const void *key)
{
    if (map->type != RT_MAP_HASH && map->type != RT_MAP_PERCPU_HASH)
        return -EINVAL;
    u32 hash = hash_of(map, key);
    s64 result = -ENOENT;
    lock(map);
    u32 *link = &heads(map)[hash & (map->buckets - 1)];
    while (!(*link & END)) {
        struct element *e = element(map, *link - 1);
        if (e->hash == hash && !memcmp(e->key, key, map->key_size)) {
            u32 number = *link;
            __atomic_store_n(link, e->next, __ATOMIC_RELEASE);
            __atomic_store_n(&e->hash, ~hash, __ATOMIC_RELEASE); /* nobody finds it in the free list */
            __atomic_store_n(&e->next, map->free_head, __ATOMIC_RELEASE);
            map->free_head = number;
            map->count--;
            result = 0;
            break;
        }
        link = &e->next;
    }
    rt_unlock(&map->lock);
    return result;
}

/* The key after `key` (NULL: the first): 0, or -ENOENT at the end. */
RT_API s64 rt_map_next(struct rt_map *map, const void *key, void *out)
{
    if (map->type == RT_MAP_ARRAY || map->type == RT_MAP_PERCPU_ARRAY) {
        u32 index = 0;
        if (key) {
            memcpy(&index, key, 4);
            if (index >= map->max_entries)
                index = 0;
            else if (++index >= map->max_entries)
                return -ENOENT;
        }
        memcpy(out, &index, 4);
        return 0;
    }
    lock(map);
    s64 result = -ENOENT;
    u32 bucket = 0, at = 0;
    if (key) {
        u32 hash = hash_of(map, key);
        struct element *e = find(map, key, hash);
        if (e) {
            bucket = hash & (map->buckets - 1);
            at = e->next;
        } else {
            key = NULL;
        }
    }
    if (!key)
        at = heads(map)[0];
    for (;;) {
        if (!(at & END)) {
            memcpy(out, element(map, at - 1)->key, map->key_size);
            result = 0;
            break;
        }
        if (++bucket >= map->buckets)
            break;
        at = heads(map)[bucket];
    }
    rt_unlock(&map->lock);
    return result;
}

/* Copy up to `count` elements out, beginning at bucket or index `*place`; sets where to go on. Returns how many. */
RT_API u32 rt_map_batch(struct rt_map *map, u32 *place, u32 count, u8 *keys, u8 *values, u32 value_bytes)
{
    u32 done = 0, at = *place;
    if (map->type == RT_MAP_ARRAY || map->type == RT_MAP_PERCPU_ARRAY) {
        for (; at < map->max_entries && done < count; at++, done++) {
            memcpy(keys + 4ull * done, &at, 4);
            memcpy(values + (u64)value_bytes * done, map->data + (u64)at * map->elem_size, value_bytes);
        }
        *place = at;
        return done;
    }
    lock(map);
    for (; at < map->buckets; at++) {
        u32 length = 0;
        for (u32 e = heads(map)[at]; !(e & END); e = element(map, e - 1)->next)
            length++;
        if (done + length > count)
            break;
        for (u32 e = heads(map)[at]; !(e & END); e = element(map, e - 1)->next, done++) {
            memcpy(keys + (u64)map->key_size * done, element(map, e - 1)->key, map->key_size);
            memcpy(values + (u64)value_bytes * done, value_of(map, element(map, e - 1)), value_bytes);
        }
    }
    rt_unlock(&map->lock);
    *place = at;
    return done;
}
