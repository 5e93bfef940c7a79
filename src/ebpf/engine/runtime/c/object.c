/* Kernel objects: the current task, its parent and its cgroup as structs that programs read, and the storage that goes with them.
 * Their types are in kernels/user/types.py. */
#include "maps.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define HELPER(name) RT_API u64 rt_helper_##name(u64 a, u64 b, u64 c, u64 d, u64 e, struct rt_env *env)
#define UNUSED (void)a, (void)b, (void)c, (void)d, (void)e, (void)env

/* When a thread began, in the machine's ticks; 0 if there is none. */
static u32 began(u32 tid)
{
    enum { BEGAN = 20 }; /* the field behind the name */
    char text[512];
    if (rt_slurp("stat", (s32)tid, text, sizeof text) <= 0)
        return 0;
    char *at = strrchr(text, ')');
    for (int field = 0; at && field < BEGAN; field++)
        at = strchr(at + 1, ' ');
    return at ? (u32)strtoull(at + 1, NULL, 10) : 0;
}

/* Fill in what programs may read of the task, and what it points to. */
static struct rt_task *know_object(struct rt_env *env)
{
    struct rt_task *task = &env->task, *parent = &env->parent;
    rt_know(env, RT_KNOW_IDS | RT_KNOW_COMM);
    if (task->known & RT_KNOW_OBJECT)
        return task;
    char text[2048];
    *parent = (struct rt_task){0};
    if (rt_slurp("status", (s32)task->tid, text, sizeof text) > 0) {
        const char *at = strstr(text, "\nPPid:\t");
        parent->tid = parent->tgid = at ? (u32)strtoul(at + 7, NULL, 10) : 0;
    }
    int got = parent->tid ? rt_slurp("comm", (s32)parent->tid, text, sizeof text) : 0;
    if (got > 1)
        memcpy(parent->comm, text, (size_t)(got - 1 < RT_NAME - 1 ? got - 1 : RT_NAME - 1));
    parent->began = parent->tid ? began(parent->tid) : 0;
    task->began = began(task->tid);
    /* Nothing is known above the parent: it is its own. */
    task->real_parent = task->parent = parent->real_parent = parent->parent = parent;
    env->cgroup_node = rt_cgroup_of(env);
    env->cgroup = &env->cgroup_node;
    env->cgroups = &env->cgroup;
    task->cgroups = parent->cgroups = &env->cgroups;
    task->known |= RT_KNOW_OBJECT;
    return task;
}

HELPER(get_current_task_btf) { UNUSED; return (u64)know_object(env); }
HELPER(get_current_task) { UNUSED; return (u64)know_object(env); }

/* -- storage: a hash by what an owner is known by */

static u64 owner_number(const struct rt_map *map, const void *owner)
{
    if (map->type == RT_MAP_CGRP_STORAGE) {
        u64 *const *node = owner;
        return **node;
    }
    const struct rt_task *task = owner;
    return task->tid | (u64)task->began << 32;
}

/* There is no room: the values of tasks that have ended go. */
static void sweep(struct rt_map *map)
{
    u64 key, next;
    s64 result = rt_map_next(map, NULL, &key);
    while (!result) {
        result = rt_map_next(map, &key, &next);
        if (kill((pid_t)(u32)key, 0) && errno == ESRCH)
            rt_map_remove(map, &key);
        key = next;
    }
}

static u64 storage_get(struct rt_map *map, const void *owner, const void *value, u64 flags)
{
    enum { CREATE = 1 };
    if (!owner || flags & ~(u64)CREATE)
        return 0;
    u64 key = owner_number(map, owner);
    void *found = rt_map_value(map, &key, 0);
    if (found || !(flags & CREATE))
        return (u64)found;
    u8 *fresh = value ? NULL : calloc(1, map->value_size);
    if (value || fresh) {
        s64 result = rt_map_put(map, &key, value ? value : fresh, PUT_NOEXIST, 0, 0);
        if (result == -E2BIG && map->type == RT_MAP_TASK_STORAGE) {
            sweep(map);
            rt_map_put(map, &key, value ? value : fresh, PUT_NOEXIST, 0, 0);
        }
    }
    free(fresh);
    return (u64)rt_map_value(map, &key, 0);
}

static u64 storage_delete(struct rt_map *map, const void *owner)
{
    if (!owner)
        return (u64)-EINVAL;
    u64 key = owner_number(map, owner);
    return (u64)rt_map_remove(map, &key);
}

HELPER(task_storage_get) { UNUSED; return storage_get((void *)a, (void *)b, (void *)c, d); }
HELPER(task_storage_delete) { UNUSED; return storage_delete((void *)a, (void *)b); }
HELPER(cgrp_storage_get) { UNUSED; return storage_get((void *)a, (void *)b, (void *)c, d); }
HELPER(cgrp_storage_delete) { UNUSED; return storage_delete((void *)a, (void *)b); }
