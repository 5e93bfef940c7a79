/* System calls of real processes: what is attached, and the loops that run it. */
#ifndef EBPF_HOOK_H
#define EBPF_HOOK_H

#include "rt.h"

enum { HOOK_KPROBE = 0, HOOK_TRACEPOINT = 1, HOOK_RAW = 2 };
enum { HOOKS = 512, ANY_CALL = 0xFFFFFFFFu };

/* A program on a system call's entry or exit. */
struct rt_hook {
    u32 nr; /* ANY_CALL: all that stop */
    u32 kind, on_exit, live;
    rt_prog prog;
    u64 cookie; /* what the program is told that asks for it */
};

/* All that is attached. The lock is held while programs run, so that events are one after another and a detach waits. */
struct rt_hooks {
    u32 lock, count;
    u64 events; /* programs run */
    s32 status; /* the command's wait status once `ended` */
    u32 ended;  /* the command has ended (trace mode) */
    u32 done;   /* nothing is left to serve */
    s32 error;
    struct rt_hook hook[HOOKS];
};

/* What programs are given: every form of context for one call. */
struct hook_view {
    struct rt_regs outer, inner;
    u64 raw[12];
    u8 tracepoint[8192];
};

/* Run what is attached to a call's entry or exit, for the task `tid`, whose registers are in the view. */
void hook_run(struct rt_hooks *hooks, struct rt_env *env, struct hook_view *view, u32 nr, int on_exit, s64 result, s32 tid);

#endif
