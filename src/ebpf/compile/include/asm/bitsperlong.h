/* A long of BPF has 64 bits, which the machine's own header cannot know. Written for the ebpf package. */
#ifndef __BITS_PER_LONG
#define __BITS_PER_LONG 64
#endif
#include <asm-generic/bitsperlong.h>
