/* Queues and stacks: a ring of one slot more than they hold, under one lock. Each change becomes visible by one store. */
#include "maps.h"

#include <errno.h>
#include <string.h>

struct ring {
    u32 head, tail; /* where the next element goes; the oldest */
};

static inline struct ring *ring_of(struct rt_map *map) { return map->meta; }
static inline u32 after(const struct rt_map *map, u32 at) { return at == map->max_entries ? 0 : at + 1; }
static inline u32 before(const struct rt_map *map, u32 at) { return at ? at - 1 : map->max_entries; }
static inline u8 *slot_at(struct rt_map *map, u32 at) { return map->data + (u64)at * map->elem_size; }

static s64 ring_push(struct rt_map *map, const void *value, u64 flags)
{
    if (flags & PUT_NOEXIST || flags > PUT_EXIST)
        return -EINVAL;
    struct ring *ring = ring_of(map);
    s64 result = 0;
    rt_lock(&map->lock);
    if (after(map, ring->head) == ring->tail) {
        if (flags == PUT_EXIST)
            ring->tail = after(map, ring->tail);
        else
            result = -E2BIG;
    }
    if (!result) {
        memcpy(slot_at(map, ring->head), value, map->value_size);
        __atomic_store_n(&ring->head, after(map, ring->head), __ATOMIC_RELEASE);
    }
    rt_unlock(&map->lock);
    return result;
}

static s64 ring_get(struct rt_map *map, void *value, int newest, int stay)
{
    struct ring *ring = ring_of(map);
    s64 result = 0;
    rt_lock(&map->lock);
    if (ring->head == ring->tail) {
        memset(value, 0, map->value_size);
        result = -ENOENT;
    } else {
        u32 at = newest ? before(map, ring->head) : ring->tail;
        memcpy(value, slot_at(map, at), map->value_size);
        if (!stay && newest)
            __atomic_store_n(&ring->head, at, __ATOMIC_RELEASE);
        else if (!stay)
            __atomic_store_n(&ring->tail, after(map, at), __ATOMIC_RELEASE);
    }
    rt_unlock(&map->lock);
    return result;
}

static s64 queue_pop(struct rt_map *map, void *value) { return ring_get(map, value, 0, 0); }
static s64 queue_peek(struct rt_map *map, void *value) { return ring_get(map, value, 0, 1); }
static s64 stack_pop(struct rt_map *map, void *value) { return ring_get(map, value, 1, 0); }
static s64 stack_peek(struct rt_map *map, void *value) { return ring_get(map, value, 1, 1); }

const struct rt_ops rt_queue_ops = {.push = ring_push, .pop = queue_pop, .peek = queue_peek};
const struct rt_ops rt_stack_ops = {.push = ring_push, .pop = stack_pop, .peek = stack_peek};
