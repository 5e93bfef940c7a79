/* Maps by type: the operations that the kernel and the helpers call, and batches of them. */
#include "maps.h"

#include <errno.h>
#include <string.h>

static const struct rt_ops *const OPS[] = {
    [RT_MAP_HASH] = &rt_hash_ops,
    [RT_MAP_ARRAY] = &rt_array_ops,
    [RT_MAP_PROG_ARRAY] = &rt_slots_ops,
    [RT_MAP_PERF_EVENT_ARRAY] = &rt_slots_ops,
    [RT_MAP_PERCPU_HASH] = &rt_hash_ops,
    [RT_MAP_PERCPU_ARRAY] = &rt_array_ops,
    [RT_MAP_STACK_TRACE] = &rt_trace_ops,
    [RT_MAP_CGROUP_ARRAY] = &rt_slots_ops,
    [RT_MAP_LRU_HASH] = &rt_hash_ops,
    [RT_MAP_LRU_PERCPU_HASH] = &rt_hash_ops,
    [RT_MAP_LPM_TRIE] = &rt_trie_ops,
    [RT_MAP_ARRAY_OF_MAPS] = &rt_array_of_maps_ops,
    [RT_MAP_HASH_OF_MAPS] = &rt_hash_of_maps_ops,
    [RT_MAP_DEVMAP] = &rt_devmap_ops,
    [RT_MAP_QUEUE] = &rt_queue_ops,
    [RT_MAP_STACK] = &rt_stack_ops,
    [RT_MAP_DEVMAP_HASH] = &rt_hash_ops,
    [RT_MAP_TASK_STORAGE] = &rt_hash_ops,
    [RT_MAP_BLOOM_FILTER] = &rt_bloom_ops,
    [RT_MAP_CGRP_STORAGE] = &rt_hash_ops,
};

const struct rt_ops *rt_ops_of(const struct rt_map *map)
{
    static const struct rt_ops none;
    const struct rt_ops *ops = map->type < sizeof OPS / sizeof *OPS ? OPS[map->type] : NULL;
    return ops ? ops : &none;
}

static inline int is_array(const struct rt_map *map) { return map->type == RT_MAP_ARRAY || map->type == RT_MAP_PERCPU_ARRAY; }

/* The value under a key for one CPU, or NULL. */
RT_API void *rt_map_value(struct rt_map *map, const void *key, u32 cpu)
{
    const struct rt_ops *ops = rt_ops_of(map);
    return ops->value ? ops->value(map, key, cpu) : NULL;
}

/* Copy the value under a key (all CPUs') out, whole. */
RT_API s64 rt_map_read(struct rt_map *map, const void *key, void *out, u64 size)
{
    const struct rt_ops *ops = rt_ops_of(map);
    s64 result = ops->read ? ops->read(map, key, out, size) : -EOPNOTSUPP;
    if (!result)
        rt_hide_fields(map, out);
    return result;
}

/* The same of a value that no program holds the lock of meanwhile. */
RT_API s64 rt_map_read_locked(struct rt_map *map, const void *key, void *out, u64 size)
{
    u8 *value = rt_map_value(map, key, 0);
    if (!value)
        return -ENOENT;
    u32 *lock = rt_value_lock(map, value);
    rt_lock(lock);
    memcpy(out, value, size);
    rt_unlock(lock);
    rt_hide_fields(map, out);
    return 0;
}

RT_API s64 rt_map_put(struct rt_map *map, const void *key, const void *value, u64 flags, int per_cpu, u32 cpu)
{
    const struct rt_ops *ops = rt_ops_of(map);
    if (!ops->put || (flags & ~(u64)PUT_LOCK) > PUT_EXIST || (flags & PUT_LOCK && !map->lock_at))
        return -EINVAL;
    return ops->put(map, key, value, flags, per_cpu, cpu);
}

RT_API s64 rt_map_remove(struct rt_map *map, const void *key)
{
    const struct rt_ops *ops = rt_ops_of(map);
    return ops->remove ? ops->remove(map, key) : -EINVAL;
}

RT_API s64 rt_map_take(struct rt_map *map, const void *key, void *out, u64 size)
{
    const struct rt_ops *ops = rt_ops_of(map);
    s64 result = ops->take ? ops->take(map, key, out, size) : -EOPNOTSUPP;
    if (!result)
        rt_hide_fields(map, out);
    return result;
}

/* The key after `key` (NULL: the first): 0, or -ENOENT at the end. */
RT_API s64 rt_map_next(struct rt_map *map, const void *key, void *out)
{
    const struct rt_ops *ops = rt_ops_of(map);
    return ops->next ? ops->next(map, key, out) : -EINVAL;
}

RT_API s64 rt_map_push(struct rt_map *map, const void *value, u64 flags)
{
    const struct rt_ops *ops = rt_ops_of(map);
    return ops->push ? ops->push(map, value, flags) : -EINVAL;
}

RT_API s64 rt_map_pop(struct rt_map *map, void *value)
{
    const struct rt_ops *ops = rt_ops_of(map);
    return ops->pop ? ops->pop(map, value) : -EINVAL;
}

RT_API s64 rt_map_peek(struct rt_map *map, void *value)
{
    const struct rt_ops *ops = rt_ops_of(map);
    return ops->peek ? ops->peek(map, value) : -EINVAL;
}

/* Copy up to `count` elements out (with `take`: and remove them), beginning at bucket or index `*place`; sets where to go on. */
static u32 map_batch(struct rt_map *map, u32 *place, u32 count, u8 *keys, u8 *values, u32 value_bytes, int take)
{
    u32 at = *place, done = 0;
    if (!is_array(map))
        return rt_hash_batch(map, place, count, keys, values, value_bytes, take);
    u32 whole = map->max_entries - at < count ? map->max_entries - at : count;
    for (u32 i = 0; i < whole; i++) {
        u32 index = at + i;
        memcpy(keys + 4ull * i, &index, 4);
    }
    if (value_bytes == map->elem_size)
        memcpy(values, map->data + (u64)at * map->elem_size, (u64)whole * value_bytes);
    else
        for (; done < whole; done++)
            memcpy(values + (u64)value_bytes * done, map->data + (u64)(at + done) * map->elem_size, value_bytes);
    *place = at + whole;
    return whole;
}

RT_API u32 rt_map_batch(struct rt_map *map, u32 *place, u32 count, u8 *keys, u8 *values, u32 value_bytes, int take)
{
    u32 done = map_batch(map, place, count, keys, values, value_bytes, take);
    for (u32 i = 0; rt_has_fields(map) && i < done; i++)
        rt_hide_fields(map, values + (u64)i * value_bytes);
    return done;
}

/* Write `count` elements that stand end to end; the answer of the first that fails, and how many went before it. */
RT_API s64 rt_map_put_many(struct rt_map *map, const u8 *keys, const u8 *values, u32 count, u64 flags, u32 value_bytes, u32 *done)
{
    s64 result = 0;
    for (*done = 0; *done < count && !result; *done += !result)
        result = rt_map_put(map, keys + (u64)map->key_size * *done, values + (u64)value_bytes * *done, flags, 1, 0);
    return result;
}

RT_API s64 rt_map_remove_many(struct rt_map *map, const u8 *keys, u32 count, u32 *done)
{
    s64 result = 0;
    for (*done = 0; *done < count && !result; *done += !result)
        result = rt_map_remove(map, keys + (u64)map->key_size * *done);
    return result;
}

/* -- helpers */

#define MAP_HELPER(name) RT_API u64 rt_helper_##name(u64 a, u64 b, u64 c, u64 d, u64 e, struct rt_env *env)

static u32 this_cpu(struct rt_map *map, struct rt_env *env)
{
    if (!map->cpu_stride)
        return 0;
    rt_know(env, RT_KNOW_CPU);
    return env->task.cpu;
}

MAP_HELPER(map_lookup_elem)
{
    (void)c, (void)d, (void)e;
    struct rt_map *map = (struct rt_map *)a;
    return (u64)rt_map_value(map, (void *)b, this_cpu(map, env));
}
MAP_HELPER(map_lookup_percpu_elem)
{
    (void)d, (void)e;
    return (u32)c < env->ncpu ? (u64)rt_map_value((struct rt_map *)a, (void *)b, (u32)c) : 0;
}
MAP_HELPER(map_update_elem)
{
    (void)e;
    struct rt_map *map = (struct rt_map *)a;
    return (u64)rt_map_put(map, (void *)b, (void *)c, d, 0, this_cpu(map, env));
}
MAP_HELPER(map_delete_elem) { (void)c, (void)d, (void)e, (void)env; return (u64)rt_map_remove((struct rt_map *)a, (void *)b); }
/* Where a tail call leads: the address of the program's code, 0 to go on. The 34th of one run leads nowhere, as on Linux. */
MAP_HELPER(tail_call)
{
    enum { MOST = 33 };
    (void)a, (void)d, (void)e;
    struct rt_map *map = (struct rt_map *)b;
    if ((u32)c >= map->max_entries || env->tail_calls >= MOST)
        return 0;
    u64 target = __atomic_load_n((u64 *)map->data + (u32)c, __ATOMIC_ACQUIRE);
    env->tail_calls += target != 0;
    return target;
}
MAP_HELPER(map_push_elem) { (void)d, (void)e, (void)env; return (u64)rt_map_push((struct rt_map *)a, (void *)b, c); }
MAP_HELPER(map_pop_elem) { (void)c, (void)d, (void)e, (void)env; return (u64)rt_map_pop((struct rt_map *)a, (void *)b); }
MAP_HELPER(map_peek_elem) { (void)c, (void)d, (void)e, (void)env; return (u64)rt_map_peek((struct rt_map *)a, (void *)b); }
/* Locks in values: held for a few instructions, by a program that calls nothing meanwhile. */
MAP_HELPER(spin_lock) { (void)b, (void)c, (void)d, (void)e, (void)env; rt_lock((u32 *)a); return 0; }
MAP_HELPER(spin_unlock) { (void)b, (void)c, (void)d, (void)e, (void)env; rt_unlock((u32 *)a); return 0; }
