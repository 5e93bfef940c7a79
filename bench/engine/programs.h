/* What programs.c stands on: libbpf's words for eBPF, and for the processor our own map's code, compiled with the program. */
#ifndef PROGRAMS_H
#define PROGRAMS_H

#ifdef __bpf__

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;

#ifdef BARE
/* For a virtual machine alone: SIZE bytes of memory in r1. */
#define PROGRAM(name) \
    SEC("xdp") \
    u64 name##_program(u8 *begin)
#define DATA begin
#define END (begin + SIZE)
#else
#define PROGRAM(name) \
    SEC("xdp") \
    int name##_program(struct xdp_md *ctx)
#define DATA (u8 *)(long)ctx->data
#define END (u8 *)(long)ctx->data_end
#endif
#define LICENSE char terms[] SEC("license") = "GPL";

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 256);
    __type(key, u32);
    __type(value, u64);
} numbers SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 8192);
    __type(key, u32);
    __type(value, u64);
} table SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 1 << 16);
} ring SEC(".maps");

#define in_array(key) bpf_map_lookup_elem(&numbers, key)
#define in_hash(key) bpf_map_lookup_elem(&table, key)
#define put_hash(key, value) bpf_map_update_elem(&table, key, value, 0)
#define ring_reserve(size) bpf_ringbuf_reserve(&ring, size, 0)
#define ring_submit(record) bpf_ringbuf_submit(record, 0)

#else

#include "rt.h"

#define PROGRAM(name) RT_API int name##_program(struct rt_xdp *ctx)
#define DATA (u8 *)ctx->data
#define END (u8 *)ctx->data_end
#define LICENSE

static u64 numbers[256];
RT_API struct rt_map *native_table, *native_ring;

static inline u64 *in_array(u32 *key) { return *key < 256 ? numbers + *key : NULL; }
static inline u64 *in_hash(u32 *key) { return hash_value(native_table, key, 0); }
static inline u64 put_hash(u32 *key, u64 *value) { return (u64)hash_put(native_table, key, value, 0, 0, 0); }
static inline u64 *ring_reserve(u64 size) { return reserve(native_ring, size); }
static inline void ring_submit(void *record) { commit(record, 0, 0); }

#include <time.h>

/* Nanoseconds of this thread for `times` runs. A ring's reader is one record behind: then it is not woken. */
RT_API u64 bench_time(rt_prog prog, void *ctx, struct rt_env *env, u32 times, struct rt_map *ring)
{
    struct timespec begin, finish;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begin);
    for (u32 i = 0; i < times; i++) {
        prog(ctx, env);
        if (ring)
            __atomic_store_n(consumer(ring), *producer(ring) - 72, __ATOMIC_RELEASE);
    }
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &finish);
    return (u64)(finish.tv_sec - begin.tv_sec) * 1000000000ull + (u64)finish.tv_nsec - (u64)begin.tv_nsec;
}

#endif
#endif
