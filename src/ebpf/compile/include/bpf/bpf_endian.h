/* Byte order of the network and of the host, at compile time where the value is constant. */
#pragma once

#define ___bpf_swab16(x) ((__u16)((((__u16)(x) & 0x00ffU) << 8) | (((__u16)(x) & 0xff00U) >> 8)))
#define ___bpf_swab32(x)                                                                           \
    ((__u32)((((__u32)(x) & 0x000000ffU) << 24) | (((__u32)(x) & 0x0000ff00U) << 8) |              \
             (((__u32)(x) & 0x00ff0000U) >> 8) | (((__u32)(x) & 0xff000000U) >> 24)))
#define ___bpf_swab64(x)                                                                           \
    ((__u64)(((__u64)___bpf_swab32((__u32)(x)) << 32) | ___bpf_swab32((__u32)((__u64)(x) >> 32))))

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define __bpf_ntohs(x) __builtin_bswap16(x)
#define __bpf_htons(x) __builtin_bswap16(x)
#define __bpf_constant_ntohs(x) ___bpf_swab16(x)
#define __bpf_constant_htons(x) ___bpf_swab16(x)
#define __bpf_ntohl(x) __builtin_bswap32(x)
#define __bpf_htonl(x) __builtin_bswap32(x)
#define __bpf_constant_ntohl(x) ___bpf_swab32(x)
#define __bpf_constant_htonl(x) ___bpf_swab32(x)
#define __bpf_be64_to_cpu(x) __builtin_bswap64(x)
#define __bpf_cpu_to_be64(x) __builtin_bswap64(x)
#define __bpf_constant_be64_to_cpu(x) ___bpf_swab64(x)
#define __bpf_constant_cpu_to_be64(x) ___bpf_swab64(x)
#else
#define __bpf_ntohs(x) (x)
#define __bpf_htons(x) (x)
#define __bpf_constant_ntohs(x) (x)
#define __bpf_constant_htons(x) (x)
#define __bpf_ntohl(x) (x)
#define __bpf_htonl(x) (x)
#define __bpf_constant_ntohl(x) (x)
#define __bpf_constant_htonl(x) (x)
#define __bpf_be64_to_cpu(x) (x)
#define __bpf_cpu_to_be64(x) (x)
#define __bpf_constant_be64_to_cpu(x) (x)
#define __bpf_constant_cpu_to_be64(x) (x)
#endif

#define ___bpf_by_const(x, name) (__builtin_constant_p(x) ? __bpf_constant_##name(x) : __bpf_##name(x))
#define bpf_htons(x) ___bpf_by_const(x, htons)
#define bpf_ntohs(x) ___bpf_by_const(x, ntohs)
#define bpf_htonl(x) ___bpf_by_const(x, htonl)
#define bpf_ntohl(x) ___bpf_by_const(x, ntohl)
#define bpf_cpu_to_be64(x) ___bpf_by_const(x, cpu_to_be64)
#define bpf_be64_to_cpu(x) ___bpf_by_const(x, be64_to_cpu)
