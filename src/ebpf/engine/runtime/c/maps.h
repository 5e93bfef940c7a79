/* What every type of map offers, and what the types share. */
#ifndef EBPF_MAPS_H
#define EBPF_MAPS_H

#include "rt.h"

enum { PUT_ANY = 0, PUT_NOEXIST = 1, PUT_EXIST = 2, PUT_LOCK = 4 };

/* A type's operations. One that is missing is refused by who asks: maps.c for programs, the kernel for everybody else.
 * `per_cpu` 1 means all CPUs' values side by side, 0 those of `cpu` alone. */
struct rt_ops {
    void *(*value)(struct rt_map *map, const void *key, u32 cpu);
    s64 (*read)(struct rt_map *map, const void *key, void *out, u64 size); /* a copy that no writer tears */
    s64 (*put)(struct rt_map *map, const void *key, const void *value, u64 flags, int per_cpu, u32 cpu);
    s64 (*remove)(struct rt_map *map, const void *key);
    s64 (*take)(struct rt_map *map, const void *key, void *out, u64 size);
    s64 (*next)(struct rt_map *map, const void *key, void *out);
    s64 (*push)(struct rt_map *map, const void *value, u64 flags);
    s64 (*pop)(struct rt_map *map, void *value);
    s64 (*peek)(struct rt_map *map, void *value);
};

extern const struct rt_ops rt_array_ops, rt_slots_ops, rt_array_of_maps_ops, rt_devmap_ops, rt_trace_ops, rt_hash_ops, rt_hash_of_maps_ops,
    rt_queue_ops, rt_stack_ops, rt_bloom_ops, rt_trie_ops;

/* The operations of a map; NULL for a type that has none. */
const struct rt_ops *rt_ops_of(const struct rt_map *map);

static inline u32 round8(u32 n) { return (n + 7) & ~7u; }

/* Copy bytes; the sizes that keys and values mostly have cost no call, and four and eight are written whole. */
static inline void rt_copy(void *to, const void *from, u64 size)
{
    if (size == 8)
        __builtin_memcpy(to, from, 8);
    else if (size == 4)
        __builtin_memcpy(to, from, 4);
    else
        __builtin_memcpy(to, from, size);
}

/* The lock that a program takes in a value; NULL if values have none. */
static inline u32 *rt_value_lock(const struct rt_map *map, void *value) { return map->lock_at ? (u32 *)((u8 *)value + map->lock_at - 1) : NULL; }

/* What is the kernel's in a value, by place: its lock and its timer. */
enum { RT_LOCK_SIZE = 4, RT_TIMER_SIZE = 16, RT_FIELDS = 2 };
struct rt_field {
    u32 at, size;
};
static inline int rt_has_fields(const struct rt_map *map) { return __builtin_expect((map->lock_at | map->timer_at) != 0, 0); }
static inline u32 rt_fields(const struct rt_map *map, struct rt_field *out)
{
    struct rt_field lock = {map->lock_at - 1, RT_LOCK_SIZE}, timer = {map->timer_at - 1, RT_TIMER_SIZE};
    u32 count = 0;
    if (map->lock_at && !(map->timer_at && timer.at < lock.at))
        out[count++] = lock;
    if (map->timer_at)
        out[count++] = timer;
    if (map->lock_at && map->timer_at && timer.at < lock.at)
        out[count++] = lock;
    return count;
}

/* Write a value around what is the kernel's in it, which stays as it is. */
static inline void rt_write_around(const struct rt_map *map, u8 *to, const u8 *value)
{
    struct rt_field fields[RT_FIELDS];
    u32 count = rt_fields(map, fields), done = 0;
    for (u32 i = 0; i < count; i++) {
        __builtin_memcpy(to + done, value + done, fields[i].at - done);
        done = fields[i].at + fields[i].size;
    }
    __builtin_memcpy(to + done, value + done, map->value_size - done);
}

/* Write a value while no program holds its lock. */
static inline void rt_write_locked(const struct rt_map *map, u8 *to, const u8 *value)
{
    u32 *lock = rt_value_lock(map, to);
    rt_lock(lock);
    rt_write_around(map, to, value);
    rt_unlock(lock);
}

/* Nobody outside is shown what is the kernel's in a value. */
static inline void rt_hide_fields(const struct rt_map *map, void *value)
{
    if (!rt_has_fields(map))
        return;
    struct rt_field fields[RT_FIELDS];
    u32 count = rt_fields(map, fields);
    for (u32 i = 0; i < count; i++)
        __builtin_memset((u8 *)value + fields[i].at, 0, fields[i].size);
}

/* A value that is written anew, or goes, takes its timer with it. */
static inline void rt_free_fields(struct rt_map *map, void *value)
{
    if (__builtin_expect(map->timer_at != 0, 0))
        rt_timer_drop(map, value);
}

/* Write a value: one CPU's (`per_cpu` 0) or, for a per-CPU map, all CPUs' side by side (`per_cpu` 1). */
static inline void rt_fill(struct rt_map *map, u8 *to, const void *value, int per_cpu, u32 cpu)
{
    if (rt_has_fields(map))
        rt_write_around(map, to, value);
    else if (!map->cpu_stride)
        rt_copy(to, value, map->value_size);
    else if (per_cpu)
        __builtin_memcpy(to, value, (u64)map->cpu_stride * map->ncpu);
    else
        rt_copy(to + (u64)cpu * map->cpu_stride, value, map->value_size);
}

static inline __attribute__((always_inline)) u64 rt_mix(const u8 *at, u32 left, u64 h)
{
    while (left >= 8) {
        u64 word;
        __builtin_memcpy(&word, at, 8);
        h = (h ^ word) * 0xFF51AFD7ED558CCDull;
        h ^= h >> 32;
        at += 8;
        left -= 8;
    }
    if (left) {
        u64 word = 0;
        __builtin_memcpy(&word, at, left);
        h = (h ^ word) * 0xFF51AFD7ED558CCDull;
        h ^= h >> 32;
    }
    return h * 0xC4CEB9FE1A85EC53ull;
}

/* A few bytes, whose number is nearly always one of these. */
static inline void copy_few(u8 *to, const u8 *from, u32 size)
{
    if (size == 4)
        __builtin_memcpy(to, from, 4);
    else if (size == 8)
        __builtin_memcpy(to, from, 8);
    else if (size == 16)
        __builtin_memcpy(to, from, 16);
    else if (size == 2)
        __builtin_memcpy(to, from, 2);
    else
        __builtin_memcpy(to, from, size);
}

#endif
