/* Helpers that call back into the program. A callback has the shape of a helper's body. */
#include "maps.h"

#include <errno.h>

#define HELPER(name) RT_API u64 rt_helper_##name(u64 a, u64 b, u64 c, u64 d, u64 e, struct rt_env *env)

enum { MOST_LOOPS = 1 << 23 };

HELPER(loop)
{
    (void)e;
    rt_helper callback = (rt_helper)b;
    u32 count = (u32)a;
    if (d)
        return (u64)-EINVAL;
    /* 32 bits of it: Linux writes most loops out in place, with this answer. */
    if (count > MOST_LOOPS)
        return (u32)-E2BIG;
    for (u32 i = 0; i < count && !rt_stopped(env); i++)
        if (callback(i, c, 0, 0, 0, env))
            return i + 1;
    return count;
}

static u64 each_of_array(struct rt_map *map, rt_helper callback, u64 ctx, struct rt_env *env)
{
    u64 cpu = 0;
    if (map->cpu_stride) {
        rt_know(env, RT_KNOW_CPU);
        cpu = env->task.cpu;
    }
    for (u32 i = 0; i < map->max_entries && !rt_stopped(env); i++) {
        u32 key = i;
        u8 *value = map->data + (u64)i * map->elem_size + cpu * map->cpu_stride;
        if (callback((u64)map, (u64)&key, (u64)value, ctx, 0, env))
            return i + 1;
    }
    return map->max_entries;
}

HELPER(for_each_map_elem)
{
    (void)e;
    struct rt_map *map = (struct rt_map *)a;
    if (d)
        return (u64)-EINVAL;
    if (map->type == RT_MAP_ARRAY || map->type == RT_MAP_PERCPU_ARRAY)
        return each_of_array(map, (rt_helper)b, c, env);
    return rt_hash_each(map, (rt_helper)b, c, env);
}
