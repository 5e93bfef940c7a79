/* Ring buffers and perf buffers, in Linux's page layouts, so that one reader serves both kernels. */
#include "rt.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define BUSY 0x80000000u
#define DISCARD 0x40000000u
enum { NO_WAKEUP = 1, FORCE_WAKEUP = 2 };

/* The page before the consumer's holds what finds the map again from a record. */
static inline u8 *pages(struct rt_map *map) { return map->data - 3 * RT_PAGE; }
static inline u64 *consumer(struct rt_map *map) { return (u64 *)(map->data - 2 * RT_PAGE); }
static inline u64 *producer(struct rt_map *map) { return (u64 *)(map->data - RT_PAGE); }

/* Who writes the records that are not finished, by where they begin: a writer may be killed, and its record would be waited for for
 * ever. It stands in the producer's page, which readers cannot write. `at` is the record's position + 1 (0: free). */
enum { NOTES = 128, LOOKS_BEFORE = 16 };
struct note {
    u64 at, tid;
};
struct notes {
    u64 producer, stuck, looks, unused[5];
    struct note of[NOTES];
};
_Static_assert(sizeof(struct notes) <= RT_PAGE, "notes are in the producer's page");

static inline struct notes *notes(struct rt_map *map) { return (struct notes *)producer(map); }
static inline struct note *note_of(struct rt_map *map, u64 at) { return &notes(map)->of[at / 8 % NOTES]; }

/* Free a note: of a record that was finished, or whose writer is dead. That one is discarded then, and a reader that sleeps is told. */
static __attribute__((noinline, cold)) int release_note(struct rt_map *map, struct note *note, u64 read, u64 end)
{
    u64 at = __atomic_load_n(&note->at, __ATOMIC_ACQUIRE) - 1, behind = end - at;
    if (behind && behind <= end - read && behind <= map->max_entries) {
        u32 *header = (u32 *)(map->data + (at & (map->max_entries - 1)));
        u32 length = __atomic_load_n(header, __ATOMIC_ACQUIRE);
        if (length & BUSY) {
            if (!rt_is_dead((u32)note->tid))
                return 0;
            __atomic_store_n(header, (length & ~BUSY) | DISCARD, __ATOMIC_SEQ_CST);
            u64 one = 1;
            if (map->event_fd >= 0)
                (void)!write(map->event_fd, &one, 8);
        }
    }
    __atomic_store_n(&note->at, 0, __ATOMIC_RELEASE);
    return 1;
}

/* The reader waits for a record that is not finished: is somebody still at it? Asked now and then, and when there is no room. */
static __attribute__((noinline, cold)) void look_for_writer(struct rt_map *map, u64 read, u64 write, int now)
{
    struct notes *all = notes(map);
    if (all->stuck != read + 1) {
        all->stuck = read + 1;
        all->looks = 0;
    }
    struct note *note = note_of(map, read);
    if ((now || ++all->looks % LOOKS_BEFORE == 0) && note->at == read + 1)
        release_note(map, note, read, write);
}

static void *reserve(struct rt_map *map, u64 size)
{
    u64 mask = map->max_entries - 1, room = (size + 8 + 7) & ~7ull;
    if (room > map->max_entries || size >= DISCARD)
        return NULL;
    rt_lock(&map->lock);
    u64 read = __atomic_load_n(consumer(map), __ATOMIC_ACQUIRE), write = *producer(map);
    int full = write + room - read > map->max_entries;
    if (write != read && __builtin_expect(*(u32 *)(map->data + (read & mask & ~7ull)) & BUSY, 0))
        look_for_writer(map, read, write, full);
    if (full) {
        rt_unlock(&map->lock);
        return NULL;
    }
    struct note *note = note_of(map, write);
    u64 behind = write - (note->at - 1);
    /* Most notes are of records that were read long ago. */
    if (!note->at || behind > write - read || release_note(map, note, read, write)) {
        note->tid = map->lock;
        __atomic_store_n(&note->at, write + 1, __ATOMIC_RELEASE);
    }
    u8 *header = map->data + (write & mask);
    u32 words[2] = {(u32)size | BUSY, (u32)((header - pages(map)) / RT_PAGE)};
    memcpy(header, words, 8);
    __atomic_store_n(producer(map), write + room, __ATOMIC_RELEASE);
    rt_unlock(&map->lock);
    return header + 8;
}

static void commit(void *sample, u64 flags, int discard)
{
    u8 *header = (u8 *)sample - 8;
    u32 back;
    memcpy(&back, header + 4, 4);
    u8 *first = (u8 *)((u64)header & ~(u64)(RT_PAGE - 1)) - (u64)back * RT_PAGE;
    struct rt_map *map = *(struct rt_map **)first;
    u32 length = (*(u32 *)header & ~BUSY) | (discard ? DISCARD : 0);
    __atomic_store_n((u32 *)header, length, __ATOMIC_SEQ_CST);
    /* The reader sleeps only when it has read up to this record. */
    u64 mask = map->max_entries - 1, place = (u64)(header - map->data) & mask;
    u64 read = __atomic_load_n(consumer(map), __ATOMIC_SEQ_CST) & mask;
    if (flags & FORCE_WAKEUP || (place == read && !(flags & NO_WAKEUP))) {
        u64 one = 1;
        if (map->event_fd >= 0)
            (void)!write(map->event_fd, &one, 8);
    }
}

RT_API void rt_ringbuf_init(struct rt_map *map) { *(struct rt_map **)pages(map) = map; }

RT_API u64 rt_helper_ringbuf_reserve(u64 map, u64 size, u64 flags, u64 d, u64 e, struct rt_env *env)
{
    (void)d, (void)e, (void)env;
    return flags ? 0 : (u64)reserve((struct rt_map *)map, size);
}

RT_API u64 rt_helper_ringbuf_submit(u64 sample, u64 flags, u64 c, u64 d, u64 e, struct rt_env *env)
{
    (void)c, (void)d, (void)e, (void)env;
    commit((void *)sample, flags, 0);
    return 0;
}

RT_API u64 rt_helper_ringbuf_discard(u64 sample, u64 flags, u64 c, u64 d, u64 e, struct rt_env *env)
{
    (void)c, (void)d, (void)e, (void)env;
    commit((void *)sample, flags, 1);
    return 0;
}

RT_API u64 rt_helper_ringbuf_output(u64 map, u64 data, u64 size, u64 flags, u64 e, struct rt_env *env)
{
    (void)e, (void)env;
    if (flags & ~3ull)
        return (u64)-EINVAL;
    void *sample = reserve((struct rt_map *)map, size);
    if (!sample)
        return (u64)-EAGAIN;
    memcpy(sample, (void *)data, size);
    commit(sample, flags, 0);
    return 0;
}

RT_API u64 rt_helper_ringbuf_query(u64 map_, u64 what, u64 c, u64 d, u64 e, struct rt_env *env)
{
    (void)c, (void)d, (void)e, (void)env;
    struct rt_map *map = (struct rt_map *)map_;
    u64 read = __atomic_load_n(consumer(map), __ATOMIC_ACQUIRE), write = __atomic_load_n(producer(map), __ATOMIC_ACQUIRE);
    switch (what) {
    case 0: return write - read;
    case 1: return map->max_entries;
    case 2: return read;
    case 3: return write;
    }
    return 0;
}

/* Metadata page of a perf buffer: where the kernel writes next, and what has been read. */
enum { DATA_HEAD = 1024, DATA_TAIL = 1032, DATA_OFFSET = 1040, DATA_SIZE = 1048 };
enum { RECORD_LOST = 2, RECORD_SAMPLE = 9 };

RT_API void rt_perf_init(struct rt_perf *perf)
{
    u64 offset = RT_PAGE;
    memcpy(perf->base + DATA_OFFSET, &offset, 8);
    memcpy(perf->base + DATA_SIZE, &perf->data_size, 8);
}

static void put(struct rt_perf *perf, u64 *head, const void *from, u64 size)
{
    u64 at = *head & (perf->data_size - 1), first = perf->data_size - at;
    u8 *data = perf->base + RT_PAGE;
    if (first >= size) {
        memcpy(data + at, from, size);
    } else {
        memcpy(data + at, from, first);
        memcpy(data, (const u8 *)from + first, size - first);
    }
    *head += size;
}

static s64 perf_output(struct rt_perf *perf, const void *data, u64 size)
{
    static const u8 zeros[8];
    u32 raw = (u32)(((size + 4 + 7) & ~7ull) - 4);
    u64 need = 8 + 4 + (u64)raw;
    rt_lock(&perf->lock);
    u64 head = *(u64 *)(perf->base + DATA_HEAD), tail = __atomic_load_n((u64 *)(perf->base + DATA_TAIL), __ATOMIC_ACQUIRE);
    u64 extra = perf->lost ? 24 : 0;
    if (need > 0xFFFF || need + extra > perf->data_size || head - tail > perf->data_size - need - extra) {
        perf->lost++;
        rt_unlock(&perf->lock);
        return -ENOSPC;
    }
    if (perf->lost) {
        struct {
            u32 type;
            u16 misc, size;
            u64 id, lost;
        } record = {RECORD_LOST, 0, 24, 0, perf->lost};
        put(perf, &head, &record, 24);
        perf->lost = 0;
    }
    struct {
        u32 type;
        u16 misc, size;
        u32 raw;
    } record = {RECORD_SAMPLE, 0, (u16)need, raw};
    put(perf, &head, &record, 12);
    put(perf, &head, data, size);
    put(perf, &head, zeros, raw - size);
    __atomic_store_n((u64 *)(perf->base + DATA_HEAD), head, __ATOMIC_RELEASE);
    rt_unlock(&perf->lock);
    u64 one = 1;
    if (perf->event_fd >= 0)
        (void)!write(perf->event_fd, &one, 8);
    return 0;
}

RT_API u64 rt_helper_perf_event_output(u64 ctx, u64 map_, u64 flags, u64 data, u64 size, struct rt_env *env)
{
    (void)ctx;
    struct rt_map *map = (struct rt_map *)map_;
    u64 index = flags & 0xFFFFFFFFu;
    if (flags & ~0xFFFFFFFFull)
        return (u64)-EINVAL;
    if (index == 0xFFFFFFFFu) {
        rt_know(env, RT_KNOW_CPU);
        index = env->task.cpu;
    }
    if (index >= map->max_entries)
        return (u64)-E2BIG;
    struct rt_perf *perf = __atomic_load_n((struct rt_perf **)map->data + index, __ATOMIC_ACQUIRE);
    return perf ? (u64)perf_output(perf, (void *)data, size) : (u64)-ENOENT;
}
