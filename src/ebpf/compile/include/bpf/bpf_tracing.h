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
#define bpf_target_defined

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
/* A seventh argument is on the stack: to ask for it is an error of the compiler's that says so. */
#define __PT_PARM7_REG __unsupported__
#define __PT_PARM8_REG __unsupported__
#else
#define __PT_PARM1_REG regs[0]
#define __PT_PARM2_REG regs[1]
#define __PT_PARM3_REG regs[2]
#define __PT_PARM4_REG regs[3]
#define __PT_PARM5_REG regs[4]
#define __PT_PARM6_REG regs[5]
#define __PT_PARM7_REG regs[6]
#define __PT_PARM8_REG regs[7]
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
#define PT_REGS_PARM7(x) (__PT_REGS_CAST(x)->__PT_PARM7_REG)
#define PT_REGS_PARM8(x) (__PT_REGS_CAST(x)->__PT_PARM8_REG)
#define PT_REGS_RET(x) (__PT_REGS_CAST(x)->__PT_RET_REG)
#define PT_REGS_FP(x) (__PT_REGS_CAST(x)->__PT_FP_REG)
#define PT_REGS_RC(x) (__PT_REGS_CAST(x)->__PT_RC_REG)
#define PT_REGS_SP(x) (__PT_REGS_CAST(x)->__PT_SP_REG)
#define PT_REGS_IP(x) (__PT_REGS_CAST(x)->__PT_IP_REG)

/* Relocated where the struct says so itself, as vmlinux.h's do: linux/ptrace.h has other names than the kernel's BTF. */
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
#define PT_REGS_PARM7_CORE(x) ___bpf_read_reg(x, __PT_PARM7_REG)
#define PT_REGS_PARM8_CORE(x) ___bpf_read_reg(x, __PT_PARM8_REG)
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
#define PT_REGS_PARM7_SYSCALL(x) (__PT_REGS_CAST(x)->__unsupported__)
#define PT_REGS_PARM1_CORE_SYSCALL(x) PT_REGS_PARM1_CORE(x)
#define PT_REGS_PARM2_CORE_SYSCALL(x) PT_REGS_PARM2_CORE(x)
#define PT_REGS_PARM3_CORE_SYSCALL(x) PT_REGS_PARM3_CORE(x)
#define PT_REGS_PARM4_CORE_SYSCALL(x) ___bpf_read_reg(x, __PT_PARM4_SYSCALL_REG)
#define PT_REGS_PARM5_CORE_SYSCALL(x) PT_REGS_PARM5_CORE(x)
#define PT_REGS_PARM6_CORE_SYSCALL(x) PT_REGS_PARM6_CORE(x)
#define PT_REGS_PARM7_CORE_SYSCALL(x) ___bpf_read_reg(x, __unsupported__)

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

/* BPF_PROG2(name, type, arg, type, arg, ...): as BPF_PROG, but an argument may be a struct of up to two words. A struct whose
   members each fill whole words is laid out as the context is; only whole words of the context may be read. */
#define ___bpf_pair_nth(_, _1, _2, _3, _4, _5, _6, _7, _8, _9, _a, _b, _c, _d, _e, _f, _g, _h, _i, _j, _k, _l, _m, _n, _o, N, ...) N
#define ___bpf_npairs(...)                                                                         \
    ___bpf_pair_nth(_, ##__VA_ARGS__, 12, 12, 11, 11, 10, 10, 9, 9, 8, 8, 7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0)
#define ___bpf_pair_member0()
#define ___bpf_pair_member1(t, x) union { t x; unsigned long long ___words_##x[(sizeof(t) + 7) / 8]; }; ___bpf_pair_member0()
#define ___bpf_pair_member2(t, x, args...) union { t x; unsigned long long ___words_##x[(sizeof(t) + 7) / 8]; }; ___bpf_pair_member1(args)
#define ___bpf_pair_member3(t, x, args...) union { t x; unsigned long long ___words_##x[(sizeof(t) + 7) / 8]; }; ___bpf_pair_member2(args)
#define ___bpf_pair_member4(t, x, args...) union { t x; unsigned long long ___words_##x[(sizeof(t) + 7) / 8]; }; ___bpf_pair_member3(args)
#define ___bpf_pair_member5(t, x, args...) union { t x; unsigned long long ___words_##x[(sizeof(t) + 7) / 8]; }; ___bpf_pair_member4(args)
#define ___bpf_pair_member6(t, x, args...) union { t x; unsigned long long ___words_##x[(sizeof(t) + 7) / 8]; }; ___bpf_pair_member5(args)
#define ___bpf_pair_member7(t, x, args...) union { t x; unsigned long long ___words_##x[(sizeof(t) + 7) / 8]; }; ___bpf_pair_member6(args)
#define ___bpf_pair_member8(t, x, args...) union { t x; unsigned long long ___words_##x[(sizeof(t) + 7) / 8]; }; ___bpf_pair_member7(args)
#define ___bpf_pair_member9(t, x, args...) union { t x; unsigned long long ___words_##x[(sizeof(t) + 7) / 8]; }; ___bpf_pair_member8(args)
#define ___bpf_pair_member10(t, x, args...) union { t x; unsigned long long ___words_##x[(sizeof(t) + 7) / 8]; }; ___bpf_pair_member9(args)
#define ___bpf_pair_member11(t, x, args...) union { t x; unsigned long long ___words_##x[(sizeof(t) + 7) / 8]; }; ___bpf_pair_member10(args)
#define ___bpf_pair_member12(t, x, args...) union { t x; unsigned long long ___words_##x[(sizeof(t) + 7) / 8]; }; ___bpf_pair_member11(args)
#define ___bpf_pair_member(args...) ___bpf_apply(___bpf_pair_member, ___bpf_npairs(args))(args)
#define ___bpf_pair_decl0()
#define ___bpf_pair_decl1(t, x) , t x ___bpf_pair_decl0()
#define ___bpf_pair_decl2(t, x, args...) , t x ___bpf_pair_decl1(args)
#define ___bpf_pair_decl3(t, x, args...) , t x ___bpf_pair_decl2(args)
#define ___bpf_pair_decl4(t, x, args...) , t x ___bpf_pair_decl3(args)
#define ___bpf_pair_decl5(t, x, args...) , t x ___bpf_pair_decl4(args)
#define ___bpf_pair_decl6(t, x, args...) , t x ___bpf_pair_decl5(args)
#define ___bpf_pair_decl7(t, x, args...) , t x ___bpf_pair_decl6(args)
#define ___bpf_pair_decl8(t, x, args...) , t x ___bpf_pair_decl7(args)
#define ___bpf_pair_decl9(t, x, args...) , t x ___bpf_pair_decl8(args)
#define ___bpf_pair_decl10(t, x, args...) , t x ___bpf_pair_decl9(args)
#define ___bpf_pair_decl11(t, x, args...) , t x ___bpf_pair_decl10(args)
#define ___bpf_pair_decl12(t, x, args...) , t x ___bpf_pair_decl11(args)
#define ___bpf_pair_decl(args...) ___bpf_apply(___bpf_pair_decl, ___bpf_npairs(args))(args)
#define ___bpf_pair_pass0()
#define ___bpf_pair_pass1(t, x) , ___all.each.x ___bpf_pair_pass0()
#define ___bpf_pair_pass2(t, x, args...) , ___all.each.x ___bpf_pair_pass1(args)
#define ___bpf_pair_pass3(t, x, args...) , ___all.each.x ___bpf_pair_pass2(args)
#define ___bpf_pair_pass4(t, x, args...) , ___all.each.x ___bpf_pair_pass3(args)
#define ___bpf_pair_pass5(t, x, args...) , ___all.each.x ___bpf_pair_pass4(args)
#define ___bpf_pair_pass6(t, x, args...) , ___all.each.x ___bpf_pair_pass5(args)
#define ___bpf_pair_pass7(t, x, args...) , ___all.each.x ___bpf_pair_pass6(args)
#define ___bpf_pair_pass8(t, x, args...) , ___all.each.x ___bpf_pair_pass7(args)
#define ___bpf_pair_pass9(t, x, args...) , ___all.each.x ___bpf_pair_pass8(args)
#define ___bpf_pair_pass10(t, x, args...) , ___all.each.x ___bpf_pair_pass9(args)
#define ___bpf_pair_pass11(t, x, args...) , ___all.each.x ___bpf_pair_pass10(args)
#define ___bpf_pair_pass12(t, x, args...) , ___all.each.x ___bpf_pair_pass11(args)
#define ___bpf_pair_pass(args...) ___bpf_apply(___bpf_pair_pass, ___bpf_npairs(args))(args)
#define BPF_PROG2(name, args...)                                                                   \
    name(unsigned long long *ctx);                                                                 \
    struct ____args_of_##name { ___bpf_pair_member(args) };                                        \
    static __always_inline typeof(name(0)) ____##name(unsigned long long *ctx ___bpf_pair_decl(args)); \
    typeof(name(0)) name(unsigned long long *ctx)                                                  \
    {                                                                                              \
        union { struct ____args_of_##name each; unsigned long long words[24]; } ___all;            \
        _Pragma("unroll") for (unsigned int ___i = 0; ___i < sizeof(___all.each) / 8; ___i++)               \
            ___all.words[___i] = ctx[___i];                                                            \
        return ____##name(ctx ___bpf_pair_pass(args));                                             \
    }                                                                                              \
    static __always_inline typeof(name(0)) ____##name(unsigned long long *ctx ___bpf_pair_decl(args))

struct pt_regs;

/* BPF_KPROBE(name, args...): the arguments of a traced function out of its registers. */
#define ___bpf_kprobe_args0() ctx
#define ___bpf_kprobe_args1(x) ___bpf_kprobe_args0(), (void *)PT_REGS_PARM1(ctx)
#define ___bpf_kprobe_args2(x, args...) ___bpf_kprobe_args1(args), (void *)PT_REGS_PARM2(ctx)
#define ___bpf_kprobe_args3(x, args...) ___bpf_kprobe_args2(args), (void *)PT_REGS_PARM3(ctx)
#define ___bpf_kprobe_args4(x, args...) ___bpf_kprobe_args3(args), (void *)PT_REGS_PARM4(ctx)
#define ___bpf_kprobe_args5(x, args...) ___bpf_kprobe_args4(args), (void *)PT_REGS_PARM5(ctx)
#define ___bpf_kprobe_args6(x, args...) ___bpf_kprobe_args5(args), (void *)PT_REGS_PARM6(ctx)
#define ___bpf_kprobe_args7(x, args...) ___bpf_kprobe_args6(args), (void *)PT_REGS_PARM7(ctx)
#define ___bpf_kprobe_args8(x, args...) ___bpf_kprobe_args7(args), (void *)PT_REGS_PARM8(ctx)
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

/* BPF_KSYSCALL(name, args...): the arguments of a system call. Kernels give them in the caller's registers, to which the function
   has a pointer (then they are read), or as the function's own arguments: which, is found out when the program is loaded. */
#define ___bpf_wrapped_args0() ctx
#define ___bpf_wrapped_args1(x) ___bpf_wrapped_args0(), (void *)PT_REGS_PARM1_CORE_SYSCALL(regs)
#define ___bpf_wrapped_args2(x, args...) ___bpf_wrapped_args1(args), (void *)PT_REGS_PARM2_CORE_SYSCALL(regs)
#define ___bpf_wrapped_args3(x, args...) ___bpf_wrapped_args2(args), (void *)PT_REGS_PARM3_CORE_SYSCALL(regs)
#define ___bpf_wrapped_args4(x, args...) ___bpf_wrapped_args3(args), (void *)PT_REGS_PARM4_CORE_SYSCALL(regs)
#define ___bpf_wrapped_args5(x, args...) ___bpf_wrapped_args4(args), (void *)PT_REGS_PARM5_CORE_SYSCALL(regs)
#define ___bpf_wrapped_args6(x, args...) ___bpf_wrapped_args5(args), (void *)PT_REGS_PARM6_CORE_SYSCALL(regs)
#define ___bpf_wrapped_args7(x, args...) ___bpf_wrapped_args6(args), (void *)PT_REGS_PARM7_CORE_SYSCALL(regs)
#define ___bpf_wrapped_args(args...) ___bpf_apply(___bpf_wrapped_args, ___bpf_narg(args))(args)
#define ___bpf_syscall_args0() ctx
#define ___bpf_syscall_args1(x) ___bpf_syscall_args0(), (void *)PT_REGS_PARM1_SYSCALL(regs)
#define ___bpf_syscall_args2(x, args...) ___bpf_syscall_args1(args), (void *)PT_REGS_PARM2_SYSCALL(regs)
#define ___bpf_syscall_args3(x, args...) ___bpf_syscall_args2(args), (void *)PT_REGS_PARM3_SYSCALL(regs)
#define ___bpf_syscall_args4(x, args...) ___bpf_syscall_args3(args), (void *)PT_REGS_PARM4_SYSCALL(regs)
#define ___bpf_syscall_args5(x, args...) ___bpf_syscall_args4(args), (void *)PT_REGS_PARM5_SYSCALL(regs)
#define ___bpf_syscall_args6(x, args...) ___bpf_syscall_args5(args), (void *)PT_REGS_PARM6_SYSCALL(regs)
#define ___bpf_syscall_args7(x, args...) ___bpf_syscall_args6(args), (void *)PT_REGS_PARM7_SYSCALL(regs)
#define ___bpf_syscall_args(args...) ___bpf_apply(___bpf_syscall_args, ___bpf_narg(args))(args)

#define BPF_KSYSCALL(name, args...)                                                                \
    name(struct pt_regs *ctx);                                                                     \
    extern _Bool LINUX_HAS_SYSCALL_WRAPPER __kconfig;                                              \
    static __always_inline typeof(name(0)) ____##name(struct pt_regs *ctx, ##args);                \
    typeof(name(0)) name(struct pt_regs *ctx)                                                      \
    {                                                                                              \
        struct pt_regs *regs = LINUX_HAS_SYSCALL_WRAPPER ? PT_REGS_SYSCALL_REGS(ctx) : ctx;        \
        (void)regs;                                                                                \
        ___bpf_quiet_begin                                                                         \
        if (LINUX_HAS_SYSCALL_WRAPPER)                                                             \
            return ____##name(___bpf_wrapped_args(args));                                          \
        return ____##name(___bpf_syscall_args(args));                                              \
        ___bpf_quiet_end                                                                           \
    }                                                                                              \
    static __always_inline typeof(name(0)) ____##name(struct pt_regs *ctx, ##args)
#define BPF_KPROBE_SYSCALL BPF_KSYSCALL
