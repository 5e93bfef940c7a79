/* Arrays, shared or per CPU: every element is there from the beginning. */
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
    rt_fill(map, map->data + (u64)index * map->elem_size, value, per_cpu, cpu);
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
