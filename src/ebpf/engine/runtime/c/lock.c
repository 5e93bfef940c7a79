/* The slow side of locks: waiting, and taking over from an owner that was killed. */
#include "rt.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SPINS = 2000, LOOKS = 64 };

/* Compiled programs have no thread-local state; this library may. */
static __thread u32 self_ __attribute__((tls_model("initial-exec")));

/* After a fork the child is another thread, and what was made before is not for it. */
u32 rt_forks;
RT_API void rt_forked(void)
{
    self_ = 0;
    rt_forks++;
}

u32 rt_self(void)
{
    if (__builtin_expect(!self_, 0))
        self_ = (u32)syscall(SYS_gettid);
    return self_;
}

/* A thread that was killed but not reaped is dead too: its parent may be the very one that waits here. */
int rt_is_dead(u32 tid)
{
    char path[32], text[256];
    if (kill((pid_t)tid, 0) && errno == ESRCH)
        return 1;
    snprintf(path, sizeof path, "/proc/%u/stat", tid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    text[got > 0 ? got : 0] = 0;
    const char *name_end = strrchr(text, ')');
    return name_end && name_end[1] && strchr("ZXx", name_end[2]) != NULL && name_end[2];
}

int rt_lock_slowly(u32 *word, u32 self)
{
    for (u32 round = 1;; round++) {
        for (u32 i = 0; i < SPINS; i++) {
            u32 owner = 0;
            if (!__atomic_load_n(word, __ATOMIC_RELAXED) &&
                __atomic_compare_exchange_n(word, &owner, self, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
                return 0;
            rt_pause();
        }
        sched_yield();
        if (round % LOOKS)
            continue;
        u32 owner = __atomic_load_n(word, __ATOMIC_RELAXED);
        if (owner && rt_is_dead(owner) && __atomic_compare_exchange_n(word, &owner, self, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
            return 1;
    }
}
