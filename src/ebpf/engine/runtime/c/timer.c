/* Timers in values (bpf_timer): kept in heaps by when they are due, and run one after the other by a thread of the kernel's. */
#include "maps.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

/* A timer. A value's field has its address in its first word. */
struct timer {
    struct timer *next, *before; /* all of a clock's */
    struct rt_clock *clock;
    struct rt_map *map;
    u8 *value; /* NULL: it went while its function ran */
    rt_helper callback;
    u64 owner; /* the program that the function is of; 0: there is none */
    s64 due;
    u32 base;
    u32 place; /* in its base's heap, from 1; 0: it is not started */
};

/* Timers by one of the system's clocks. Who starts the one that is due first arms `fd`, which wakes the thread. */
struct timer_base {
    clockid_t id;
    s32 fd;
    u32 count, room;
    struct timer **heap;
};
enum { TIMER_BASES = 2 };

struct rt_clock {
    u32 lock;
    u32 stop, thread;
    u32 turns; /* functions that began, ever */
    struct timer *all, *running;
    struct timer *spare; /* those that went: whoever still holds one's address finds its clock there */
    u64 owner; /* of the function that runs */
    struct rt_env *env;
    struct timer_base bases[TIMER_BASES];
};

enum { F_ABS = 1, F_CPU_PIN = 2, MOST_CLOCKS = 16 };
#define NEVER INT64_MAX

static s64 time_of(const struct timer_base *base)
{
    struct timespec now;
    clock_gettime(base->id, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}

/* -- a base's heap: the first is due first */

static void put_at(struct timer_base *base, u32 place, struct timer *t)
{
    base->heap[place - 1] = t;
    t->place = place;
}

static void sift(struct timer_base *base, u32 place, struct timer *t)
{
    for (; place > 1 && base->heap[place / 2 - 1]->due > t->due; place /= 2)
        put_at(base, place, base->heap[place / 2 - 1]);
    for (u32 child; (child = 2 * place) <= base->count; place = child) {
        child += child < base->count && base->heap[child]->due < base->heap[child - 1]->due;
        if (base->heap[child - 1]->due >= t->due)
            break;
        put_at(base, place, base->heap[child - 1]);
    }
    put_at(base, place, t);
}

/* Take a timer out. The answer is whether it was started. */
static int stop_timer(struct timer *t)
{
    struct timer_base *base = &t->clock->bases[t->base];
    u32 place = t->place;
    if (!place)
        return 0;
    t->place = 0;
    struct timer *last = base->heap[--base->count];
    if (last != t)
        sift(base, place, last);
    return 1;
}

static void arm_base(struct timer_base *base)
{
    s64 due = base->count ? base->heap[0]->due : 0;
    if (base->count && due < 1)
        due = 1;
    struct itimerspec when = {.it_value = {due / 1000000000, due % 1000000000}};
    timerfd_settime(base->fd, TFD_TIMER_ABSTIME, &when, NULL);
}

static int start_timer(struct timer *t, s64 due)
{
    struct timer_base *base = &t->clock->bases[t->base];
    stop_timer(t);
    t->due = due;
    if (base->count == base->room) {
        u32 room = base->room ? 2 * base->room : 16;
        struct timer **heap = realloc(base->heap, room * sizeof *heap);
        if (!heap)
            return -ENOMEM;
        base->heap = heap;
        base->room = room;
    }
    sift(base, ++base->count, t);
    if (t->place == 1)
        arm_base(base);
    return 0;
}

static void put_away(struct timer *t)
{
    t->next = t->clock->spare;
    t->clock->spare = t;
}

static void forget_timer(struct timer *t)
{
    struct rt_clock *clock = t->clock;
    stop_timer(t);
    *(t->before ? &t->before->next : &clock->all) = t->next;
    if (t->next)
        t->next->before = t->before;
    t->value = NULL;
    /* The thread that runs its function puts it away afterwards. */
    if (clock->running != t)
        put_away(t);
}

/* -- the thread */

static void run_timer(struct rt_clock *clock, struct timer *t)
{
    struct rt_map *map = t->map;
    struct rt_env *env = clock->env;
    u8 *value = t->value;
    rt_helper callback = t->callback;
    u32 index = 0;
    void *key = value - round8(map->key_size);
    if (map->type == RT_MAP_ARRAY) {
        index = (u32)((u64)(value - map->data) / map->elem_size);
        key = &index;
    }
    clock->running = t;
    clock->owner = t->owner;
    clock->turns++;
    rt_unlock(&clock->lock);
    __atomic_store_n(&env->runs, env->runs + 1, __ATOMIC_SEQ_CST);
    env->tail_calls = 0;
    env->task.known &= ~(u32)RT_KNOW_CPU;
    callback((u64)map, (u64)key, (u64)value, 0, 0, env);
    __atomic_store_n(&env->runs, env->runs + 1, __ATOMIC_RELEASE);
    rt_lock(&clock->lock);
    clock->running = NULL;
    clock->owner = 0;
    if (!t->value)
        put_away(t);
}

static struct timer *take_due(struct rt_clock *clock)
{
    for (u32 i = 0; i < TIMER_BASES; i++) {
        struct timer_base *base = &clock->bases[i];
        struct timer *first = base->count ? base->heap[0] : NULL;
        if (first && first->due <= time_of(base)) {
            stop_timer(first);
            return first;
        }
        arm_base(base);
    }
    return NULL;
}

/* Run what is due, in these surroundings, until the clock is stopped. */
RT_API void rt_clock_loop(struct rt_clock *clock, struct rt_env *env)
{
    struct pollfd wait[TIMER_BASES];
    for (u32 i = 0; i < TIMER_BASES; i++)
        wait[i] = (struct pollfd){.fd = clock->bases[i].fd, .events = POLLIN};
    rt_lock(&clock->lock);
    clock->thread = rt_self();
    clock->env = env;
    while (!clock->stop) {
        struct timer *t = take_due(clock);
        if (t && t->callback) {
            run_timer(clock, t);
        } else if (!t) {
            rt_unlock(&clock->lock);
            poll(wait, TIMER_BASES, -1);
            rt_lock(&clock->lock);
        }
    }
    rt_unlock(&clock->lock);
}

/* -- what the kernel asks */

/* A clock without timers; NULL if the system has no more descriptors or memory. */
RT_API struct rt_clock *rt_clock_open(void)
{
    struct rt_clock *clock = calloc(1, sizeof *clock);
    if (!clock)
        return NULL;
    const clockid_t ids[TIMER_BASES] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME};
    for (u32 i = 0; i < TIMER_BASES; i++)
        clock->bases[i] = (struct timer_base){ids[i], timerfd_create(ids[i], TFD_CLOEXEC | TFD_NONBLOCK), 0, 0, NULL};
    if (clock->bases[0].fd >= 0 && clock->bases[1].fd >= 0)
        return clock;
    for (u32 i = 0; i < TIMER_BASES; i++)
        if (clock->bases[i].fd >= 0)
            close(clock->bases[i].fd);
    free(clock);
    return NULL;
}

/* Let the thread end, after the function that it runs. */
RT_API void rt_clock_stop(struct rt_clock *clock)
{
    rt_lock(&clock->lock);
    clock->stop = 1;
    if (clock->env)
        clock->env->stop = 1;
    timerfd_settime(clock->bases[0].fd, TFD_TIMER_ABSTIME, &(struct itimerspec){.it_value = {0, 1}}, NULL);
    rt_unlock(&clock->lock);
}

/* Give everything back, when the thread has ended. */
RT_API void rt_clock_close(struct rt_clock *clock)
{
    while (clock->all)
        forget_timer(clock->all);
    for (struct timer *each = clock->spare, *next; each; each = next) {
        next = each->next;
        free(each);
    }
    for (u32 i = 0; i < TIMER_BASES; i++) {
        close(clock->bases[i].fd);
        free(clock->bases[i].heap);
    }
    free(clock);
}

static void wait_for_timer(struct rt_clock *clock, const struct timer *t, u32 turn)
{
    while (clock->running == t && clock->turns == turn) {
        rt_unlock(&clock->lock);
        usleep(20);
        rt_lock(&clock->lock);
    }
}

/* A map goes: so do its timers, and none of them runs any more when this returns. A function that takes long is told to stop. */
RT_API void rt_clock_leave(struct rt_clock *clock, struct rt_map *map)
{
    enum { PATIENCE = 1000 };
    rt_lock(&clock->lock);
    struct timer *t = clock->running;
    u32 turn = clock->turns;
    int runs = t && t->map == map;
    for (struct timer *each = clock->all, *next; each; each = next) {
        next = each->next;
        if (each->map == map) {
            *(struct timer **)(each->value + map->timer_at - 1) = NULL;
            forget_timer(each);
        }
    }
    for (u32 round = 0; runs && clock->thread != rt_self() && clock->running == t && clock->turns == turn; round++) {
        clock->env->stop = round > PATIENCE;
        rt_unlock(&clock->lock);
        usleep(100);
        rt_lock(&clock->lock);
    }
    if (clock->env && !clock->stop)
        clock->env->stop = 0;
    rt_unlock(&clock->lock);
}

/* Whether a timer has a function of this program, or runs one. */
RT_API u32 rt_clock_uses(struct rt_clock *clock, u64 owner)
{
    rt_lock(&clock->lock);
    u32 found = clock->owner == owner;
    for (struct timer *each = clock->all; each && !found; each = each->next)
        found = each->owner == owner;
    rt_unlock(&clock->lock);
    return found;
}

/* What maps do when a value goes or is written anew. A function that runs already runs to its end. */
void rt_timer_drop(struct rt_map *map, u8 *value)
{
    struct timer **field = (struct timer **)(value + map->timer_at - 1);
    struct timer *t = __atomic_load_n(field, __ATOMIC_ACQUIRE);
    if (!t)
        return;
    struct rt_clock *clock = t->clock;
    rt_lock(&clock->lock);
    t = *field;
    *field = NULL;
    if (t)
        forget_timer(t);
    rt_unlock(&clock->lock);
}

/* -- helpers. A field may be reused under them, so each looks at it again once it has the lock. */

#define HELPER(name) RT_API u64 rt_helper_##name(u64 a, u64 b, u64 c, u64 d, u64 e, struct rt_env *env)

/* The timer of a field, with its clock locked; NULL if there is none. */
static struct timer *locked_timer(struct timer **field)
{
    struct timer *t = __atomic_load_n(field, __ATOMIC_ACQUIRE);
    if (!t)
        return NULL;
    struct rt_clock *clock = t->clock;
    rt_lock(&clock->lock);
    if (*field)
        return *field;
    rt_unlock(&clock->lock);
    return NULL;
}

HELPER(timer_init)
{
    (void)d, (void)e, (void)env;
    struct timer **field = (void *)a;
    struct rt_map *map = (void *)b;
    struct rt_clock *clock = __atomic_load_n(&map->clock, __ATOMIC_ACQUIRE);
    if (c >= MOST_CLOCKS || (c != CLOCK_MONOTONIC && c != CLOCK_REALTIME && c != CLOCK_BOOTTIME))
        return (u64)-EINVAL;
    if (__atomic_load_n(field, __ATOMIC_ACQUIRE))
        return (u64)-EBUSY;
    if (!clock)
        return (u64)-EPERM;
    rt_lock(&clock->lock);
    struct timer *t = clock->spare;
    if (t)
        clock->spare = t->next;
    else
        t = malloc(sizeof *t);
    /* Another thread may have been quicker, or the map may have been left. */
    s64 wrong = *field ? -EBUSY : !__atomic_load_n(&map->clock, __ATOMIC_ACQUIRE) ? -EPERM : !t ? -ENOMEM : 0;
    if (wrong) {
        if (t) {
            t->clock = clock;
            put_away(t);
        }
        rt_unlock(&clock->lock);
        return (u64)wrong;
    }
    /* Linux's timers by CLOCK_REALTIME go by the monotonic clock, which does not jump. */
    *t = (struct timer){.next = clock->all, .clock = clock, .map = map, .value = (u8 *)a - (map->timer_at - 1), .base = c == CLOCK_BOOTTIME};
    if (clock->all)
        clock->all->before = t;
    clock->all = t;
    __atomic_store_n(field, t, __ATOMIC_RELEASE);
    rt_unlock(&clock->lock);
    return 0;
}

/* The program is told by who compiles it, or runs it, as a third argument. */
HELPER(timer_set_callback)
{
    (void)d, (void)e, (void)env;
    struct timer *t = locked_timer((void *)a);
    if (!t)
        return (u64)-EINVAL;
    struct rt_clock *clock = t->clock;
    u64 result = __atomic_load_n(&t->map->clock, __ATOMIC_ACQUIRE) ? 0 : (u64)-EPERM;
    if (!result) {
        t->callback = (rt_helper)b;
        t->owner = c;
    }
    rt_unlock(&clock->lock);
    return result;
}

HELPER(timer_start)
{
    (void)d, (void)e, (void)env;
    if (c & ~(u64)(F_ABS | F_CPU_PIN))
        return (u64)-EINVAL;
    struct timer *t = locked_timer((void *)a);
    if (!t)
        return (u64)-EINVAL;
    struct rt_clock *clock = t->clock;
    s64 due = (s64)b, result = -EINVAL;
    if (!(c & F_ABS)) {
        s64 now = time_of(&clock->bases[t->base]);
        due = due < 0 || due > NEVER - now ? NEVER : now + due;
    }
    if (t->callback)
        result = start_timer(t, due);
    rt_unlock(&clock->lock);
    return (u64)result;
}

/* Not before a function that runs in another thread has ended. */
HELPER(timer_cancel)
{
    (void)b, (void)c, (void)d, (void)e, (void)env;
    struct timer *t = locked_timer((void *)a);
    if (!t)
        return (u64)-EINVAL;
    struct rt_clock *clock = t->clock;
    s64 result = -EDEADLK;
    if (clock->running != t || clock->thread != rt_self()) {
        t->callback = NULL;
        t->owner = 0;
        result = stop_timer(t);
        wait_for_timer(clock, t, clock->turns);
    }
    rt_unlock(&clock->lock);
    return (u64)result;
}
