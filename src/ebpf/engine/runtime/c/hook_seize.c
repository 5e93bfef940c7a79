/* System calls of processes that run already: they are seized while something is attached, and let go afterwards. */
#include "hook.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__x86_64__)

#include <sys/user.h>

enum { SKIPPED = 8, SEIZE_WAKE = 63 /* a real-time signal that nothing else uses */ };

/* What the loop is told, and what it tells. */
struct rt_seize {
    u32 stop;  /* asked to let all go and end */
    u32 begun; /* all that ran at the beginning is seized */
    u32 ended;
    u32 tasks;   /* seized now */
    u32 refused; /* tasks that could not be seized */
    s32 self;    /* our process, which is left alone */
    s32 root;    /* our child, whose end is kept: this thread may be the one that is told of it */
    s32 status;
    u32 root_ended;
    s32 thread;
    s32 skip[SKIPPED];
    char userns[64]; /* whose processes: what /proc/PID/ns/user says; empty: the root's descendants */
};

struct task {
    s32 tid; /* 0: free, -1: was in use */
    u32 inside;
    u32 nr;
};
struct tasks {
    struct task *at;
    u32 size, used, live;
};

static struct task *task_of(struct tasks *t, s32 tid, int make)
{
    if (make && (t->used + 1) * 2 > t->size) {
        struct tasks bigger = {0};
        bigger.size = t->live * 4 > 256 ? t->live * 4 : 256;
        while (bigger.size & (bigger.size - 1))
            bigger.size += bigger.size & -bigger.size;
        bigger.at = calloc(bigger.size, sizeof *bigger.at);
        if (!bigger.at)
            return NULL;
        for (u32 i = 0; i < t->size; i++)
            if (t->at[i].tid > 0) {
                struct task *moved = task_of(&bigger, t->at[i].tid, 1);
                *moved = t->at[i];
            }
        free(t->at);
        *t = bigger;
    }
    if (!t->size)
        return NULL;
    u32 at = (u32)tid * 2654435761u;
    struct task *free_one = NULL;
    for (u32 i = 0; i < t->size; i++, at++) {
        struct task *each = &t->at[at & (t->size - 1)];
        if (each->tid == tid)
            return each;
        if (each->tid < 0 && !free_one)
            free_one = each;
        if (!each->tid) {
            if (make && !free_one) {
                free_one = each;
                t->used++;
            }
            break;
        }
    }
    if (!make || !free_one)
        return NULL;
    memset(free_one, 0, sizeof *free_one);
    free_one->tid = tid;
    t->live++;
    return free_one;
}

static void forget(struct tasks *t, s32 tid)
{
    struct task *task = task_of(t, tid, 0);
    if (task) {
        task->tid = -1;
        t->live--;
    }
}

static int number_of(const char *name)
{
    int value = 0;
    for (; *name; name++) {
        if (*name < '0' || *name > '9')
            return 0;
        value = value * 10 + (*name - '0');
    }
    return value;
}

static s32 parent_of(s32 pid)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return 0;
    size_t size = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[size] = 0;
    char *after = strrchr(text, ')');
    int parent = 0;
    if (after)
        sscanf(after + 1, " %*c %d", &parent);
    return parent;
}

static int is_ours(const struct rt_seize *s, s32 pid)
{
    if (pid == s->self)
        return 0;
    for (int i = 0; i < SKIPPED; i++)
        if (s->skip[i] == pid)
            return 0;
    if (s->userns[0]) {
        char path[64], text[64];
        snprintf(path, sizeof path, "/proc/%d/ns/user", pid);
        ssize_t size = readlink(path, text, sizeof text - 1);
        if (size < 0)
            return 0;
        text[size] = 0;
        return !strcmp(text, s->userns);
    }
    for (int depth = 0; depth < 4096 && pid > 1; depth++, pid = parent_of(pid))
        if (pid == s->root)
            return 1;
    return 0;
}

static const long SEIZE_OPTIONS =
    PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_TRACESYSGOOD;

/* Seize the tasks of a process that are not seized yet. A seized task runs on until it is interrupted. */
static u32 seize_process(struct rt_seize *s, struct tasks *tasks, s32 pid)
{
    char path[64];
    u32 found = 0;
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *folder = opendir(path);
    if (!folder)
        return 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        s32 tid = number_of(entry->d_name);
        if (tid <= 0 || task_of(tasks, tid, 0))
            continue;
        if (ptrace(PTRACE_SEIZE, tid, 0, SEIZE_OPTIONS)) {
            if (errno != ESRCH)
                s->refused++;
            continue;
        }
        if (!task_of(tasks, tid, 1)) {
            ptrace(PTRACE_DETACH, tid, 0, 0);
            continue;
        }
        ptrace(PTRACE_INTERRUPT, tid, 0, 0);
        found++;
    }
    closedir(folder);
    return found;
}

static u32 seize_all(struct rt_seize *s, struct tasks *tasks)
{
    u32 found = 0;
    DIR *folder = opendir("/proc");
    if (!folder)
        return 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        s32 pid = number_of(entry->d_name);
        if (pid > 0 && is_ours(s, pid))
            found += seize_process(s, tasks, pid);
    }
    closedir(folder);
    return found;
}

static void wake(int number) { (void)number; }

/* Resume a stopped task: to its next system call, or away from us. */
static void resume(struct tasks *tasks, s32 tid, int letting_go, long deliver)
{
    if (letting_go) {
        ptrace(PTRACE_DETACH, tid, 0, deliver);
        forget(tasks, tid);
        return;
    }
    ptrace(PTRACE_SYSCALL, tid, 0, deliver);
}

/* Serve until asked to stop. Every ptrace request comes from the thread that runs this. */
RT_API void rt_seize_loop(struct rt_seize *s, struct rt_hooks *hooks, struct rt_env *env)
{
    struct hook_view *view = calloc(1, sizeof *view);
    struct tasks tasks = {0};
    struct sigaction action = {.sa_handler = wake};
    int letting_go = 0;
    sigaction(SEIZE_WAKE, &action, NULL);
    sigset_t open;
    sigemptyset(&open);
    sigaddset(&open, SEIZE_WAKE);
    sigprocmask(SIG_UNBLOCK, &open, NULL);
    __atomic_store_n(&s->thread, (s32)syscall(SYS_gettid), __ATOMIC_RELEASE);
    /* What begins while we look is found by looking again. */
    for (int round = 0; round < 64 && seize_all(s, &tasks); round++)
        ;
    __atomic_store_n(&s->tasks, tasks.live, __ATOMIC_RELEASE);
    __atomic_store_n(&s->begun, 1, __ATOMIC_RELEASE);
    for (;;) {
        if (!letting_go && __atomic_load_n(&s->stop, __ATOMIC_ACQUIRE)) {
            letting_go = 1;
            for (u32 i = 0; i < tasks.size; i++)
                if (tasks.at[i].tid > 0)
                    ptrace(PTRACE_INTERRUPT, tasks.at[i].tid, 0, 0);
        }
        if (letting_go && !tasks.live)
            break;
        int status;
        s32 tid = waitpid(-1, &status, __WALL | __WNOTHREAD);
        if (tid < 0) {
            if (errno == EINTR)
                continue;
            if (letting_go)
                break;
            /* Nobody is left: look for new ones now and then. */
            usleep(20000);
            seize_all(s, &tasks);
            continue;
        }
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            forget(&tasks, tid);
            if (tid == s->root) {
                s->status = status;
                __atomic_store_n(&s->root_ended, 1, __ATOMIC_RELEASE);
            }
            continue;
        }
        if (!WIFSTOPPED(status))
            continue;
        int signal = WSTOPSIG(status), event = status >> 16;
        struct task *task = task_of(&tasks, tid, 1);
        if (!task) {
            ptrace(PTRACE_DETACH, tid, 0, 0);
            continue;
        }
        __atomic_store_n(&s->tasks, tasks.live, __ATOMIC_RELEASE);
        if (signal == (SIGTRAP | 0x80)) {
            struct __ptrace_syscall_info info;
            memset(&info, 0, sizeof info);
            long got = ptrace(PTRACE_GET_SYSCALL_INFO, tid, sizeof info, &info);
            if (view && got > 0 && info.op == PTRACE_SYSCALL_INFO_ENTRY) {
                task->inside = 1;
                task->nr = (u32)info.entry.nr;
                struct rt_regs *r = &view->inner;
                memset(r, 0, sizeof *r);
                /* 32-bit calls have other numbers. */
                if (info.arch == 0xC000003E && !(info.entry.nr & 0x40000000)) {
                    r->di = info.entry.args[0], r->si = info.entry.args[1], r->dx = info.entry.args[2];
                    r->r10 = info.entry.args[3], r->r8 = info.entry.args[4], r->r9 = info.entry.args[5];
                    r->orig_ax = info.entry.nr, r->ax = (u64)-ENOSYS;
                    r->ip = info.instruction_pointer, r->sp = info.stack_pointer;
                    hook_run(hooks, env, view, task->nr, 0, 0, tid);
                } else {
                    task->nr = ~0u;
                }
            } else if (view && got > 0 && info.op == PTRACE_SYSCALL_INFO_EXIT) {
                if (task->inside && task->nr != ~0u) {
                    struct rt_regs *r = &view->inner;
                    struct user_regs_struct regs;
                    if (!ptrace(PTRACE_GETREGS, tid, 0, &regs)) {
                        memset(r, 0, sizeof *r);
                        r->di = regs.rdi, r->si = regs.rsi, r->dx = regs.rdx, r->r10 = regs.r10, r->r8 = regs.r8, r->r9 = regs.r9;
                        r->orig_ax = regs.orig_rax, r->ax = regs.rax, r->ip = regs.rip, r->sp = regs.rsp, r->bp = regs.rbp;
                    }
                    hook_run(hooks, env, view, task->nr, 1, info.exit.rval, tid);
                }
                task->inside = 0;
            }
            resume(&tasks, tid, letting_go, 0);
        } else if (event == PTRACE_EVENT_EXEC) {
            unsigned long old = 0;
            ptrace(PTRACE_GETEVENTMSG, tid, 0, &old);
            struct task *former = (s32)old != tid ? task_of(&tasks, (s32)old, 0) : NULL;
            if (former) {
                /* A thread's exec takes over the leader's id. */
                task->inside = former->inside;
                task->nr = former->nr;
                forget(&tasks, (s32)old);
            }
            resume(&tasks, tid, letting_go, 0);
        } else if (event == PTRACE_EVENT_STOP) {
            if (signal == SIGSTOP || signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU) {
                if (letting_go)
                    resume(&tasks, tid, 1, 0);
                else
                    ptrace(PTRACE_LISTEN, tid, 0, 0);
            } else {
                resume(&tasks, tid, letting_go, 0);
            }
        } else if (event) {
            resume(&tasks, tid, letting_go, 0);
        } else {
            resume(&tasks, tid, letting_go, signal);
        }
    }
    free(tasks.at);
    free(view);
    __atomic_store_n(&s->tasks, 0, __ATOMIC_RELEASE);
    __atomic_store_n(&s->ended, 1, __ATOMIC_RELEASE);
}

/* Wake the loop, so that it sees what it was told. */
RT_API void rt_seize_wake(struct rt_seize *s)
{
    s32 thread = __atomic_load_n(&s->thread, __ATOMIC_ACQUIRE);
    if (thread > 0 && !__atomic_load_n(&s->ended, __ATOMIC_ACQUIRE))
        syscall(SYS_tgkill, getpid(), thread, SEIZE_WAKE);
}

#endif
