/* Arrays, shared or per CPU, and arrays of addresses: every element is there from the beginning. */
#include "maps.h"

#include <errno.h>
#include <string.h>

static void *array_value(struct rt_map *map, const void *key, u32 cpu)
{
    u32 index;
    memcpy(&index, key, 4);
    if (index >= map->max_entries)
        return NULL;
    return map->data + (u64)index * map->elem_size + (u64)cpu * map->cpu_stride;
}

static s64 array_read(struct rt_map *map, const void *key, void *out, u64 size)
{
    void *at = array_value(map, key, 0);
    if (!at)
        return -ENOENT;
    memcpy(out, at, size);
    return 0;
}

static s64 array_put(struct rt_map *map, const void *key, const void *value, u64 flags, int per_cpu, u32 cpu)
{
    u32 index;
    memcpy(&index, key, 4);
    if (index >= map->max_entries)
        return -E2BIG;
    if (flags & PUT_NOEXIST)
        return -EEXIST;
    u8 *to = map->data + (u64)index * map->elem_size;
    if (flags & PUT_LOCK)
        rt_write_locked(map, to, value);
    else
        rt_fill(map, to, value, per_cpu, cpu);
    rt_free_fields(map, to);
    return 0;
}

static s64 array_remove(struct rt_map *map, const void *key)
{
    (void)map, (void)key;
    return -EINVAL;
}

static s64 array_next(struct rt_map *map, const void *key, void *out)
{
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

const struct rt_ops rt_array_ops = {
    .value = array_value, .read = array_read, .put = array_put, .remove = array_remove, .next = array_next};

/* Arrays of addresses: programs have helpers of their own for them. */
const struct rt_ops rt_slots_ops = {.next = array_next};

/* What programs find in an array of maps is a map. */
static void *inner_map(struct rt_map *map, const void *key, u32 cpu)
{
    void **place = array_value(map, key, cpu);
    return place ? __atomic_load_n(place, __ATOMIC_ACQUIRE) : NULL;
}

const struct rt_ops rt_array_of_maps_ops = {.value = inner_map, .next = array_next};

/* Interfaces: {index, the id of a program}. Index 0 is none. */
static void *device(struct rt_map *map, const void *key, u32 cpu)
{
    u32 *place = array_value(map, key, cpu);
    return place && __atomic_load_n(place, __ATOMIC_ACQUIRE) ? place : NULL;
}

static s64 device_read(struct rt_map *map, const void *key, void *out, u64 size)
{
    void *at = device(map, key, 0);
    if (!at)
        return -ENOENT;
    u64 whole = __atomic_load_n((u64 *)at, __ATOMIC_ACQUIRE);
    memcpy(out, &whole, size);
    return 0;
}

const struct rt_ops rt_devmap_ops = {.value = device, .read = device_read, .next = array_next};

/* -- stack traces: {how many addresses, their hash}, then the addresses */

static u32 *trace_at(struct rt_map *map, u32 index)
{
    u32 *head = (u32 *)(map->data + (u64)index * map->elem_size);
    return index < map->buckets && __atomic_load_n(head, __ATOMIC_ACQUIRE) ? head : NULL;
}

static s64 trace_read(struct rt_map *map, const void *key, void *out, u64 size)
{
    u32 index;
    memcpy(&index, key, 4);
    rt_lock(&map->lock);
    u32 *head = trace_at(map, index);
    if (head) {
        u64 length = (u64)head[0] * 8 < size ? (u64)head[0] * 8 : size;
        memcpy(out, head + 2, length);
        memset((u8 *)out + length, 0, size - length);
    }
    rt_unlock(&map->lock);
    return head ? 0 : -ENOENT;
}

/* Keep a stack: its number, or -EEXIST where another one has that place. */
s64 rt_trace_keep(struct rt_map *map, const u64 *frames, u32 count, int by_hash, int replace)
{
    u32 hash = (u32)(rt_mix((const u8 *)frames, count * 8, 0x9E3779B97F4A7C15ull) >> 32), index = hash & (map->buckets - 1);
    s64 result = index;
    rt_lock(&map->lock);
    u32 *head = (u32 *)(map->data + (u64)index * map->elem_size);
    int there = head[0] != 0, same = there && head[1] == hash && (by_hash || (head[0] == count && !memcmp(head + 2, frames, count * 8ull)));
    if (there && !same && !replace) {
        result = -EEXIST;
    } else if (!same) {
        memcpy(head + 2, frames, count * 8ull);
        head[1] = hash;
        __atomic_store_n(head, count, __ATOMIC_RELEASE);
    }
    rt_unlock(&map->lock);
    return result;
}

static s64 trace_remove(struct rt_map *map, const void *key)
{
    u32 index;
    memcpy(&index, key, 4);
    if (index >= map->buckets)
        return -E2BIG;
    rt_lock(&map->lock);
    u32 *head = trace_at(map, index);
    if (head)
        __atomic_store_n(head, 0, __ATOMIC_RELEASE);
    rt_unlock(&map->lock);
    return head ? 0 : -ENOENT;
}

static s64 trace_take(struct rt_map *map, const void *key, void *out, u64 size)
{
    s64 result = trace_read(map, key, out, size);
    return result ? result : trace_remove(map, key);
}

static s64 trace_next(struct rt_map *map, const void *key, void *out)
{
    u32 index = 0;
    if (key) {
        memcpy(&index, key, 4);
        index = index >= map->buckets ? 0 : index + 1;
    }
    for (; index < map->buckets; index++)
        if (trace_at(map, index)) {
            memcpy(out, &index, 4);
            return 0;
        }
    return -ENOENT;
}

static s64 trace_put(struct rt_map *map, const void *key, const void *value, u64 flags, int per_cpu, u32 cpu)
{
    (void)map, (void)key, (void)value, (void)flags, (void)per_cpu, (void)cpu;
    return -EINVAL;
}

const struct rt_ops rt_trace_ops = {.read = trace_read, .put = trace_put, .remove = trace_remove, .take = trace_take, .next = trace_next};
