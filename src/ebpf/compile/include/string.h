/* Copying and comparing memory: the compiler's own, because eBPF programs have no C library. Written for the ebpf package. */
#pragma once
#include <stddef.h>

#define memcpy __builtin_memcpy
#define memmove __builtin_memmove
#define memset __builtin_memset
#define memcmp __builtin_memcmp
