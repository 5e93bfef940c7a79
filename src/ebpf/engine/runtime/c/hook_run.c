/* Running what is attached to a system call, with every form of context. */
#include "hook.h"

#include <string.h>
#include <unistd.h>

/* A hook's lock may be held for as long as a program runs: give the processor away meanwhile. */
static void take(u32 *word)
{
    for (int spins = 0; __atomic_exchange_n(word, 1, __ATOMIC_ACQUIRE); spins++) {
        if (spins < 100)
            rt_pause();
        else
            usleep(50);
    }
}

void hook_run(struct rt_hooks *hooks, struct rt_env *env, struct hook_view *view, u32 nr, int on_exit, s64 result, s32 tid)
{
    memset(&env->task, 0, sizeof env->task);
    env->task.tid = (u32)tid;
    env->target = tid;
    env->user_ip = view->inner.ip;
    env->user_bp = view->inner.bp;
    env->kernel_begin = (const u8 *)view;
    env->kernel_end = (const u8 *)(view + 1);
    take(&hooks->lock);
    for (u32 i = 0; i < hooks->count; i++) {
        struct rt_hook *hook = &hooks->hook[i];
        if (!hook->live || hook->on_exit != (u32)on_exit || (hook->nr != nr && hook->nr != ANY_CALL))
            continue;
        void *ctx = &view->outer;
        memset(&view->outer, 0, sizeof view->outer);
        view->outer.di = (u64)&view->inner;
        view->outer.ax = (u64)result;
        if (hook->kind == HOOK_TRACEPOINT) {
            u64 args[6] = {view->inner.di, view->inner.si, view->inner.dx, view->inner.r10, view->inner.r8, view->inner.r9};
            memset(view->tracepoint, 0, 80);
            memcpy(view->tracepoint + 8, &nr, 4);
            if (on_exit)
                memcpy(view->tracepoint + 16, &result, 8);
            else
                memcpy(view->tracepoint + 16, args, 48);
            ctx = view->tracepoint;
        } else if (hook->kind == HOOK_RAW) {
            memset(view->raw, 0, sizeof view->raw);
            view->raw[0] = (u64)&view->inner;
            view->raw[1] = on_exit ? (u64)result : nr;
            ctx = view->raw;
        }
        env->attach_cookie = hook->cookie;
        rt_call(hook->prog, ctx, env);
        hooks->events++;
    }
    rt_unlock(&hooks->lock);
}

RT_API void rt_hooks_lock(struct rt_hooks *hooks) { take(&hooks->lock); }
RT_API void rt_hooks_unlock(struct rt_hooks *hooks) { rt_unlock(&hooks->lock); }
