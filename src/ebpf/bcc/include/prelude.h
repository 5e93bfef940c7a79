/* What every BCC program begins with: types, helpers, tables. Precompiled once. Written for the ebpf package.

   A table is a map and a constant struct of functions on it, so that `table.lookup(&key)` is plain C that the compiler inlines:
   the program's text needs no rewriting, and lines and columns stay its author's. */
#pragma once
#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s8 s8;
typedef __s16 s16;
typedef __s32 s32;
typedef __s64 s64;
typedef _Bool bool;
typedef __SIZE_TYPE__ size_t;
typedef int pid_t;
typedef unsigned int uid_t;
typedef unsigned int gid_t;
typedef unsigned short umode_t;
typedef long long loff_t;
typedef __INT64_TYPE__ int64_t;
typedef __UINT64_TYPE__ uint64_t;
typedef __INT32_TYPE__ int32_t;
typedef __UINT32_TYPE__ uint32_t;
typedef __UINT16_TYPE__ uint16_t;
typedef __UINT8_TYPE__ uint8_t;
#define true 1
#define false 0
#define __user
#define __kernel
#define TASK_COMM_LEN 16
#define NAME_MAX 255
#define PATH_MAX 4096
#define BPF_MAX_STACK_DEPTH 127
#define CUR_CPU_IDENTIFIER BPF_F_CURRENT_CPU
#define MASK(n) ((n) < 64 ? (1ull << (n)) - 1 : (u64)-1)
#define CONFIG_ARCH_HAS_SYSCALL_WRAPPER 1
#define memset __builtin_memset
#define memcpy __builtin_memcpy

/* x86-64's registers under the kernel's names. */
struct pt_regs {
    unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};
#define PT_REGS_PARM1(ctx) ((ctx)->di)
#define PT_REGS_PARM2(ctx) ((ctx)->si)
#define PT_REGS_PARM3(ctx) ((ctx)->dx)
#define PT_REGS_PARM4(ctx) ((ctx)->cx)
#define PT_REGS_PARM5(ctx) ((ctx)->r8)
#define PT_REGS_PARM6(ctx) ((ctx)->r9)
#define PT_REGS_RET(ctx) ((ctx)->sp)
#define PT_REGS_FP(ctx) ((ctx)->bp)
#define PT_REGS_RC(ctx) ((ctx)->ax)
#define PT_REGS_IP(ctx) ((ctx)->ip)
#define PT_REGS_SP(ctx) ((ctx)->sp)
#define PT_REGS_SYSCALL_CTX(ctx) ((struct pt_regs *)PT_REGS_PARM1(ctx))
#define ___bcc_read(ctx, reg)                                                                      \
    ({                                                                                             \
        unsigned long ___v = 0;                                                                    \
        bpf_probe_read_kernel(&___v, sizeof(___v), &(ctx)->reg);                                   \
        ___v;                                                                                      \
    })
#define PT_REGS_PARM1_SYSCALL(ctx) ___bcc_read(ctx, di)
#define PT_REGS_PARM2_SYSCALL(ctx) ___bcc_read(ctx, si)
#define PT_REGS_PARM3_SYSCALL(ctx) ___bcc_read(ctx, dx)
#define PT_REGS_PARM4_SYSCALL(ctx) ___bcc_read(ctx, r10)
#define PT_REGS_PARM5_SYSCALL(ctx) ___bcc_read(ctx, r8)
#define PT_REGS_PARM6_SYSCALL(ctx) ___bcc_read(ctx, r9)

#define lock_xadd(ptr, val) ((void)__sync_fetch_and_add(ptr, val))

/* bpf_trace_printk takes its format as a literal here. */
static long (*const bpf_trace_printk_)(const char *fmt, __u32 fmt_size, ...) = (void *)6;
#define bpf_trace_printk(fmt, args...)                                                             \
    ({                                                                                             \
        char _fmt[] = fmt;                                                                         \
        bpf_trace_printk_(_fmt, sizeof(_fmt), ##args);                                             \
    })

static __always_inline unsigned int bpf_log2(unsigned int v)
{
    unsigned int r, shift;
    r = (v > 0xFFFF) << 4;
    v >>= r;
    shift = (v > 0xFF) << 3;
    v >>= shift;
    r |= shift;
    shift = (v > 0xF) << 2;
    v >>= shift;
    r |= shift;
    shift = (v > 0x3) << 1;
    v >>= shift;
    r |= shift;
    r |= (v >> 1);
    return r;
}
static __always_inline unsigned int bpf_log2l(unsigned long v)
{
    unsigned int high = v >> 32;
    return high ? bpf_log2(high) + 32 + 1 : bpf_log2(v) + 1;
}

/* -- tables */

#define ___bcc_map(kind, K, L, name, size, fl)                                                     \
    struct {                                                                                       \
        __uint(type, kind);                                                                        \
        __uint(max_entries, size);                                                                 \
        __type(key, K);                                                                            \
        __type(value, L);                                                                          \
        __uint(map_flags, fl);                                                                     \
    } name##__map SEC(".maps")

#define ___bcc_table(kind, K, L, name, size, fl)                                                   \
    ___bcc_map(kind, K, L, name, size, fl);                                                        \
    static __always_inline L *name##__lookup(K *k) { return bpf_map_lookup_elem(&name##__map, k); } \
    static __always_inline long name##__update(K *k, L *v) { return bpf_map_update_elem(&name##__map, k, v, BPF_ANY); } \
    static __always_inline long name##__insert(K *k, L *v) { return bpf_map_update_elem(&name##__map, k, v, BPF_NOEXIST); } \
    static __always_inline long name##__delete(K *k) { return bpf_map_delete_elem(&name##__map, k); } \
    static __always_inline L *name##__lookup_or_try_init(K *k, L *v)                               \
    {                                                                                              \
        L *___l = bpf_map_lookup_elem(&name##__map, k);                                            \
        if (!___l) {                                                                               \
            bpf_map_update_elem(&name##__map, k, v, BPF_NOEXIST);                                  \
            ___l = bpf_map_lookup_elem(&name##__map, k);                                           \
        }                                                                                          \
        return ___l;                                                                               \
    }                                                                                              \
    struct name##__methods {                                                                       \
        K key;                                                                                     \
        L leaf;                                                                                    \
        L *(*lookup)(K *);                                                                         \
        L *(*lookup_or_try_init)(K *, L *);                                                        \
        long (*update)(K *, L *);                                                                  \
        long (*insert)(K *, L *);                                                                  \
        long (*delete)(K *);                                                                       \
        void (*increment)(K, u64);                                                                 \
        void (*atomic_increment)(K, u64);                                                          \
    }

#define ___bcc_object(name)                                                                        \
    static const struct name##__methods name = {                                                   \
        .lookup = name##__lookup,                                                                  \
        .lookup_or_try_init = name##__lookup_or_try_init,                                          \
        .update = name##__update,                                                                  \
        .insert = name##__insert,                                                                  \
        .delete = name##__delete,                                                                  \
        .increment = name##__increment,                                                            \
        .atomic_increment = name##__increment,                                                     \
    }

/* Counting: exact on every processor, as the addition is atomic. A hash makes the element when it is missing. */
#define ___bcc_counted(kind, K, L, name, size, fl, make)                                           \
    ___bcc_table(kind, K, L, name, size, fl);                                                      \
    static __always_inline void name##__increment(K k, u64 n)                                      \
    {                                                                                              \
        K ___k = k;                                                                                \
        L *___l = bpf_map_lookup_elem(&name##__map, &___k);                                        \
        if (!___l && (make)) {                                                                     \
            L ___zero = 0;                                                                         \
            bpf_map_update_elem(&name##__map, &___k, &___zero, BPF_NOEXIST);                       \
            ___l = bpf_map_lookup_elem(&name##__map, &___k);                                       \
        }                                                                                          \
        if (___l)                                                                                  \
            __sync_fetch_and_add(___l, n);                                                         \
    }                                                                                              \
    ___bcc_object(name)

/* A leaf that is no number cannot be counted. */
#define ___bcc_plain(kind, K, L, name, size, fl)                                                   \
    ___bcc_table(kind, K, L, name, size, fl);                                                      \
    static const struct name##__methods name = {                                                   \
        .lookup = name##__lookup,                                                                  \
        .lookup_or_try_init = name##__lookup_or_try_init,                                          \
        .update = name##__update,                                                                  \
        .insert = name##__insert,                                                                  \
        .delete = name##__delete,                                                                  \
    }

#define ___bcc_pick(_1, _2, _3, _4, N, ...) N

#define ___bcc_hash1(name) ___bcc_counted(BPF_MAP_TYPE_HASH, u64, u64, name, 10240, 0, 1)
#define ___bcc_hash2(name, K) ___bcc_counted(BPF_MAP_TYPE_HASH, K, u64, name, 10240, 0, 1)
#define ___bcc_hash3(name, K, L) ___bcc_plain(BPF_MAP_TYPE_HASH, K, L, name, 10240, 0)
#define ___bcc_hash4(name, K, L, size) ___bcc_plain(BPF_MAP_TYPE_HASH, K, L, name, size, 0)
#define ___bcc_hash3n(name, K, L) ___bcc_counted(BPF_MAP_TYPE_HASH, K, L, name, 10240, 0, 1)
#define ___bcc_hash4n(name, K, L, size) ___bcc_counted(BPF_MAP_TYPE_HASH, K, L, name, size, 0, 1)
#define BPF_HASH(...) ___bcc_pick(__VA_ARGS__, ___bcc_hash4, ___bcc_hash3, ___bcc_hash2, ___bcc_hash1)(__VA_ARGS__)

#define ___bcc_array1(name) ___bcc_counted(BPF_MAP_TYPE_ARRAY, int, u64, name, 10240, 0, 0)
#define ___bcc_array2(name, L) ___bcc_plain(BPF_MAP_TYPE_ARRAY, int, L, name, 10240, 0)
#define ___bcc_array3(name, L, size) ___bcc_plain(BPF_MAP_TYPE_ARRAY, int, L, name, size, 0)
#define BPF_ARRAY(...) ___bcc_pick(__VA_ARGS__, , ___bcc_array3, ___bcc_array2, ___bcc_array1)(__VA_ARGS__)

#define ___bcc_parray1(name) ___bcc_counted(BPF_MAP_TYPE_PERCPU_ARRAY, int, u64, name, 10240, 0, 0)
#define ___bcc_parray2(name, L) ___bcc_plain(BPF_MAP_TYPE_PERCPU_ARRAY, int, L, name, 10240, 0)
#define ___bcc_parray3(name, L, size) ___bcc_plain(BPF_MAP_TYPE_PERCPU_ARRAY, int, L, name, size, 0)
#define BPF_PERCPU_ARRAY(...) ___bcc_pick(__VA_ARGS__, , ___bcc_parray3, ___bcc_parray2, ___bcc_parray1)(__VA_ARGS__)

#define ___bcc_phash1(name) ___bcc_counted(BPF_MAP_TYPE_PERCPU_HASH, u64, u64, name, 10240, 0, 0)
#define ___bcc_phash2(name, K) ___bcc_counted(BPF_MAP_TYPE_PERCPU_HASH, K, u64, name, 10240, 0, 0)
#define ___bcc_phash3(name, K, L) ___bcc_plain(BPF_MAP_TYPE_PERCPU_HASH, K, L, name, 10240, 0)
#define ___bcc_phash4(name, K, L, size) ___bcc_plain(BPF_MAP_TYPE_PERCPU_HASH, K, L, name, size, 0)
#define BPF_PERCPU_HASH(...) ___bcc_pick(__VA_ARGS__, ___bcc_phash4, ___bcc_phash3, ___bcc_phash2, ___bcc_phash1)(__VA_ARGS__)

/* A histogram over `int` is an array, over any other key a hash. */
#define ___bcc_hist(name, K, size)                                                                 \
    ___bcc_counted((__builtin_types_compatible_p(K, int) ? BPF_MAP_TYPE_ARRAY : BPF_MAP_TYPE_HASH), K, u64, name, size, 0, \
                   !__builtin_types_compatible_p(K, int))
#define ___bcc_hist1(name) ___bcc_hist(name, int, 64)
#define ___bcc_hist2(name, K) ___bcc_hist(name, K, 64)
#define ___bcc_hist3(name, K, size) ___bcc_hist(name, K, size)
#define BPF_HISTOGRAM(...) ___bcc_pick(__VA_ARGS__, , ___bcc_hist3, ___bcc_hist2, ___bcc_hist1)(__VA_ARGS__)

#define BPF_PERF_OUTPUT(name)                                                                      \
    struct {                                                                                       \
        __uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);                                               \
        __uint(key_size, 4);                                                                       \
        __uint(value_size, 4);                                                                     \
    } name##__map SEC(".maps");                                                                    \
    static __always_inline long name##__perf_submit(void *ctx, void *data, u64 size)               \
    {                                                                                              \
        return bpf_perf_event_output(ctx, &name##__map, CUR_CPU_IDENTIFIER, data, size);           \
    }                                                                                              \
    static const struct name##__methods {                                                          \
        long (*perf_submit)(void *, void *, u64);                                                  \
    } name = {name##__perf_submit}

#define BPF_RINGBUF_OUTPUT(name, pages)                                                            \
    struct {                                                                                       \
        __uint(type, BPF_MAP_TYPE_RINGBUF);                                                        \
        __uint(max_entries, (pages)*4096);                                                         \
    } name##__map SEC(".maps");                                                                    \
    static __always_inline long name##__ringbuf_output(void *data, u64 size, u64 flags)            \
    {                                                                                              \
        return bpf_ringbuf_output(&name##__map, data, size, flags);                                \
    }                                                                                              \
    static __always_inline void *name##__ringbuf_reserve(u64 size) { return bpf_ringbuf_reserve(&name##__map, size, 0); } \
    static __always_inline void name##__ringbuf_submit(void *p, u64 flags) { bpf_ringbuf_submit(p, flags); } \
    static __always_inline void name##__ringbuf_discard(void *p, u64 flags) { bpf_ringbuf_discard(p, flags); } \
    static __always_inline u64 name##__ringbuf_query(u64 flags) { return bpf_ringbuf_query(&name##__map, flags); } \
    static const struct name##__methods {                                                          \
        long (*ringbuf_output)(void *, u64, u64);                                                  \
        void *(*ringbuf_reserve)(u64);                                                             \
        void (*ringbuf_submit)(void *, u64);                                                       \
        void (*ringbuf_discard)(void *, u64);                                                      \
        u64 (*ringbuf_query)(u64);                                                                 \
    } name = {name##__ringbuf_output, name##__ringbuf_reserve, name##__ringbuf_submit, name##__ringbuf_discard, \
              name##__ringbuf_query}

#define TRACEPOINT_PROBE(category, event) int tracepoint__##category##__##event(struct tracepoint__##category##__##event *args)
#define RAW_TRACEPOINT_PROBE(event) int raw_tracepoint__##event(struct bpf_raw_tracepoint_args *ctx)
