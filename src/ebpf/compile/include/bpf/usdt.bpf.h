/* Arguments of user-space probes (USDT). Written for the ebpf package.

   Whoever attaches a program writes down, for each place of a probe, where its arguments are (`__bpf_usdt_specs`), and gives the
   row's number as the attachment's cookie or, on kernels without cookies, under the place's address (`__bpf_usdt_ip_to_spec_id`).
   Names and layouts are those that libbpf fills too, so that an object works with either loader. */
#pragma once

#include <linux/errno.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#ifndef BPF_USDT_MAX_SPEC_CNT
#define BPF_USDT_MAX_SPEC_CNT 256
#endif
#ifndef BPF_USDT_MAX_IP_CNT
#define BPF_USDT_MAX_IP_CNT (4 * BPF_USDT_MAX_SPEC_CNT)
#endif
#define BPF_USDT_MAX_ARG_CNT 12

/* Where an argument is: a number, a register, memory that a register points to, or memory at register + scaled register. */
enum __bpf_usdt_arg_type { BPF_USDT_ARG_CONST, BPF_USDT_ARG_REG, BPF_USDT_ARG_REG_DEREF, BPF_USDT_ARG_SIB };

struct __bpf_usdt_arg_spec {
    __u64 val_off;                         /* the number, or what is added to the address */
    enum __bpf_usdt_arg_type arg_type : 8;
    __u16 idx_reg_off : 12;                /* the scaled register in struct pt_regs */
    __u16 scale_bitshift : 4;
    __u8 __reserved : 8;
    short reg_off;                         /* the register in struct pt_regs */
    bool arg_signed;
    char arg_bitshift;                     /* 64 less the argument's width in bits */
};

struct __bpf_usdt_spec {
    struct __bpf_usdt_arg_spec args[BPF_USDT_MAX_ARG_CNT];
    __u64 usdt_cookie;
    short arg_cnt;
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, BPF_USDT_MAX_SPEC_CNT);
    __type(key, int);
    __type(value, struct __bpf_usdt_spec);
} __bpf_usdt_specs SEC(".maps") __weak;

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, BPF_USDT_MAX_IP_CNT);
    __type(key, long);
    __type(value, __u32);
} __bpf_usdt_ip_to_spec_id SEC(".maps") __weak;

extern const _Bool LINUX_HAS_BPF_COOKIE __kconfig;

static __always_inline struct __bpf_usdt_spec *___bpf_usdt_row(struct pt_regs *ctx)
{
    int row;

    if (LINUX_HAS_BPF_COOKIE) {
        row = bpf_get_attach_cookie(ctx);
    } else {
        long place = PT_REGS_IP(ctx);
        int *found = bpf_map_lookup_elem(&__bpf_usdt_ip_to_spec_id, &place);

        if (!found)
            return NULL;
        row = *found;
    }
    return row < 0 ? NULL : bpf_map_lookup_elem(&__bpf_usdt_specs, &row);
}

static __always_inline int ___bpf_usdt_register(struct pt_regs *ctx, int offset, unsigned long *out)
{
    return bpf_probe_read_kernel(out, sizeof(*out), (void *)ctx + offset);
}

/* How many arguments the probe has, or -ESRCH if nobody wrote it down. */
__weak __hidden int bpf_usdt_arg_cnt(struct pt_regs *ctx)
{
    struct __bpf_usdt_spec *spec = ___bpf_usdt_row(ctx);

    return spec ? spec->arg_cnt : -ESRCH;
}

/* Argument number `arg_num`, counted from 0. Returns 0, or an error and 0 in `*res`. */
__weak __hidden int bpf_usdt_arg(struct pt_regs *ctx, __u64 arg_num, long *res)
{
    struct __bpf_usdt_spec *spec = ___bpf_usdt_row(ctx);
    struct __bpf_usdt_arg_spec *arg;
    unsigned long value = 0, scaled = 0;
    int error = 0;

    *res = 0;
    if (!spec)
        return -ESRCH;
    if (arg_num >= BPF_USDT_MAX_ARG_CNT)
        return -ENOENT;
    barrier_var(arg_num);
    if (arg_num >= spec->arg_cnt)
        return -ENOENT;
    arg = &spec->args[arg_num];
    switch (arg->arg_type) {
    case BPF_USDT_ARG_CONST:
        value = arg->val_off;
        break;
    case BPF_USDT_ARG_REG:
        error = ___bpf_usdt_register(ctx, arg->reg_off, &value);
        break;
    case BPF_USDT_ARG_SIB:
        error = ___bpf_usdt_register(ctx, arg->idx_reg_off, &scaled);
        if (error)
            return error;
        scaled <<= arg->scale_bitshift;
        /* fall through */
    case BPF_USDT_ARG_REG_DEREF:
        error = ___bpf_usdt_register(ctx, arg->reg_off, &value);
        if (error)
            return error;
        error = bpf_probe_read_user(&value, sizeof(value), (void *)value + scaled + arg->val_off);
        break;
    default:
        return -EINVAL;
    }
    if (error)
        return error;
    value <<= arg->arg_bitshift;
    *res = arg->arg_signed ? (long)value >> arg->arg_bitshift : value >> arg->arg_bitshift;
    return 0;
}

/* The number that whoever attached the program gave with it. */
__weak __hidden long bpf_usdt_cookie(struct pt_regs *ctx)
{
    struct __bpf_usdt_spec *spec = ___bpf_usdt_row(ctx);

    return spec ? spec->usdt_cookie : 0;
}

/* The size of argument number `arg_num` in bytes, or an error. */
static __always_inline int bpf_usdt_arg_size(struct pt_regs *ctx, __u64 arg_num)
{
    struct __bpf_usdt_spec *spec = ___bpf_usdt_row(ctx);

    if (!spec)
        return -ESRCH;
    if (arg_num >= BPF_USDT_MAX_ARG_CNT)
        return -ENOENT;
    barrier_var(arg_num);
    if (arg_num >= spec->arg_cnt)
        return -ENOENT;
    return (unsigned int)(64 - spec->args[arg_num].arg_bitshift) / 8;
}

/* BPF_USDT(name, args...): a program whose parameters are the probe's arguments. */
#define ___bpf_usdt_value(n) ({ long ___value; bpf_usdt_arg(ctx, n, &___value); (void *)___value; })
#define ___bpf_usdt_args0() ctx
#define ___bpf_usdt_args1(x) ___bpf_usdt_args0(), ___bpf_usdt_value(0)
#define ___bpf_usdt_args2(x, args...) ___bpf_usdt_args1(args), ___bpf_usdt_value(1)
#define ___bpf_usdt_args3(x, args...) ___bpf_usdt_args2(args), ___bpf_usdt_value(2)
#define ___bpf_usdt_args4(x, args...) ___bpf_usdt_args3(args), ___bpf_usdt_value(3)
#define ___bpf_usdt_args5(x, args...) ___bpf_usdt_args4(args), ___bpf_usdt_value(4)
#define ___bpf_usdt_args6(x, args...) ___bpf_usdt_args5(args), ___bpf_usdt_value(5)
#define ___bpf_usdt_args7(x, args...) ___bpf_usdt_args6(args), ___bpf_usdt_value(6)
#define ___bpf_usdt_args8(x, args...) ___bpf_usdt_args7(args), ___bpf_usdt_value(7)
#define ___bpf_usdt_args9(x, args...) ___bpf_usdt_args8(args), ___bpf_usdt_value(8)
#define ___bpf_usdt_args10(x, args...) ___bpf_usdt_args9(args), ___bpf_usdt_value(9)
#define ___bpf_usdt_args11(x, args...) ___bpf_usdt_args10(args), ___bpf_usdt_value(10)
#define ___bpf_usdt_args12(x, args...) ___bpf_usdt_args11(args), ___bpf_usdt_value(11)
#define ___bpf_usdt_args(args...) ___bpf_apply(___bpf_usdt_args, ___bpf_narg(args))(args)
#define BPF_USDT(name, args...) ___bpf_kprobe_like(name, ___bpf_usdt_args, ##args)
