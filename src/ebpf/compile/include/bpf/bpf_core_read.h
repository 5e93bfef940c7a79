/* Reading kernel structures whose layout is found out at load. Written for the ebpf package. */
#pragma once

#include "bpf_helpers.h"

enum bpf_field_info_kind {
    BPF_FIELD_BYTE_OFFSET = 0,
    BPF_FIELD_BYTE_SIZE = 1,
    BPF_FIELD_EXISTS = 2,
    BPF_FIELD_SIGNED = 3,
    BPF_FIELD_LSHIFT_U64 = 4,
    BPF_FIELD_RSHIFT_U64 = 5,
};
enum bpf_type_id_kind { BPF_TYPE_ID_LOCAL = 0, BPF_TYPE_ID_TARGET = 1 };
enum bpf_type_info_kind { BPF_TYPE_EXISTS = 0, BPF_TYPE_SIZE = 1, BPF_TYPE_MATCHES = 2 };
enum bpf_enum_value_kind { BPF_ENUMVAL_EXISTS = 0, BPF_ENUMVAL_VALUE = 1 };

#define __CORE_RELO(src, field, info) __builtin_preserve_field_info((src)->field, BPF_FIELD_##info)

#define ___bpf_field_ref1(field) (field)
#define ___bpf_field_ref2(type, field) (((typeof(type) *)0)->field)
#define ___bpf_field_ref(args...) ___bpf_concat(___bpf_field_ref, ___bpf_narg(args))(args)

#define bpf_core_field_exists(field...) __builtin_preserve_field_info(___bpf_field_ref(field), BPF_FIELD_EXISTS)
#define bpf_core_field_size(field...) __builtin_preserve_field_info(___bpf_field_ref(field), BPF_FIELD_BYTE_SIZE)
#define bpf_core_field_offset(field...) __builtin_preserve_field_info(___bpf_field_ref(field), BPF_FIELD_BYTE_OFFSET)
#define bpf_core_type_id_local(type) __builtin_btf_type_id(*(typeof(type) *)0, BPF_TYPE_ID_LOCAL)
#define bpf_core_type_id_kernel(type) __builtin_btf_type_id(*(typeof(type) *)0, BPF_TYPE_ID_TARGET)
#define bpf_core_type_exists(type) __builtin_preserve_type_info(*(typeof(type) *)0, BPF_TYPE_EXISTS)
#define bpf_core_type_matches(type) __builtin_preserve_type_info(*(typeof(type) *)0, BPF_TYPE_MATCHES)
#define bpf_core_type_size(type) __builtin_preserve_type_info(*(typeof(type) *)0, BPF_TYPE_SIZE)
#define bpf_core_enum_value_exists(type, value) \
    __builtin_preserve_enum_value(*(typeof(type) *)value, BPF_ENUMVAL_EXISTS)
#define bpf_core_enum_value(type, value) __builtin_preserve_enum_value(*(typeof(type) *)value, BPF_ENUMVAL_VALUE)

#define bpf_core_cast(ptr, type) ((typeof(type) *)bpf_rdonly_cast((ptr), bpf_core_type_id_kernel(type)))
extern void *bpf_rdonly_cast(const void *obj, __u32 btf_id) __ksym __weak;

#define bpf_core_read(dst, size, src) \
    bpf_probe_read_kernel(dst, size, (const void *)__builtin_preserve_access_index(src))
#define bpf_core_read_user(dst, size, src) \
    bpf_probe_read_user(dst, size, (const void *)__builtin_preserve_access_index(src))
#define bpf_core_read_str(dst, size, src) \
    bpf_probe_read_kernel_str(dst, size, (const void *)__builtin_preserve_access_index(src))
#define bpf_core_read_user_str(dst, size, src) \
    bpf_probe_read_user_str(dst, size, (const void *)__builtin_preserve_access_index(src))

/* Bit fields: read the bytes around one, then shift it into place. */
#define BPF_CORE_READ_BITFIELD_PROBED(s, field)                                                    \
    ({                                                                                             \
        unsigned long long ___value = 0;                                                           \
        bpf_probe_read_kernel(&___value, __CORE_RELO(s, field, BYTE_SIZE),                         \
                              (const void *)s + __CORE_RELO(s, field, BYTE_OFFSET));               \
        ___value <<= __CORE_RELO(s, field, LSHIFT_U64);                                            \
        __CORE_RELO(s, field, SIGNED) ? (long long)___value >> __CORE_RELO(s, field, RSHIFT_U64)   \
                                      : ___value >> __CORE_RELO(s, field, RSHIFT_U64);             \
    })
/* The barrier keeps clang from adding the offset, which is found at load, into the loads. */
#define BPF_CORE_READ_BITFIELD(s, field)                                                           \
    ({                                                                                             \
        const void *___at = (const void *)s + __CORE_RELO(s, field, BYTE_OFFSET);                  \
        unsigned long long ___value = 0;                                                           \
        barrier_var(___at);                                                                        \
        switch (__CORE_RELO(s, field, BYTE_SIZE)) {                                                \
        case 1: ___value = *(const unsigned char *)___at; break;                                   \
        case 2: ___value = *(const unsigned short *)___at; break;                                  \
        case 4: ___value = *(const unsigned int *)___at; break;                                    \
        case 8: ___value = *(const unsigned long long *)___at; break;                              \
        }                                                                                          \
        ___value <<= __CORE_RELO(s, field, LSHIFT_U64);                                            \
        __CORE_RELO(s, field, SIGNED) ? (long long)___value >> __CORE_RELO(s, field, RSHIFT_U64)   \
                                      : ___value >> __CORE_RELO(s, field, RSHIFT_U64);             \
    })

/* Writing one: its bytes are read, its bits replaced, and they are written again. */
#define ___bpf_replace(type, at, mask, bits) *(type *)(at) = (*(type *)(at) & ~(mask)) | (bits)
#define BPF_CORE_WRITE_BITFIELD(s, field, new_val)                                                 \
    ({                                                                                             \
        void *___at = (void *)s + __CORE_RELO(s, field, BYTE_OFFSET);                              \
        unsigned int ___right = __CORE_RELO(s, field, RSHIFT_U64);                                 \
        unsigned int ___left = __CORE_RELO(s, field, LSHIFT_U64);                                  \
        unsigned long long ___mask = ~0ULL << ___right >> ___left;                                 \
        unsigned long long ___bits = (unsigned long long)(new_val) << ___right >> ___left;         \
        barrier_var(___at);                                                                        \
        switch (__CORE_RELO(s, field, BYTE_SIZE)) {                                                \
        case 1: ___bpf_replace(unsigned char, ___at, ___mask, ___bits); break;                     \
        case 2: ___bpf_replace(unsigned short, ___at, ___mask, ___bits); break;                    \
        case 4: ___bpf_replace(unsigned int, ___at, ___mask, ___bits); break;                      \
        case 8: ___bpf_replace(unsigned long long, ___at, ___mask, ___bits); break;                \
        }                                                                                          \
    })

/* BPF_CORE_READ(a, b, c): a->b->c, one read for each arrow. */
#define ___bpf_last1(a) a
#define ___bpf_last2(a, b) b
#define ___bpf_last3(a, b, c) c
#define ___bpf_last4(a, b, c, d) d
#define ___bpf_last5(a, b, c, d, e) e
#define ___bpf_last6(a, b, c, d, e, f) f
#define ___bpf_last7(a, b, c, d, e, f, g) g
#define ___bpf_last8(a, b, c, d, e, f, g, h) h
#define ___bpf_last9(a, b, c, d, e, f, g, h, i) i
#define ___bpf_last10(a, b, c, d, e, f, g, h, i, j) j
#define ___bpf_last(args...) ___bpf_concat(___bpf_last, ___bpf_narg(args))(args)

#define ___bpf_but2(a, b) a
#define ___bpf_but3(a, b, c) a, b
#define ___bpf_but4(a, b, c, d) a, b, c
#define ___bpf_but5(a, b, c, d, e) a, b, c, d
#define ___bpf_but6(a, b, c, d, e, f) a, b, c, d, e
#define ___bpf_but7(a, b, c, d, e, f, g) a, b, c, d, e, f
#define ___bpf_but8(a, b, c, d, e, f, g, h) a, b, c, d, e, f, g
#define ___bpf_but9(a, b, c, d, e, f, g, h, i) a, b, c, d, e, f, g, h
#define ___bpf_but10(a, b, c, d, e, f, g, h, i, j) a, b, c, d, e, f, g, h, i
#define ___bpf_but_last(args...) ___bpf_concat(___bpf_but, ___bpf_narg(args))(args)

#define ___bpf_arrow2(a, b) a->b
#define ___bpf_arrow3(a, b, c) a->b->c
#define ___bpf_arrow4(a, b, c, d) a->b->c->d
#define ___bpf_arrow5(a, b, c, d, e) a->b->c->d->e
#define ___bpf_arrow6(a, b, c, d, e, f) a->b->c->d->e->f
#define ___bpf_arrow7(a, b, c, d, e, f, g) a->b->c->d->e->f->g
#define ___bpf_arrow8(a, b, c, d, e, f, g, h) a->b->c->d->e->f->g->h
#define ___bpf_arrow9(a, b, c, d, e, f, g, h, i) a->b->c->d->e->f->g->h->i
#define ___bpf_arrow10(a, b, c, d, e, f, g, h, i, j) a->b->c->d->e->f->g->h->i->j
#define ___bpf_arrow(args...) ___bpf_concat(___bpf_arrow, ___bpf_narg(args))(args)
/* Without const and volatile, where clang can say so: values are read into variables of it. */
#if __clang_major__ >= 19
#define ___bpf_type_of(args...) __typeof_unqual__(___bpf_arrow(args))
#else
#define ___bpf_type_of(args...) typeof(___bpf_arrow(args))
#endif

/* Follow all arrows but the last into the pointer __t, then read the last member with `last`. */
#define ___bpf_into(mid, src, a) (void)mid(&__t, sizeof(__t), &((typeof(src))(src))->a)
#define ___bpf_hop(mid, args...)                                                                   \
    (void)mid(&__t, sizeof(__t), &((___bpf_type_of(___bpf_but_last(args)))(__t))->___bpf_last(args))
#define ___bpf_hops2(mid, s, a) ___bpf_into(mid, s, a)
#define ___bpf_hops3(mid, s, a, b) ___bpf_hops2(mid, s, a); ___bpf_hop(mid, s, a, b)
#define ___bpf_hops4(mid, s, a, b, c) ___bpf_hops3(mid, s, a, b); ___bpf_hop(mid, s, a, b, c)
#define ___bpf_hops5(mid, s, a, b, c, d) ___bpf_hops4(mid, s, a, b, c); ___bpf_hop(mid, s, a, b, c, d)
#define ___bpf_hops6(mid, s, a, b, c, d, e) ___bpf_hops5(mid, s, a, b, c, d); ___bpf_hop(mid, s, a, b, c, d, e)
#define ___bpf_hops7(mid, s, a, b, c, d, e, f) \
    ___bpf_hops6(mid, s, a, b, c, d, e); ___bpf_hop(mid, s, a, b, c, d, e, f)
#define ___bpf_hops8(mid, s, a, b, c, d, e, f, g) \
    ___bpf_hops7(mid, s, a, b, c, d, e, f); ___bpf_hop(mid, s, a, b, c, d, e, f, g)
#define ___bpf_hops9(mid, s, a, b, c, d, e, f, g, h) \
    ___bpf_hops8(mid, s, a, b, c, d, e, f, g); ___bpf_hop(mid, s, a, b, c, d, e, f, g, h)
#define ___bpf_hops(mid, args...) ___bpf_concat(___bpf_hops, ___bpf_narg(args))(mid, args)

/* The cast is for members that are volatile: what they are read into is so too. */
#define ___bpf_read_short(last, mid, dst, size, s, a) last((void *)(dst), size, &((typeof(s))(s))->a)
#define ___bpf_read_long(last, mid, dst, size, args...)                                            \
    ({                                                                                             \
        const void *__t;                                                                           \
        ___bpf_hops(mid, ___bpf_but_last(args));                                                   \
        last((void *)(dst), size, &((___bpf_type_of(___bpf_but_last(args)))(__t))->___bpf_last(args)); \
    })
#define ___bpf_pick_read(...)                                                                      \
    ___bpf_nth(_, ##__VA_ARGS__, ___bpf_read_long, ___bpf_read_long, ___bpf_read_long,             \
               ___bpf_read_long, ___bpf_read_long, ___bpf_read_long, ___bpf_read_long,             \
               ___bpf_read_long, ___bpf_read_long, ___bpf_read_long, ___bpf_read_short,            \
               ___bpf_read_short, ___bpf_read_short)
#define ___bpf_core_read_into(last, mid, dst, size, args...) ___bpf_pick_read(args)(last, mid, dst, size, args)

#define BPF_CORE_READ_INTO(dst, src, a, args...) \
    ___bpf_core_read_into(bpf_core_read, bpf_core_read, dst, sizeof(*(dst)), src, a, ##args)
#define BPF_CORE_READ_USER_INTO(dst, src, a, args...) \
    ___bpf_core_read_into(bpf_core_read_user, bpf_core_read_user, dst, sizeof(*(dst)), src, a, ##args)
#define BPF_CORE_READ_STR_INTO(dst, src, a, args...) \
    ___bpf_core_read_into(bpf_core_read_str, bpf_core_read, dst, sizeof(*(dst)), src, a, ##args)
#define BPF_CORE_READ_USER_STR_INTO(dst, src, a, args...) \
    ___bpf_core_read_into(bpf_core_read_user_str, bpf_core_read_user, dst, sizeof(*(dst)), src, a, ##args)
#define BPF_PROBE_READ_INTO(dst, src, a, args...) \
    ___bpf_core_read_into(bpf_probe_read_kernel, bpf_probe_read_kernel, dst, sizeof(*(dst)), src, a, ##args)
#define BPF_PROBE_READ_USER_INTO(dst, src, a, args...) \
    ___bpf_core_read_into(bpf_probe_read_user, bpf_probe_read_user, dst, sizeof(*(dst)), src, a, ##args)
#define BPF_PROBE_READ_STR_INTO(dst, src, a, args...) \
    ___bpf_core_read_into(bpf_probe_read_kernel_str, bpf_probe_read_kernel, dst, sizeof(*(dst)), src, a, ##args)
#define BPF_PROBE_READ_USER_STR_INTO(dst, src, a, args...) \
    ___bpf_core_read_into(bpf_probe_read_user_str, bpf_probe_read_user, dst, sizeof(*(dst)), src, a, ##args)

#define ___bpf_value(into, src, a, args...)                                                        \
    ({                                                                                             \
        ___bpf_type_of((src), a, ##args) __r;                                                      \
        into(&__r, (src), a, ##args);                                                              \
        __r;                                                                                       \
    })
#define BPF_CORE_READ(src, a, args...) ___bpf_value(BPF_CORE_READ_INTO, src, a, ##args)
#define BPF_CORE_READ_USER(src, a, args...) ___bpf_value(BPF_CORE_READ_USER_INTO, src, a, ##args)
#define BPF_PROBE_READ(src, a, args...) ___bpf_value(BPF_PROBE_READ_INTO, src, a, ##args)
#define BPF_PROBE_READ_USER(src, a, args...) ___bpf_value(BPF_PROBE_READ_USER_INTO, src, a, ##args)
