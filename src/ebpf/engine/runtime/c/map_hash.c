/* Hashes, shared or per CPU, with or without eviction. Look-ups take no lock; writers take the map's.
 *
 * An element that is written anew moves: the new one is filled, hung up by one store, and then the old one is taken off by
 * another. So readers see the old value or the new one, and of a writer that was killed no half is left in a chain. */
#include "maps.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Its place in the chain, then the key, then the value at a multiple of 8. */
struct element {
    u32 next; /* number of the next element + 1; with the high bit: the end of bucket (number); 0: the end of the free list */
    u32 hash;
    u32 version; /* odd while it is free or being filled */
    u16 linked;  /* it hangs in a chain */
    u8 referenced, spare;
    u8 key[];
};
#define END 0x80000000u

/* Buckets are kept so that zeroes are empty chains: a new map's memory need not be touched. */
static inline u32 *heads(struct rt_map *map) { return map->meta; }
static inline u32 head_of(struct rt_map *map, u32 bucket) { return __atomic_load_n(&heads(map)[bucket], __ATOMIC_ACQUIRE) ^ (END | bucket); }
static inline void set_head(struct rt_map *map, u32 bucket, u32 to)
{
    __atomic_store_n(&heads(map)[bucket], to ^ (END | bucket), __ATOMIC_RELEASE);
}

static inline struct element *element(struct rt_map *map, u32 number)
{
    return (struct element *)(map->data + (u64)number * map->elem_size);
}

static inline u8 *value_of(struct rt_map *map, struct element *e) { return (u8 *)e + sizeof *e + round8(map->key_size); }
static inline u64 value_bytes(const struct rt_map *map) { return map->cpu_stride ? (u64)map->cpu_stride * map->ncpu : map->value_size; }
static inline int evicts(const struct rt_map *map) { return map->type == RT_MAP_LRU_HASH || map->type == RT_MAP_LRU_PERCPU_HASH; }

static inline u32 hash_of(const struct rt_map *map, const void *key)
{
    u64 seed = 0x9E3779B97F4A7C15ull ^ map->seed;
    if (map->key_size == 4)
        return (u32)(rt_mix(key, 4, seed) >> 32);
    if (map->key_size == 8)
        return (u32)(rt_mix(key, 8, seed) >> 32);
    return (u32)(rt_mix(key, map->key_size, seed) >> 32);
}

static inline int same_key(const struct rt_map *map, const struct element *e, const void *key)
{
    if (map->key_size == 4) {
        u32 a, b;
        memcpy(&a, e->key, 4);
        memcpy(&b, key, 4);
        return a == b;
    }
    if (map->key_size == 8) {
        u64 a, b;
        memcpy(&a, e->key, 8);
        memcpy(&b, key, 8);
        return a == b;
    }
    return !memcmp(e->key, key, map->key_size);
}

static struct element *find(struct rt_map *map, const void *key, u32 hash)
{
    u32 bucket = hash & (map->buckets - 1);
    for (;;) {
        u32 at = head_of(map, bucket);
        while (!(at & END)) {
            struct element *e = element(map, at - 1);
            if (__atomic_load_n(&e->hash, __ATOMIC_ACQUIRE) == hash && same_key(map, e, key) &&
                !(__atomic_load_n(&e->version, __ATOMIC_ACQUIRE) & 1))
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

/* -- what writers do, under the lock */

/* Chains change by one store each and are always whole; an owner that died may have left the free list short of an element. */
static void mend(struct rt_map *map)
{
    u8 *used = calloc((u64)map->fresh / 8 + 1, 1);
    if (!used)
        return;
    map->count = 0;
    for (u32 i = 0; i < map->buckets; i++) {
        for (u32 at = head_of(map, i); !(at & END); at = element(map, at - 1)->next) {
            /* One key twice: its new value was hung up, the old one not yet taken off. What is behind goes. */
            u32 last = at;
            for (u32 later = element(map, at - 1)->next; !(later & END); later = element(map, later - 1)->next) {
                struct element *a = element(map, at - 1), *b = element(map, later - 1);
                if (a->hash == b->hash && same_key(map, a, b->key))
                    __atomic_store_n(&element(map, last - 1)->next, b->next, __ATOMIC_RELEASE);
                else
                    last = later;
            }
            map->count++;
            used[(at - 1) / 8] |= (u8)(1 << (at - 1) % 8);
            element(map, at - 1)->linked = 1;
        }
    }
    map->free_head = 0;
    for (u32 i = map->fresh; i-- > 0;) {
        if (used[i / 8] & 1 << i % 8)
            continue;
        struct element *e = element(map, i);
        e->linked = 0;
        __atomic_store_n(&e->version, e->version | 1, __ATOMIC_RELEASE);
        __atomic_store_n(&e->next, map->free_head, __ATOMIC_RELEASE);
        map->free_head = i + 1;
    }
    free(used);
}

static void lock(struct rt_map *map)
{
    if (rt_lock(&map->lock))
        mend(map);
}

/* An element by its key or by itself: its number + 1, or 0; and the one before it in its chain, NULL for the first. */
static u32 find_locked(struct rt_map *map, u32 hash, const void *key, const struct element *which, struct element **before)
{
    *before = NULL;
    for (u32 at = head_of(map, hash & (map->buckets - 1)); !(at & END);) {
        struct element *e = element(map, at - 1);
        if (which ? e == which : e->hash == hash && same_key(map, e, key))
            return at;
        *before = e;
        at = e->next;
    }
    return 0;
}

static void unlink_after(struct rt_map *map, struct element *before, struct element *e)
{
    if (before)
        __atomic_store_n(&before->next, e->next, __ATOMIC_RELEASE);
    else
        set_head(map, e->hash & (map->buckets - 1), e->next);
    e->linked = 0;
}

/* Take an element off its chain, by its key or by itself: its number + 1, or 0. */
static u32 unlink_element(struct rt_map *map, u32 hash, const void *key, const struct element *which)
{
    struct element *before;
    u32 number = find_locked(map, hash, key, which, &before);
    if (number)
        unlink_after(map, before, element(map, number - 1));
    return number;
}

/* Into the free list, where nobody finds it. */
static void give_back(struct rt_map *map, u32 number)
{
    struct element *e = element(map, number - 1);
    rt_free_fields(map, value_of(map, e));
    __atomic_store_n(&e->version, e->version | 1, __ATOMIC_RELEASE);
    __atomic_store_n(&e->next, map->free_head, __ATOMIC_RELEASE);
    map->free_head = number;
}

/* Make room: the hand goes round and lets each element that was looked up since its last visit stay once more. */
static void evict(struct rt_map *map)
{
    for (;;) {
        struct element *e = element(map, map->hand);
        map->hand = map->hand + 1 == map->fresh ? 0 : map->hand + 1;
        if (!e->linked)
            continue;
        if (e->referenced) {
            e->referenced = 0;
            continue;
        }
        u32 number = unlink_element(map, e->hash, NULL, e);
        map->count--;
        give_back(map, number);
        return;
    }
}

/* There is one element more than may be in the map, for values that are written anew. */
static u32 take_free(struct rt_map *map)
{
    u32 number = map->free_head;
    if (number)
        map->free_head = element(map, number - 1)->next;
    else
        number = ++map->fresh;
    return number;
}

static void hang_up(struct rt_map *map, u32 number, u32 hash, const void *key, const void *value, int per_cpu, u32 cpu)
{
    struct element *e = element(map, number - 1);
    __atomic_store_n(&e->version, e->version | 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    rt_copy(e->key, key, map->key_size);
    if (map->cpu_stride && !per_cpu)
        memset(value_of(map, e), 0, value_bytes(map));
    rt_fill(map, value_of(map, e), value, per_cpu, cpu);
    /* Whoever had this element before may have died with its lock, or have made a timer in it after it was removed. */
    rt_free_fields(map, value_of(map, e));
    rt_hide_fields(map, value_of(map, e));
    e->referenced = 0;
    e->hash = hash;
    /* Late: a reader that still stands on this element from its former life must not find it half made. */
    __atomic_store_n(&e->version, e->version + 1, __ATOMIC_RELEASE);
    u32 bucket = hash & (map->buckets - 1);
    e->next = head_of(map, bucket);
    e->linked = 1;
    set_head(map, bucket, number);
}

static s64 hash_put(struct rt_map *map, const void *key, const void *value, u64 flags, int per_cpu, u32 cpu)
{
    u32 hash = hash_of(map, key);
    s64 result = 0;
    lock(map);
    struct element *before;
    u32 old = find_locked(map, hash, key, NULL, &before);
    struct element *e = old ? element(map, old - 1) : NULL;
    if (e && flags & PUT_NOEXIST) {
        result = -EEXIST;
    } else if (!e && flags & PUT_EXIST) {
        result = -ENOENT;
    } else if (e && flags & PUT_LOCK) {
        rt_write_locked(map, value_of(map, e), value);
    } else if (e && map->cpu_stride && !per_cpu) {
        rt_fill(map, value_of(map, e), value, 0, cpu);
    } else if (e) {
        u32 number = take_free(map);
        hang_up(map, number, hash, key, value, per_cpu, cpu);
        element(map, number - 1)->referenced = 1;
        unlink_after(map, before ? before : element(map, number - 1), e);
        give_back(map, old);
    } else if (map->count >= map->max_entries && !evicts(map)) {
        result = -E2BIG;
    } else {
        if (map->count >= map->max_entries)
            evict(map);
        map->count++;
        hang_up(map, take_free(map), hash, key, value, per_cpu, cpu);
    }
    rt_unlock(&map->lock);
    return result;
}

static s64 hash_remove(struct rt_map *map, const void *key)
{
    u32 hash = hash_of(map, key);
    lock(map);
    u32 number = unlink_element(map, hash, key, NULL);
    if (number) {
        map->count--;
        give_back(map, number);
    }
    rt_unlock(&map->lock);
    return number ? 0 : -ENOENT;
}

static s64 hash_take(struct rt_map *map, const void *key, void *out, u64 size)
{
    u32 hash = hash_of(map, key);
    lock(map);
    u32 number = unlink_element(map, hash, key, NULL);
    if (number) {
        memcpy(out, value_of(map, element(map, number - 1)), size);
        map->count--;
        give_back(map, number);
    }
    rt_unlock(&map->lock);
    return number ? 0 : -ENOENT;
}

/* -- readers */

static void *hash_value(struct rt_map *map, const void *key, u32 cpu)
{
    struct element *e = find(map, key, hash_of(map, key));
    if (!e)
        return NULL;
    if (evicts(map) && !e->referenced)
        e->referenced = 1;
    return value_of(map, e) + (u64)cpu * map->cpu_stride;
}

/* Who only copies a value out does not count as its user, and copies again what changed under him. */
static s64 hash_read(struct rt_map *map, const void *key, void *out, u64 size)
{
    u32 hash = hash_of(map, key);
    for (;;) {
        struct element *e = find(map, key, hash);
        if (!e)
            return -ENOENT;
        u32 version = __atomic_load_n(&e->version, __ATOMIC_ACQUIRE);
        if (version & 1 || __atomic_load_n(&e->hash, __ATOMIC_ACQUIRE) != hash || !same_key(map, e, key))
            continue;
        memcpy(out, value_of(map, e), size);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (__atomic_load_n(&e->version, __ATOMIC_RELAXED) == version)
            return 0;
    }
}

static s64 hash_next(struct rt_map *map, const void *key, void *out)
{
    lock(map);
    s64 result = -ENOENT;
    u32 bucket = 0, at = 0;
    struct element *e = NULL;
    if (key) {
        u32 hash = hash_of(map, key);
        e = find(map, key, hash);
        bucket = hash & (map->buckets - 1);
    }
    if (e) {
        at = e->next;
    } else {
        bucket = 0;
        at = head_of(map, 0);
    }
    for (;;) {
        if (!(at & END)) {
            memcpy(out, element(map, at - 1)->key, map->key_size);
            result = 0;
            break;
        }
        if (++bucket >= map->buckets)
            break;
        at = head_of(map, bucket);
    }
    rt_unlock(&map->lock);
    return result;
}

/* All elements, in the order of their memory. */
static u32 copy_all(struct rt_map *map, u8 *keys, u8 *values, u32 size)
{
    u32 done = 0;
    for (u32 i = 0; i < map->fresh; i++) {
        struct element *each = element(map, i);
        if (!each->linked)
            continue;
        copy_few(keys + (u64)map->key_size * done, each->key, map->key_size);
        copy_few(values + (u64)size * done, value_of(map, each), size);
        done++;
    }
    return done;
}

/* Copy out (and with `take` remove) the elements of whole buckets from `*place` on, at most `count`. Returns how many. */
u32 rt_hash_batch(struct rt_map *map, u32 *place, u32 count, u8 *keys, u8 *values, u32 size, int take)
{
    u32 done = 0, at = *place;
    lock(map);
    if (!at && !take && count >= map->count) {
        done = copy_all(map, keys, values, size);
        at = map->buckets;
    }
    for (; at < map->buckets; at++) {
        u32 length = 0;
        for (u32 e = head_of(map, at); !(e & END); e = element(map, e - 1)->next)
            length++;
        if (done + length > count)
            break;
        for (u32 e = head_of(map, at), next; !(e & END); e = next, done++) {
            struct element *each = element(map, e - 1);
            next = each->next;
            copy_few(keys + (u64)map->key_size * done, each->key, map->key_size);
            copy_few(values + (u64)size * done, value_of(map, each), size);
            if (take) {
                set_head(map, at, next);
                each->linked = 0;
                map->count--;
                give_back(map, e);
            }
        }
    }
    rt_unlock(&map->lock);
    *place = at;
    return done;
}

/* Call back for each element. A bucket's are noted first: the callback may remove any. */
u64 rt_hash_each(struct rt_map *map, rt_helper callback, u64 ctx, struct rt_env *env)
{
    enum { NOTED = 64 };
    u64 done = 0, cpu = 0;
    if (map->cpu_stride) {
        rt_know(env, RT_KNOW_CPU);
        cpu = env->task.cpu;
    }
    for (u32 bucket = 0; bucket < map->buckets && !rt_stopped(env); bucket++) {
        u32 noted[NOTED], count = 0;
        for (u32 at = head_of(map, bucket); !(at & END) && at && count < NOTED; at = __atomic_load_n(&element(map, at - 1)->next, __ATOMIC_ACQUIRE))
            noted[count++] = at - 1;
        for (u32 i = 0; i < count; i++) {
            struct element *e = element(map, noted[i]);
            if (!e->linked || (e->hash & (map->buckets - 1)) != bucket)
                continue;
            done++;
            if (callback((u64)map, (u64)e->key, (u64)(value_of(map, e) + cpu * map->cpu_stride), ctx, 0, env))
                return done;
        }
    }
    return done;
}

/* What programs find in a hash of maps is a map. */
static void *hash_inner_map(struct rt_map *map, const void *key, u32 cpu)
{
    void **place = hash_value(map, key, cpu);
    return place ? __atomic_load_n(place, __ATOMIC_ACQUIRE) : NULL;
}

const struct rt_ops rt_hash_of_maps_ops = {
    .value = hash_inner_map,
    .read = hash_read,
    .put = hash_put,
    .remove = hash_remove,
    .take = hash_take,
    .next = hash_next,
};

const struct rt_ops rt_hash_ops = {
    .value = hash_value,
    .read = hash_read,
    .put = hash_put,
    .remove = hash_remove,
    .take = hash_take,
    .next = hash_next,
};

/* Helpers for a hash that is known when a program is compiled: no search for its operations. */
RT_API u64 rt_hash_map_lookup_elem(u64 map, u64 key, u64 c, u64 d, u64 e, struct rt_env *env)
{
    (void)c, (void)d, (void)e, (void)env;
    struct element *found = find((struct rt_map *)map, (void *)key, hash_of((struct rt_map *)map, (void *)key));
    return found ? (u64)value_of((struct rt_map *)map, found) : 0;
}

RT_API u64 rt_hash_map_update_elem(u64 map, u64 key, u64 value, u64 flags, u64 e, struct rt_env *env)
{
    (void)e, (void)env;
    if (flags > PUT_EXIST)
        return (u64)rt_map_put((struct rt_map *)map, (void *)key, (void *)value, flags, 0, 0);
    return (u64)hash_put((struct rt_map *)map, (void *)key, (void *)value, flags, 0, 0);
}

RT_API u64 rt_hash_map_delete_elem(u64 map, u64 key, u64 c, u64 d, u64 e, struct rt_env *env)
{
    (void)c, (void)d, (void)e, (void)env;
    return (u64)hash_remove((struct rt_map *)map, (void *)key);
}
