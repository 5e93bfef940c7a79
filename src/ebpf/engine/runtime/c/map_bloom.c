/* Bloom filters: a value's bits are set one by one, and a value whose bits are all set may have been put in. */
#include "maps.h"

#include <errno.h>

/* `buckets` is how many hash functions there are, `data_size` a power of two of bytes. */
static u64 bit_of(const struct rt_map *map, const void *value, u32 number)
{
    return rt_mix(value, map->value_size, map->seed + 0x9E3779B97F4A7C15ull * (number + 1)) >> 16 & (map->data_size * 8 - 1);
}

static s64 bloom_push(struct rt_map *map, const void *value, u64 flags)
{
    if (flags)
        return -EINVAL;
    for (u32 i = 0; i < map->buckets; i++) {
        u64 bit = bit_of(map, value, i);
        __atomic_or_fetch(map->data + bit / 8, (u8)(1 << bit % 8), __ATOMIC_RELAXED);
    }
    return 0;
}

static s64 bloom_peek(struct rt_map *map, void *value)
{
    for (u32 i = 0; i < map->buckets; i++) {
        u64 bit = bit_of(map, value, i);
        if (!(__atomic_load_n(map->data + bit / 8, __ATOMIC_RELAXED) & 1 << bit % 8))
            return -ENOENT;
    }
    return 0;
}

static s64 bloom_pop(struct rt_map *map, void *value)
{
    (void)map, (void)value;
    return -EOPNOTSUPP;
}

const struct rt_ops rt_bloom_ops = {.push = bloom_push, .pop = bloom_pop, .peek = bloom_peek};
