/* The runtime's ABI: what compiled programs, helpers, maps and native loops share. abi.py has the same structs for Python. */
#ifndef EBPF_RT_H
#define EBPF_RT_H

#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t s32;
typedef int64_t s64;

#define RT_API __attribute__((visibility("default")))

struct rt_env;
struct rt_map;
struct rt_clock;

/* Every program's entry. */
typedef u64 (*rt_prog)(void *ctx, struct rt_env *env);
/* Every helper's body. */
typedef u64 (*rt_helper)(u64 r1, u64 r2, u64 r3, u64 r4, u64 r5, struct rt_env *env);

enum { RT_NAME = 16, RT_PAGE = 4096 };

/* Who runs: filled in when a helper first asks (`known` says which parts are). */
enum { RT_KNOW_COMM = 1, RT_KNOW_IDS = 2, RT_KNOW_CPU = 4, RT_KNOW_OBJECT = 8 };
struct rt_task {
    u32 tid, tgid, uid, gid;
    char comm[RT_NAME];
    u32 cpu;
    u32 known;
    struct rt_task *real_parent, *parent;
    void *cgroups; /* struct css_set, as programs see it */
    u32 began, spare; /* when it began, in the machine's ticks */
};

/* A ring of whole lines; many writers, one reader. Where there is no room, the oldest go. */
struct rt_trace {
    u64 head, tail; /* bytes written and read, ever */
    u64 lost;       /* lines that were overwritten since the reader last looked */
    u32 size;       /* a power of two */
    u32 lock;
    s32 event_fd; /* written when a reader waits; -1: none */
    u32 waiting;
    u32 spare;
    u8 data[];
};

/* A route, and what is known of the neighbour that it leads to. Numbers are in the machine's order, addresses in the network's. */
struct rt_route {
    u32 family, bits;
    u32 result; /* what bpf_fib_lookup answers: 0, or that packets are dropped, unreachable, forbidden */
    u32 ifindex, mtu, metric, gateway_family, neighbour;
    u8 prefix[16], gateway[16], source[16];
    u8 smac[6], dmac[6];
    u32 link_mtu;
};

/* The tunnel that a program said a packet is to go through. Addresses as programs write them: the machine's order for IPv4. */
struct rt_tunnel {
    u32 id, label;
    u8 from[16], to[16];
    u16 flags;
    u8 known, ipv6, tos, ttl, options_size, spare;
    u8 options[256];
};

/* All that a program's surroundings are: nothing is thread-local, nothing global. */
struct rt_env {
    struct rt_task task;
    struct rt_trace *trace;
    u64 random;       /* state of the generator */
    u64 clock_offset; /* added to the monotonic clock */
    u64 fixed_time;   /* if not 0: the time is this */
    s32 target;       /* whose memory "user memory" is: a thread id, 0 for none */
    u32 ncpu;
    const u8 *kernel_begin, *kernel_end; /* memory besides maps and stack that counts as the kernel's */
    void *packet;                        /* the packet's buffer, for helpers that move its ends */
    u64 runs;                            /* odd while a program runs in these surroundings */
    u32 tail_calls;
    u32 stop; /* not 0: who runs here has had enough time, and leaves its endless loops */
    const struct rt_route *routes; /* what bpf_fib_lookup finds, longest prefixes first; family 0 ends it; NULL: nothing */
    u64 user_ip, user_bp;          /* where the task is in its own code, if it is known (0: it is not) */
    struct rt_task parent;
    /* The task's cgroup as programs see it: struct css_set, in it a struct cgroup's address, in that a struct kernfs_node's, in that its id. */
    void *cgroups, *cgroup;
    u64 cgroup_node;
    u64 attach_cookie; /* what was said when the program was attached */
    u64 socket_cookie; /* of the packets' socket; 0: nobody has asked */
    struct rt_tunnel tunnel;
    u32 to_ifindex, to_flags;      /* where the packet is to go, when a verdict says that it is redirected */
};

enum {
    RT_MAP_HASH = 1,
    RT_MAP_ARRAY = 2,
    RT_MAP_PROG_ARRAY = 3,
    RT_MAP_PERF_EVENT_ARRAY = 4,
    RT_MAP_PERCPU_HASH = 5,
    RT_MAP_PERCPU_ARRAY = 6,
    RT_MAP_STACK_TRACE = 7,
    RT_MAP_CGROUP_ARRAY = 8,
    RT_MAP_LRU_HASH = 9,
    RT_MAP_LRU_PERCPU_HASH = 10,
    RT_MAP_LPM_TRIE = 11,
    RT_MAP_ARRAY_OF_MAPS = 12,
    RT_MAP_HASH_OF_MAPS = 13,
    RT_MAP_DEVMAP = 14,
    RT_MAP_QUEUE = 22,
    RT_MAP_STACK = 23,
    RT_MAP_DEVMAP_HASH = 25,
    RT_MAP_RINGBUF = 27,
    RT_MAP_TASK_STORAGE = 29,
    RT_MAP_BLOOM_FILTER = 30,
    RT_MAP_CGRP_STORAGE = 32,
};

/* A map. `data` is what programs reach; `elem_size` is the distance between elements there. */
struct rt_map {
    u32 type, key_size, value_size, max_entries;
    u32 flags, elem_size, ncpu, cpu_stride;
    u8 *data;
    u64 data_size;
    void *meta;
    u64 meta_size;
    u32 lock;
    u32 count;
    u32 free_head, buckets;
    s32 event_fd; /* ring buffer: written when there is something to read */
    u32 fresh;    /* elements from this one on have never been used */
    u32 seed;
    u32 hand;     /* where the search for what to evict goes on */
    u32 seq;      /* trie: odd while a writer is at work */
    u32 capacity; /* elements that there is room for */
    u32 lock_at;  /* values have a bpf_spin_lock at this place, less 1; 0: they have none */
    u32 timer_at; /* the same of a bpf_timer */
    struct rt_clock *clock; /* what runs its timers; NULL: it has none, or nobody has the map open any more */
};

/* The context of XDP programs: xdp_md's fields at their full width. */
struct rt_xdp {
    u64 data, data_end, data_meta;
    u32 ingress_ifindex, rx_queue_index, egress_ifindex, unused;
    u64 hard_begin, hard_end; /* the buffer around the packet */
};

/* The context of programs above the driver: __sk_buff as it is documented, and behind it what is wider or not for programs. */
struct rt_skb {
    u32 len, pkt_type, mark, queue_mapping, protocol, vlan[3], priority, ingress_ifindex, ifindex, tc_index, cb[5], hash, tc_classid;
    u32 places[2], napi_id, socket[13], place, flow_keys[2];
    u64 tstamp;
    u32 wire_len, gso_segs;
    u64 sk;
    u32 gso_size, tstamp_type;
    u64 hwtstamp;
    u64 data, data_end, data_meta;
    u64 link_header, network_header;
    u64 hard_begin, hard_end; /* the buffer around the packet */
};

/* x86-64's registers as programs on kernel functions see them. */
struct rt_regs {
    u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};

/* A perf buffer: one metadata page in Linux's layout, then a power of two of data pages. */
struct rt_perf {
    u8 *base;
    u64 data_size;
    u64 lost;
    u32 lock;
    s32 event_fd;
};

/* Run a program: the one way to. Who took something away from programs knows from `runs` when none can have it any more. */
static inline u64 rt_call(rt_prog prog, void *ctx, struct rt_env *env)
{
    __atomic_store_n(&env->runs, env->runs + 1, __ATOMIC_RELAXED);
    env->tail_calls = 0;
    u64 result = prog(ctx, env);
    __atomic_store_n(&env->runs, env->runs + 1, __ATOMIC_RELEASE);
    return result;
}

/* Whether who runs here has had enough time: then all loops are left. */
static inline int rt_stopped(const struct rt_env *env) { return __atomic_load_n(&env->stop, __ATOMIC_RELAXED) != 0; }

static inline void rt_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    __asm__ volatile("yield");
#endif
}

/* A lock that survives its owner: the word is the owner's thread id, and who waits long looks whether that still lives.
 * Held for a few instructions, never across a call into a program. The answer is whether the last owner died with it. */
u32 rt_self(void);
/* How many forks lie between the loading of this library and here. */
extern u32 rt_forks;
int rt_lock_slowly(u32 *word, u32 self);
/* Whether a thread is no more. Takes system calls. */
int rt_is_dead(u32 tid);
static inline int rt_lock(u32 *word)
{
    u32 self = rt_self(), free = 0;
    if (__builtin_expect(__atomic_compare_exchange_n(word, &free, self, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED), 1))
        return 0;
    return rt_lock_slowly(word, self);
}

static inline void rt_unlock(u32 *word) { __atomic_store_n(word, 0, __ATOMIC_RELEASE); }

s64 rt_map_next(struct rt_map *map, const void *key, void *out);
void *rt_map_value(struct rt_map *map, const void *key, u32 cpu);
s64 rt_map_put(struct rt_map *map, const void *key, const void *value, u64 flags, int per_cpu, u32 cpu);
s64 rt_map_remove(struct rt_map *map, const void *key);
u32 rt_hash_batch(struct rt_map *map, u32 *place, u32 count, u8 *keys, u8 *values, u32 size, int take);
s64 rt_trace_keep(struct rt_map *map, const u64 *frames, u32 count, int by_hash, int replace);
void rt_timer_drop(struct rt_map *map, u8 *value);
u64 rt_hash_each(struct rt_map *map, rt_helper callback, u64 ctx, struct rt_env *env);
u64 rt_now(struct rt_env *env);
void rt_know(struct rt_env *env, u32 what);
int rt_slurp(const char *name, s32 tid, char *out, int size);
u64 rt_cgroup_of(const struct rt_env *env);
int rt_format(char *out, int size, const char *fmt, int fmt_size, const u64 *args, int nargs, struct rt_env *env);
void rt_trace_line(struct rt_env *env, const char *text, int length);
s64 rt_read_user(struct rt_env *env, void *dst, u64 size, u64 from);
s64 rt_read_kernel(void *dst, u64 size, u64 from);
s64 rt_read_user_str(struct rt_env *env, char *dst, u64 size, u64 from);
int rt_is_kernel(struct rt_env *env, u64 at, u64 size);

#endif
