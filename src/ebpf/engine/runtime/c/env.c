/* A program's surroundings: who runs, the time, whose memory is whose. */
#include "rt.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

RT_API u64 rt_sizes(void) { return sizeof(struct rt_env) | (u64)sizeof(struct rt_map) << 16 | (u64)sizeof(struct rt_trace) << 32; }

RT_API u64 rt_now(struct rt_env *env)
{
    if (env->fixed_time)
        return env->fixed_time;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (u64)now.tv_sec * 1000000000ull + (u64)now.tv_nsec + env->clock_offset;
}

/* A file of a thread's in /proc: how many bytes, or negative. */
int rt_slurp(const char *name, s32 tid, char *out, int size)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", tid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t got = read(fd, out, (size_t)size - 1);
    close(fd);
    out[got > 0 ? got : 0] = 0;
    return (int)got;
}

static u32 field(const char *status, const char *name, u32 otherwise)
{
    const char *at = strstr(status, name);
    return at ? (u32)strtoul(at + strlen(name), NULL, 10) : otherwise;
}

/* Find out what of the current task is not known yet. The task is stopped in its system call, so that nothing changes. */
RT_API void rt_know(struct rt_env *env, u32 what)
{
    struct rt_task *task = &env->task;
    u32 need = what & ~task->known;
    char text[2048];
    if (need & RT_KNOW_COMM && env->target) {
        int got = rt_slurp("comm", env->target, text, sizeof text);
        memset(task->comm, 0, RT_NAME);
        if (got > 0) {
            if (text[got - 1] == '\n')
                got--;
            memcpy(task->comm, text, (size_t)(got < RT_NAME ? got : RT_NAME - 1));
        }
    }
    if (need & RT_KNOW_IDS && env->target && rt_slurp("status", env->target, text, sizeof text) > 0) {
        task->tgid = field(text, "\nTgid:\t", task->tid);
        task->uid = field(text, "\nUid:\t", 0);
        task->gid = field(text, "\nGid:\t", 0);
    }
    if (need & RT_KNOW_CPU)
        task->cpu = (u32)sched_getcpu() % (env->ncpu ? env->ncpu : 1);
    task->known |= need;
}

/* Whether memory is the program's own world: its stack, a map, the registers it was given. */
RT_API int rt_is_kernel(struct rt_env *env, u64 at, u64 size)
{
    if (at >= (u64)env->kernel_begin && at + size > at && at + size <= (u64)env->kernel_end)
        return 1;
    u64 here = (u64)&here;
    return at + size > at && at + size <= here + (64 << 10) && at >= here - (64 << 10);
}

static s64 copy(s32 pid, void *dst, u64 size, u64 from)
{
    struct iovec to = {dst, size}, source = {(void *)from, size};
    ssize_t got = process_vm_readv(pid, &to, 1, &source, 1, 0);
    return got == (ssize_t)size ? 0 : -EFAULT;
}

s64 rt_read_user(struct rt_env *env, void *dst, u64 size, u64 from)
{
    if (!env->target)
        return -EFAULT;
    return size ? copy(env->target, dst, size, from) : 0;
}

/* What Linux answers to a kernel read: an address that is not the kernel's is out of range. */
static s64 refusal(u64 from) { return from >> 47 == 0x1FFFF ? -EFAULT : -ERANGE; }

/* Bytes at any address, read so that a wild one is an error and not a fault. */
s64 rt_read_kernel(void *dst, u64 size, u64 from) { return copy(getpid(), dst, size, from) ? refusal(from) : 0; }

/* The same, quickly where the address is surely ours. */
static s64 read_kernel(struct rt_env *env, void *dst, u64 size, u64 from)
{
    if (!size)
        return 0;
    if (rt_is_kernel(env, from, size)) {
        memmove(dst, (void *)from, size);
        return 0;
    }
    return rt_read_kernel(dst, size, from);
}

static s64 string(s32 pid, char *dst, u64 size, u64 from)
{
    char piece[256];
    u64 done = 0;
    while (done < size) {
        /* Never across a page: the next one may not be there although the string ends before it. */
        u64 part = RT_PAGE - ((from + done) & (RT_PAGE - 1));
        if (part > size - done)
            part = size - done;
        if (part > sizeof piece)
            part = sizeof piece;
        if (copy(pid, piece, part, from + done))
            return -EFAULT;
        /* What is behind the string's end stays as it is. */
        char *end = memchr(piece, 0, part);
        u64 length = end ? (u64)(end - piece) + 1 : part;
        memcpy(dst + done, piece, length);
        done += length;
        if (end)
            return (s64)done;
    }
    if (size)
        dst[size - 1] = 0;
    return (s64)size;
}

s64 rt_read_user_str(struct rt_env *env, char *dst, u64 size, u64 from)
{
    return env->target ? string(env->target, dst, size, from) : -EFAULT;
}

static u64 checked(s64 result, void *dst, u64 size)
{
    if (result < 0)
        memset(dst, 0, size);
    return (u64)result;
}

#define HELPER(name) RT_API u64 rt_helper_##name(u64 a, u64 b, u64 c, u64 d, u64 e, struct rt_env *env)
#define UNUSED (void)a, (void)b, (void)c, (void)d, (void)e, (void)env

HELPER(probe_read_user) { (void)d, (void)e; return checked(rt_read_user(env, (void *)a, (u32)b, c), (void *)a, (u32)b); }
HELPER(probe_read_kernel) { (void)d, (void)e; return checked(read_kernel(env, (void *)a, (u32)b, c), (void *)a, (u32)b); }
HELPER(probe_read_user_str) { (void)d, (void)e; return checked(rt_read_user_str(env, (char *)a, (u32)b, c), (void *)a, (u32)b); }
static s64 kernel_string(char *dst, u64 size, u64 from)
{
    s64 got = string(getpid(), dst, size, from);
    return got < 0 ? refusal(from) : got;
}
HELPER(probe_read_kernel_str) { (void)d, (void)e, (void)env; return checked(kernel_string((char *)a, (u32)b, c), (void *)a, (u32)b); }

/* The old forms read either memory: ours where the address is ours, else the task's. */
HELPER(probe_read)
{
    (void)d, (void)e;
    s64 result = rt_is_kernel(env, c, (u32)b) ? read_kernel(env, (void *)a, (u32)b, c) : rt_read_user(env, (void *)a, (u32)b, c);
    return checked(result, (void *)a, (u32)b);
}
HELPER(probe_read_str)
{
    (void)d, (void)e;
    s64 result = rt_is_kernel(env, c, 1) ? kernel_string((char *)a, (u32)b, c) : rt_read_user_str(env, (char *)a, (u32)b, c);
    return checked(result, (void *)a, (u32)b);
}
HELPER(probe_write_user)
{
    (void)d, (void)e;
    struct iovec from = {(void *)b, (u32)c}, to = {(void *)a, (u32)c};
    if (!env->target)
        return (u64)-EPERM;
    return process_vm_writev(env->target, &from, 1, &to, 1, 0) == (ssize_t)(u32)c ? 0 : (u64)-EFAULT;
}
HELPER(copy_from_user) { (void)d, (void)e; return checked(rt_read_user(env, (void *)a, (u32)b, c), (void *)a, (u32)b); }

HELPER(get_current_pid_tgid) { UNUSED; rt_know(env, RT_KNOW_IDS); return (u64)env->task.tgid << 32 | env->task.tid; }
HELPER(get_current_uid_gid) { UNUSED; rt_know(env, RT_KNOW_IDS); return (u64)env->task.gid << 32 | env->task.uid; }
HELPER(get_current_comm)
{
    UNUSED;
    rt_know(env, RT_KNOW_COMM);
    u32 size = (u32)b < RT_NAME ? (u32)b : RT_NAME;
    memset((void *)a, 0, (u32)b);
    memcpy((void *)a, env->task.comm, size);
    ((char *)a)[size - 1] = 0;
    return 0;
}
HELPER(get_smp_processor_id) { UNUSED; rt_know(env, RT_KNOW_CPU); return env->task.cpu; }
HELPER(get_numa_node_id) { UNUSED; return 0; }
HELPER(ktime_get_ns) { UNUSED; return rt_now(env); }
HELPER(ktime_get_coarse_ns) { UNUSED; return rt_now(env); }
HELPER(ktime_get_boot_ns)
{
    UNUSED;
    if (env->fixed_time)
        return env->fixed_time;
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (u64)now.tv_sec * 1000000000ull + (u64)now.tv_nsec + env->clock_offset;
}
HELPER(ktime_get_tai_ns)
{
    UNUSED;
    struct timespec now;
    clock_gettime(CLOCK_TAI, &now);
    return (u64)now.tv_sec * 1000000000ull + (u64)now.tv_nsec + env->clock_offset;
}
/* Ticks since five minutes before boot, 250 a second, as the common kernel counts them. */
HELPER(jiffies64) { UNUSED; return rt_now(env) / 4000000ull + 4294892296ull; }
HELPER(get_prandom_u32)
{
    UNUSED;
    u64 x = env->random += 0x9E3779B97F4A7C15ull;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ x >> 27) * 0x94D049BB133111EBull;
    return (u32)(x >> 32);
}

HELPER(strncmp) { (void)d, (void)e, (void)env; return (u64)(s64)strncmp((char *)a, (char *)c, (u32)b); }

/* -- packets */

/* Linux keeps this much at the start of a packet's buffer for itself; metadata may have this much, in fours. */
enum { FRAME = 40, LARGEST_META = 255, LARGEST_OFFSET = 0xFFFF };

HELPER(xdp_get_buff_len) { UNUSED; struct rt_xdp *x = (void *)a; return x->data_end - x->data; }
HELPER(xdp_adjust_head)
{
    UNUSED;
    struct rt_xdp *x = (void *)a;
    u64 meta = x->data - x->data_meta, data = x->data + (u64)(s64)(s32)b;
    if (data < x->hard_begin + FRAME + meta || data + 14 > x->data_end)
        return (u64)-EINVAL;
    /* Metadata stays in front of the packet. */
    memmove((void *)(data - meta), (void *)x->data_meta, meta);
    x->data = data;
    x->data_meta = data - meta;
    return 0;
}
HELPER(xdp_adjust_tail)
{
    UNUSED;
    struct rt_xdp *x = (void *)a;
    u64 end = x->data_end + (u64)(s64)(s32)b;
    if (end > x->hard_end || end < x->data + 14)
        return (u64)-EINVAL;
    if (end > x->data_end)
        memset((void *)x->data_end, 0, end - x->data_end);
    x->data_end = end;
    return 0;
}
HELPER(xdp_adjust_meta)
{
    UNUSED;
    struct rt_xdp *x = (void *)a;
    u64 meta = x->data_meta + (u64)(s64)(s32)b;
    if (meta < x->hard_begin + FRAME || meta > x->data)
        return (u64)-EINVAL;
    if ((x->data - meta) & 3 || x->data - meta > LARGEST_META)
        return (u64)-EACCES;
    x->data_meta = meta;
    return 0;
}
HELPER(xdp_load_bytes)
{
    (void)e, (void)env;
    struct rt_xdp *x = (void *)a;
    if ((u32)b > LARGEST_OFFSET || (u32)d > LARGEST_OFFSET)
        return (u64)-EFAULT;
    if (x->data + (u32)b + (u32)d > x->data_end)
        return (u64)-EINVAL;
    memcpy((void *)c, (void *)(x->data + (u32)b), (u32)d);
    return 0;
}
HELPER(xdp_store_bytes)
{
    (void)e, (void)env;
    struct rt_xdp *x = (void *)a;
    if ((u32)b > LARGEST_OFFSET || (u32)d > LARGEST_OFFSET)
        return (u64)-EFAULT;
    if (x->data + (u32)b + (u32)d > x->data_end)
        return (u64)-EINVAL;
    memcpy((void *)(x->data + (u32)b), (void *)c, (u32)d);
    return 0;
}
static u32 word_at(u64 base, u32 at, u32 size)
{
    u32 word = 0;
    memcpy(&word, (u8 *)base + at, size - at < 4 ? size - at : 4);
    return word;
}
/* Sums carry round the end: zero comes out of zeroes alone, all ones stand for every other multiple. */
static u32 partial_sum(u64 base, u32 size, u32 seed)
{
    u64 sum = seed;
    for (u32 i = 0; i < size; i += 4)
        sum += word_at(base, i, size);
    sum = (sum & 0xFFFFFFFFu) + (sum >> 32);
    return (u32)((sum & 0xFFFFFFFFu) + (sum >> 32));
}
/* As newer kernels fold it, to 16 bits for every form of the call. */
HELPER(csum_diff)
{
    (void)env;
    u64 sum = (u32)e;
    if ((u32)b && (u32)d) {
        sum = (u64)partial_sum(c, (u32)d, (u32)e) + (u32)~partial_sum(a, (u32)b, 0);
        sum = (u32)(sum + (sum >> 32));
    } else if ((u32)d) {
        sum = partial_sum(c, (u32)d, (u32)e);
    } else if ((u32)b) {
        sum = (u32)~partial_sum(a, (u32)b, ~(u32)e);
    }
    sum = (sum & 0xFFFFu) + (sum >> 16);
    return (sum & 0xFFFFu) + (sum >> 16);
}
