/* Registers and arguments of traced functions. Written for the ebpf package; x86-64 and arm64. */
#pragma once

#include "bpf_helpers.h"

#if defined(__TARGET_ARCH_x86) || (!defined(__TARGET_ARCH_arm64) && defined(__x86_64__))
#define bpf_target_x86
#elif defined(__TARGET_ARCH_arm64) || defined(__aarch64__)
#define bpf_target_arm64
#else
/* -D__TARGET_ARCH_... was not given: the host of `ebpf cc` decides, which says so with -D. */
#define bpf_target_x86
#endif

#ifdef bpf_target_x86
#if defined(__KERNEL__) || defined(__VMLINUX_H__)
#define __PT_PARM1_REG di
#define __PT_PARM2_REG si
#define __PT_PARM3_REG dx
#define __PT_PARM4_REG cx
#define __PT_PARM5_REG r8
#define __PT_PARM6_REG r9
#define __PT_PARM4_SYSCALL_REG r10
#define __PT_RET_REG sp
#define __PT_FP_REG bp
#define __PT_RC_REG ax
#define __PT_SP_REG sp
#define __PT_IP_REG ip
#else
#define __PT_PARM1_REG rdi
#define __PT_PARM2_REG rsi
#define __PT_PARM3_REG rdx
#define __PT_PARM4_REG rcx
#define __PT_PARM5_REG r8
#define __PT_PARM6_REG r9
#define __PT_PARM4_SYSCALL_REG r10
#define __PT_RET_REG rsp
#define __PT_FP_REG rbp
#define __PT_RC_REG rax
#define __PT_SP_REG rsp
#define __PT_IP_REG rip
#endif
#define __PT_REGS_CAST(x) (x)
#else
#define __PT_PARM1_REG regs[0]
#define __PT_PARM2_REG regs[1]
#define __PT_PARM3_REG regs[2]
#define __PT_PARM4_REG regs[3]
#define __PT_PARM5_REG regs[4]
#define __PT_PARM6_REG regs[5]
#define __PT_PARM4_SYSCALL_REG regs[3]
#define __PT_RET_REG regs[30]
#define __PT_FP_REG regs[29]
#define __PT_RC_REG regs[0]
#define __PT_SP_REG sp
#define __PT_IP_REG pc
#define __PT_REGS_CAST(x) ((const struct user_pt_regs *)(x))
#endif

#define PT_REGS_PARM1(x) (__PT_REGS_CAST(x)->__PT_PARM1_REG)
#define PT_REGS_PARM2(x) (__PT_REGS_CAST(x)->__PT_PARM2_REG)
#define PT_REGS_PARM3(x) (__PT_REGS_CAST(x)->__PT_PARM3_REG)
#define PT_REGS_PARM4(x) (__PT_REGS_CAST(x)->__PT_PARM4_REG)
#define PT_REGS_PARM5(x) (__PT_REGS_CAST(x)->__PT_PARM5_REG)
#define PT_REGS_PARM6(x) (__PT_REGS_CAST(x)->__PT_PARM6_REG)
#define PT_REGS_RET(x) (__PT_REGS_CAST(x)->__PT_RET_REG)
#define PT_REGS_FP(x) (__PT_REGS_CAST(x)->__PT_FP_REG)
#define PT_REGS_RC(x) (__PT_REGS_CAST(x)->__PT_RC_REG)
#define PT_REGS_SP(x) (__PT_REGS_CAST(x)->__PT_SP_REG)
#define PT_REGS_IP(x) (__PT_REGS_CAST(x)->__PT_IP_REG)

#define ___bpf_read_reg(x, reg)                                                                    \
    ({                                                                                             \
        unsigned long ___value = 0;                                                                \
        bpf_probe_read_kernel(&___value, sizeof(___value), &__PT_REGS_CAST(x)->reg);               \
        ___value;                                                                                  \
    })
#define PT_REGS_PARM1_CORE(x) ___bpf_read_reg(x, __PT_PARM1_REG)
#define PT_REGS_PARM2_CORE(x) ___bpf_read_reg(x, __PT_PARM2_REG)
#define PT_REGS_PARM3_CORE(x) ___bpf_read_reg(x, __PT_PARM3_REG)
#define PT_REGS_PARM4_CORE(x) ___bpf_read_reg(x, __PT_PARM4_REG)
#define PT_REGS_PARM5_CORE(x) ___bpf_read_reg(x, __PT_PARM5_REG)
#define PT_REGS_PARM6_CORE(x) ___bpf_read_reg(x, __PT_PARM6_REG)
#define PT_REGS_RET_CORE(x) ___bpf_read_reg(x, __PT_RET_REG)
#define PT_REGS_FP_CORE(x) ___bpf_read_reg(x, __PT_FP_REG)
#define PT_REGS_RC_CORE(x) ___bpf_read_reg(x, __PT_RC_REG)
#define PT_REGS_SP_CORE(x) ___bpf_read_reg(x, __PT_SP_REG)
#define PT_REGS_IP_CORE(x) ___bpf_read_reg(x, __PT_IP_REG)

/* On these machines a system call's function gets one argument: a pointer to the registers of the caller. */
#define PT_REGS_SYSCALL_REGS(ctx) ((struct pt_regs *)PT_REGS_PARM1(ctx))
#define PT_REGS_PARM1_SYSCALL(x) PT_REGS_PARM1(x)
#define PT_REGS_PARM2_SYSCALL(x) PT_REGS_PARM2(x)
#define PT_REGS_PARM3_SYSCALL(x) PT_REGS_PARM3(x)
#define PT_REGS_PARM4_SYSCALL(x) (__PT_REGS_CAST(x)->__PT_PARM4_SYSCALL_REG)
#define PT_REGS_PARM5_SYSCALL(x) PT_REGS_PARM5(x)
#define PT_REGS_PARM6_SYSCALL(x) PT_REGS_PARM6(x)
#define PT_REGS_PARM1_CORE_SYSCALL(x) PT_REGS_PARM1_CORE(x)
#define PT_REGS_PARM2_CORE_SYSCALL(x) PT_REGS_PARM2_CORE(x)
#define PT_REGS_PARM3_CORE_SYSCALL(x) PT_REGS_PARM3_CORE(x)
#define PT_REGS_PARM4_CORE_SYSCALL(x) ___bpf_read_reg(x, __PT_PARM4_SYSCALL_REG)
#define PT_REGS_PARM5_CORE_SYSCALL(x) PT_REGS_PARM5_CORE(x)
#define PT_REGS_PARM6_CORE_SYSCALL(x) PT_REGS_PARM6_CORE(x)

#define BPF_KPROBE_READ_RET_IP(ip, ctx) ({ bpf_probe_read_kernel(&(ip), sizeof(ip), (void *)PT_REGS_RET(ctx)); })
#define BPF_KRETPROBE_READ_RET_IP(ip, ctx) ({ bpf_probe_read_kernel(&(ip), sizeof(ip), (void *)(PT_REGS_FP(ctx) + sizeof(ip))); })

#define ___bpf_apply(fn, n) ___bpf_concat(fn, n)

/* BPF_PROG(name, args...): the arguments of a raw tracepoint or BTF program out of an array of u64. */
#define ___bpf_ctx_cast0() ctx
#define ___bpf_ctx_cast1(x) ___bpf_ctx_cast0(), (void *)ctx[0]
#define ___bpf_ctx_cast2(x, args...) ___bpf_ctx_cast1(args), (void *)ctx[1]
#define ___bpf_ctx_cast3(x, args...) ___bpf_ctx_cast2(args), (void *)ctx[2]
#define ___bpf_ctx_cast4(x, args...) ___bpf_ctx_cast3(args), (void *)ctx[3]
#define ___bpf_ctx_cast5(x, args...) ___bpf_ctx_cast4(args), (void *)ctx[4]
#define ___bpf_ctx_cast6(x, args...) ___bpf_ctx_cast5(args), (void *)ctx[5]
#define ___bpf_ctx_cast7(x, args...) ___bpf_ctx_cast6(args), (void *)ctx[6]
#define ___bpf_ctx_cast8(x, args...) ___bpf_ctx_cast7(args), (void *)ctx[7]
#define ___bpf_ctx_cast9(x, args...) ___bpf_ctx_cast8(args), (void *)ctx[8]
#define ___bpf_ctx_cast10(x, args...) ___bpf_ctx_cast9(args), (void *)ctx[9]
#define ___bpf_ctx_cast11(x, args...) ___bpf_ctx_cast10(args), (void *)ctx[10]
#define ___bpf_ctx_cast12(x, args...) ___bpf_ctx_cast11(args), (void *)ctx[11]
#define ___bpf_ctx_cast(args...) ___bpf_apply(___bpf_ctx_cast, ___bpf_narg(args))(args)

#define ___bpf_quiet_begin                                                                         \
    _Pragma("GCC diagnostic push") _Pragma("GCC diagnostic ignored \"-Wint-conversion\"")
#define ___bpf_quiet_end _Pragma("GCC diagnostic pop")

#define BPF_PROG(name, args...)                                                                    \
    name(unsigned long long *ctx);                                                                 \
    static __always_inline typeof(name(0)) ____##name(unsigned long long *ctx, ##args);            \
    typeof(name(0)) name(unsigned long long *ctx)                                                  \
    {                                                                                              \
        ___bpf_quiet_begin return ____##name(___bpf_ctx_cast(args));                               \
        ___bpf_quiet_end                                                                           \
    }                                                                                              \
    static __always_inline typeof(name(0)) ____##name(unsigned long long *ctx, ##args)

struct pt_regs;

/* BPF_KPROBE(name, args...): the arguments of a traced function out of its registers. */
#define ___bpf_kprobe_args0() ctx
#define ___bpf_kprobe_args1(x) ___bpf_kprobe_args0(), (void *)PT_REGS_PARM1(ctx)
#define ___bpf_kprobe_args2(x, args...) ___bpf_kprobe_args1(args), (void *)PT_REGS_PARM2(ctx)
#define ___bpf_kprobe_args3(x, args...) ___bpf_kprobe_args2(args), (void *)PT_REGS_PARM3(ctx)
#define ___bpf_kprobe_args4(x, args...) ___bpf_kprobe_args3(args), (void *)PT_REGS_PARM4(ctx)
#define ___bpf_kprobe_args5(x, args...) ___bpf_kprobe_args4(args), (void *)PT_REGS_PARM5(ctx)
#define ___bpf_kprobe_args6(x, args...) ___bpf_kprobe_args5(args), (void *)PT_REGS_PARM6(ctx)
#define ___bpf_kprobe_args(args...) ___bpf_apply(___bpf_kprobe_args, ___bpf_narg(args))(args)

#define ___bpf_kprobe_like(name, spread, args...)                                                  \
    name(struct pt_regs *ctx);                                                                     \
    static __always_inline typeof(name(0)) ____##name(struct pt_regs *ctx, ##args);                \
    typeof(name(0)) name(struct pt_regs *ctx)                                                      \
    {                                                                                              \
        ___bpf_quiet_begin return ____##name(spread(args));                                        \
        ___bpf_quiet_end                                                                           \
    }                                                                                              \
    static __always_inline typeof(name(0)) ____##name(struct pt_regs *ctx, ##args)

#define BPF_KPROBE(name, args...) ___bpf_kprobe_like(name, ___bpf_kprobe_args, ##args)

#define ___bpf_kretprobe_args0() ctx
#define ___bpf_kretprobe_args1(x) ___bpf_kretprobe_args0(), (void *)PT_REGS_RC(ctx)
#define ___bpf_kretprobe_args(args...) ___bpf_apply(___bpf_kretprobe_args, ___bpf_narg(args))(args)
#define BPF_KRETPROBE(name, args...) ___bpf_kprobe_like(name, ___bpf_kretprobe_args, ##args)

#define BPF_UPROBE(name, args...) BPF_KPROBE(name, ##args)
#define BPF_URETPROBE(name, args...) BPF_KRETPROBE(name, ##args)

/* BPF_KSYSCALL(name, args...): the arguments of a system call, read from the caller's registers. */
#define ___bpf_syscall_args0() ctx
#define ___bpf_syscall_args1(x) ___bpf_syscall_args0(), (void *)PT_REGS_PARM1_CORE_SYSCALL(regs)
#define ___bpf_syscall_args2(x, args...) ___bpf_syscall_args1(args), (void *)PT_REGS_PARM2_CORE_SYSCALL(regs)
#define ___bpf_syscall_args3(x, args...) ___bpf_syscall_args2(args), (void *)PT_REGS_PARM3_CORE_SYSCALL(regs)
#define ___bpf_syscall_args4(x, args...) ___bpf_syscall_args3(args), (void *)PT_REGS_PARM4_CORE_SYSCALL(regs)
#define ___bpf_syscall_args5(x, args...) ___bpf_syscall_args4(args), (void *)PT_REGS_PARM5_CORE_SYSCALL(regs)
#define ___bpf_syscall_args6(x, args...) ___bpf_syscall_args5(args), (void *)PT_REGS_PARM6_CORE_SYSCALL(regs)
#define ___bpf_syscall_args(args...) ___bpf_apply(___bpf_syscall_args, ___bpf_narg(args))(args)

#define BPF_KSYSCALL(name, args...)                                                                \
    name(struct pt_regs *ctx);                                                                     \
    static __always_inline typeof(name(0)) ____##name(struct pt_regs *ctx, ##args);                \
    typeof(name(0)) name(struct pt_regs *ctx)                                                      \
    {                                                                                              \
        struct pt_regs *regs __attribute__((unused)) = PT_REGS_SYSCALL_REGS(ctx);                  \
        ___bpf_quiet_begin return ____##name(___bpf_syscall_args(args));                           \
        ___bpf_quiet_end                                                                           \
    }                                                                                              \
    static __always_inline typeof(name(0)) ____##name(struct pt_regs *ctx, ##args)
#define BPF_KPROBE_SYSCALL BPF_KSYSCALL
