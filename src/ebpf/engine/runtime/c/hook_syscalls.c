/* The loops behind hooked system calls, and the child's last steps before its exec. */
#include "hook.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif

/* Serve a notification descriptor until nobody is left who could ask: hooks at entry. With no hooks: let all calls pass. */
RT_API void rt_notify_loop(s32 listener, struct rt_hooks *hooks, struct rt_env *env)
{
    struct seccomp_notif ask;
    struct seccomp_notif_resp answer;
    struct hook_view *view = calloc(1, sizeof *view);
    for (;;) {
        struct pollfd ready = {listener, POLLIN, 0};
        if (poll(&ready, 1, -1) < 0 && errno != EINTR)
            break;
        if (!(ready.revents & POLLIN)) {
            if (ready.revents & (POLLHUP | POLLERR | POLLNVAL))
                break;
            continue;
        }
        memset(&ask, 0, sizeof ask);
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &ask)) {
            if (errno == EINTR || errno == ENOENT || errno == EAGAIN)
                continue;
            break;
        }
        if (hooks && view) {
            memset(&view->inner, 0, sizeof view->inner);
            view->inner.di = ask.data.args[0];
            view->inner.si = ask.data.args[1];
            view->inner.dx = ask.data.args[2];
            view->inner.r10 = ask.data.args[3];
            view->inner.r8 = ask.data.args[4];
            view->inner.r9 = ask.data.args[5];
            view->inner.orig_ax = (u64)ask.data.nr;
            view->inner.ax = (u64)-ENOSYS;
            view->inner.ip = ask.data.instruction_pointer;
            hook_run(hooks, env, view, (u32)ask.data.nr, 0, 0, (s32)ask.pid);
        }
        memset(&answer, 0, sizeof answer);
        answer.id = ask.id;
        answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
        ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
    }
    free(view);
    if (hooks)
        __atomic_store_n(&hooks->done, 1, __ATOMIC_RELEASE);
}

/* Leave somebody behind who lets all calls of a listener pass: for processes that outlive their observer. */
RT_API s32 rt_notify_heir(s32 listener)
{
    pid_t pid = fork();
    if (pid)
        return pid < 0 ? -errno : pid;
    setsid();
    if (fork())
        _exit(0);
    for (int fd = 0; fd < 4096; fd++)
        if (fd != listener)
            close(fd);
    rt_notify_loop(listener, NULL, NULL);
    _exit(0);
}

#if defined(__x86_64__)

#include <sys/user.h>

enum { TRACKED = 4096 };
struct tracked {
    s32 tid;
    u32 inside; /* its exit from a call is awaited */
};

static struct tracked *slot_of(struct tracked *table, s32 tid, int make)
{
    u32 at = (u32)tid * 2654435761u >> 20;
    struct tracked *empty = NULL;
    for (u32 i = 0; i < TRACKED; i++, at++) {
        struct tracked *t = &table[at & (TRACKED - 1)];
        if (t->tid == tid)
            return t;
        if (!t->tid) {
            empty = t;
            break;
        }
        if (t->tid < 0 && !empty)
            empty = t;
    }
    if (!make || !empty)
        return NULL;
    empty->tid = tid;
    empty->inside = 0;
    return empty;
}

static int wants_exit(struct rt_hooks *hooks, u32 nr)
{
    for (u32 i = 0; i < hooks->count; i++)
        if (hooks->hook[i].live && hooks->hook[i].on_exit && (hooks->hook[i].nr == nr || hooks->hook[i].nr == ANY_CALL))
            return 1;
    return 0;
}

static int look(s32 tid, struct hook_view *view)
{
    struct user_regs_struct regs;
    if (ptrace(PTRACE_GETREGS, tid, 0, &regs))
        return -1;
    struct rt_regs *r = &view->inner;
    r->r15 = regs.r15, r->r14 = regs.r14, r->r13 = regs.r13, r->r12 = regs.r12, r->bp = regs.rbp, r->bx = regs.rbx;
    r->r11 = regs.r11, r->r10 = regs.r10, r->r9 = regs.r9, r->r8 = regs.r8, r->ax = regs.rax, r->cx = regs.rcx;
    r->dx = regs.rdx, r->si = regs.rsi, r->di = regs.rdi, r->orig_ax = regs.orig_rax, r->ip = regs.rip, r->cs = regs.cs;
    r->flags = regs.eflags, r->sp = regs.rsp, r->ss = regs.ss;
    return 0;
}

/* Seize a held command; every later ptrace request must come from this same thread. */
RT_API s32 rt_trace_seize(s32 pid)
{
    long options = PTRACE_O_TRACESECCOMP | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC |
                   PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL;
    return ptrace(PTRACE_SEIZE, pid, 0, options) ? -errno : 0;
}

/* Serve a seized tree until it is gone: hooks at entry and exit. */
RT_API void rt_trace_loop(s32 pid, struct rt_hooks *hooks, struct rt_env *env)
{
    struct hook_view *view = calloc(1, sizeof *view);
    struct tracked *table = calloc(TRACKED, sizeof *table);
    for (;;) {
        int status;
        /* Only our own tracees: the script's own children stay its own. */
        s32 tid = waitpid(-1, &status, __WALL | __WNOTHREAD);
        if (tid < 0) {
            if (errno == EINTR)
                continue;
            break;
        }
        struct tracked *task = slot_of(table, tid, 1);
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            if (task)
                task->tid = -1;
            if (tid == pid) {
                hooks->status = status;
                __atomic_store_n(&hooks->ended, 1, __ATOMIC_RELEASE);
            }
            continue;
        }
        if (!WIFSTOPPED(status))
            continue;
        int signal = WSTOPSIG(status), event = status >> 16, resume = task && task->inside ? PTRACE_SYSCALL : PTRACE_CONT;
        long deliver = 0;
        if (event == PTRACE_EVENT_SECCOMP) {
            resume = PTRACE_CONT;
            if (view && !look(tid, view)) {
                u32 nr = (u32)view->inner.orig_ax;
                hook_run(hooks, env, view, nr, 0, 0, tid);
                if (task && wants_exit(hooks, nr)) {
                    task->inside = 1;
                    resume = PTRACE_SYSCALL;
                }
            }
        } else if (signal == (SIGTRAP | 0x80)) {
            resume = PTRACE_CONT;
            if (task)
                task->inside = 0;
            if (view && !look(tid, view))
                hook_run(hooks, env, view, (u32)view->inner.orig_ax, 1, (s64)view->inner.ax, tid);
        } else if (event == PTRACE_EVENT_EXEC) {
            unsigned long old = 0;
            ptrace(PTRACE_GETEVENTMSG, tid, 0, &old);
            struct tracked *former = (s32)old != tid ? slot_of(table, (s32)old, 0) : NULL;
            if (former) {
                /* A thread's exec takes over the leader's id. */
                if (task)
                    task->inside = former->inside;
                former->tid = -1;
                resume = task && task->inside ? PTRACE_SYSCALL : PTRACE_CONT;
            }
        } else if (event == PTRACE_EVENT_STOP) {
            if (signal == SIGSTOP || signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU) {
                ptrace(PTRACE_LISTEN, tid, 0, 0);
                continue;
            }
        } else if (!event) {
            deliver = signal;
        }
        ptrace(resume, tid, 0, deliver);
    }
    free(table);
    free(view);
    __atomic_store_n(&hooks->done, 1, __ATOMIC_RELEASE);
}

#endif

/* The child, at its last: the filter, then the exec. `gate` is shared memory: [0] the listener's number + 1, [1] go.
   After the filter is in place no call is made but execve: any other might be one that is waited for. */
RT_API s32 rt_child_exec(const struct sock_filter *filter, u32 count, s32 notify, volatile u32 *gate, const char *path, char *const argv[],
                         char *const envp[])
{
    if (count) {
        struct sock_fprog prog = {(unsigned short)count, (struct sock_filter *)filter};
        /* A privileged caller keeps set-user-id programs working; others may not filter without giving that up. */
        unsigned long flags = notify ? SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV : 0;
        long got = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &prog);
        if (got < 0 && errno == EACCES) {
            prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            got = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &prog);
        }
        if (got < 0 && errno == EINVAL && notify)
            got = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &prog);
        if (got < 0)
            return -errno;
        if (notify) {
            __atomic_store_n(&gate[0], (u32)got + 1, __ATOMIC_RELEASE);
            while (!__atomic_load_n(&gate[1], __ATOMIC_ACQUIRE))
                rt_pause();
        }
    }
    execve(path, argv, envp);
    if (errno == ENOEXEC) {
        /* A script without #!: shells run it themselves. */
        int n = 0;
        while (argv[n])
            n++;
        char **words = calloc((size_t)n + 2, sizeof *words);
        if (words) {
            words[0] = "sh";
            words[1] = (char *)path;
            for (int i = 1; i < n; i++)
                words[i + 1] = argv[i];
            execve("/bin/sh", words, envp);
        }
    }
    return -errno;
}
