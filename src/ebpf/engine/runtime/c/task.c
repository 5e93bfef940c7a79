/* The current task: its cgroup, its numbers in another name space, its stack, signals to it. */
#include "maps.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define HELPER(name) RT_API u64 rt_helper_##name(u64 a, u64 b, u64 c, u64 d, u64 e, struct rt_env *env)
#define UNUSED (void)a, (void)b, (void)c, (void)d, (void)e, (void)env

enum { TASK_PATH = 512 };
/* Where cgroup2 is mounted: alone, or beside the first version. */
static const char *const CGROUPS[] = {"/sys/fs/cgroup/unified", "/sys/fs/cgroup"};

static int task_file(const struct rt_env *env, const char *name, char *out, int size)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%u/%s", env->task.tid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t got = read(fd, out, (size_t)size - 1);
    close(fd);
    out[got > 0 ? got : 0] = 0;
    return got > 0;
}

/* The task's cgroup as a path under the root of cgroup2 ("" is the root); 0 if there is none. */
static int cgroup_path(const struct rt_env *env, char *out, int size)
{
    char text[4096];
    if (!task_file(env, "cgroup", text, sizeof text))
        return 0;
    for (char *line = text; line && *line; line = strchr(line, '\n'), line += line != NULL) {
        if (strncmp(line, "0::", 3))
            continue;
        int length = (int)strcspn(line + 3, "\n");
        if (length >= size)
            return 0;
        memcpy(out, line + 3, (size_t)length);
        out[length] = 0;
        if (!strcmp(out, "/"))
            out[0] = 0;
        return 1;
    }
    return 0;
}

/* A cgroup's id is its folder's inode number; 0 if it cannot be seen. */
static u64 cgroup_id(const char *path)
{
    char whole[TASK_PATH + 32];
    struct stat seen;
    for (u32 i = 0; i < sizeof CGROUPS / sizeof *CGROUPS; i++) {
        snprintf(whole, sizeof whole, "%s%s", CGROUPS[i], path);
        if (!stat(whole, &seen))
            return (u64)seen.st_ino;
    }
    return 0;
}

u64 rt_cgroup_of(const struct rt_env *env)
{
    char path[TASK_PATH];
    return cgroup_path(env, path, sizeof path) ? cgroup_id(path) : 0;
}

HELPER(get_current_cgroup_id) { UNUSED; return rt_cgroup_of(env); }

HELPER(get_current_ancestor_cgroup_id)
{
    UNUSED;
    char path[TASK_PATH];
    if (!cgroup_path(env, path, sizeof path) || (s32)a < 0)
        return 0;
    char *at = path;
    for (s32 level = (s32)a; level; level--) {
        if (*at != '/')
            return 0;
        at += 1 + strcspn(at + 1, "/");
    }
    *at = 0;
    return cgroup_id(path);
}

HELPER(current_task_under_cgroup)
{
    (void)c, (void)d, (void)e;
    struct rt_map *map = (void *)a;
    char path[TASK_PATH];
    if ((u32)b >= map->max_entries)
        return (u64)-E2BIG;
    u64 wanted = __atomic_load_n((u64 *)map->data + (u32)b, __ATOMIC_ACQUIRE);
    if (!wanted)
        return (u64)-EAGAIN;
    if (!cgroup_path(env, path, sizeof path))
        return 0;
    for (;;) {
        if (cgroup_id(path) == wanted)
            return 1;
        char *last = strrchr(path, '/');
        if (!last)
            return 0;
        *last = 0;
    }
}

static u32 last_number(const char *text, const char *name)
{
    const char *at = strstr(text, name);
    u32 number = 0;
    for (at = at ? at + strlen(name) : ""; *at && *at != '\n'; at++)
        number = *at == '\t' ? 0 : number * 10 + (u32)(*at - '0');
    return number;
}

HELPER(get_ns_current_pid_tgid)
{
    (void)e;
    char path[64], text[4096];
    struct stat seen;
    u32 *out = (void *)c;
    if ((u32)d != 8)
        return (u64)-EINVAL;
    memset(out, 0, 8);
    snprintf(path, sizeof path, "/proc/%u/ns/pid", env->task.tid);
    if (stat(path, &seen) || seen.st_ino != b || seen.st_dev != a || !task_file(env, "status", text, sizeof text))
        return (u64)-EINVAL;
    out[0] = last_number(text, "\nNSpid:");
    out[1] = last_number(text, "\nNStgid:");
    return 0;
}

HELPER(send_signal)
{
    UNUSED;
    rt_know(env, RT_KNOW_IDS);
    return kill((pid_t)env->task.tgid, (int)a) ? (u64)-errno : 0;
}
HELPER(send_signal_thread)
{
    UNUSED;
    rt_know(env, RT_KNOW_IDS);
    return syscall(SYS_tgkill, env->task.tgid, env->task.tid, (int)a) ? (u64)-errno : 0;
}

HELPER(get_attach_cookie) { UNUSED; return env->attach_cookie; }

/* -- stacks: the task's own, by its frame pointers. There are no kernel frames under a program here. */

enum { DEEPEST_STACK = 127, SKIP = 0xFF, USER_STACK = 0x100, FAST_COMPARE = 0x200, REUSE = 0x400, USER_BUILD_ID = 0x800 };

static u32 walk_stack(struct rt_env *env, u64 *to, u32 most)
{
    struct { u64 next, back; } frame;
    if (!env->user_ip || !env->target || !most)
        return 0;
    u32 depth = 0;
    to[depth++] = env->user_ip;
    for (u64 at = env->user_bp, last = 0; depth < most && at > last && !(at & 7); last = at, at = frame.next) {
        struct iovec here = {&frame, sizeof frame}, there = {(void *)at, sizeof frame};
        if (process_vm_readv(env->target, &here, 1, &there, 1, 0) != (ssize_t)sizeof frame || !frame.back)
            break;
        to[depth++] = frame.back;
    }
    return depth;
}

HELPER(get_stack)
{
    (void)a, (void)e;
    u64 frames[DEEPEST_STACK + SKIP];
    u32 size = (u32)c, skip = d & SKIP, got = 0;
    s64 result = -EINVAL;
    if (!(d & ~(u64)(SKIP | USER_STACK)) && !(size % 8)) {
        if (d & USER_STACK)
            got = walk_stack(env, frames, (size / 8 < DEEPEST_STACK ? size / 8 : DEEPEST_STACK) + skip);
        result = got > skip ? (s64)(got - skip) * 8 : -EFAULT;
    }
    if (result > 0)
        memcpy((void *)b, frames + skip, (u64)result);
    memset((u8 *)b + (result > 0 ? result : 0), 0, size - (u64)(result > 0 ? result : 0));
    return (u64)result;
}

HELPER(get_task_stack)
{
    (void)e;
    if (a != (u64)&env->task)
        return (u64)-EOPNOTSUPP;
    return rt_helper_get_stack(0, b, c, d, 0, env);
}

HELPER(get_stackid)
{
    (void)a, (void)d, (void)e;
    struct rt_map *map = (void *)b;
    u64 frames[DEEPEST_STACK + SKIP];
    u32 skip = c & SKIP, most = map->value_size / 8;
    if (c & ~(u64)(SKIP | USER_STACK | FAST_COMPARE | REUSE))
        return (u64)-EINVAL;
    u32 got = c & USER_STACK ? walk_stack(env, frames, most + skip) : 0;
    if (got <= skip)
        return (u64)-EFAULT;
    return (u64)rt_trace_keep(map, frames + skip, got - skip, !!(c & FAST_COMPARE), !!(c & REUSE));
}
