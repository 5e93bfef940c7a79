/* The thirteen programs: one text, for eBPF and for this machine's own processor. Each takes a packet of SIZE bytes. */
#include "programs.h"

enum { SIZE = 1040 };
#define BYTES \
    u8 *at = DATA, *end = END; \
    if (at + SIZE > end) \
        return 0

/* Is the packet's first word a prime? Trial division by all odd numbers below 500, whatever it is. */
PROGRAM(prime)
{
    BYTES;
    u64 n = *(u32 *)at, divisors = 0;
    for (u64 i = 3; i < 500; i += 2)
        divisors += n % i == 0;
    return divisors;
}

/* The sum of the logarithms of 64 words. */
PROGRAM(log2)
{
    BYTES;
    u32 sum = 0;
    for (int i = 0; i < 64; i++) {
        u32 v = ((u32 *)at)[i], r, shift;
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
        sum += r | v >> 1;
    }
    return sum;
}

/* 256 bytes copied, one after the other. */
PROGRAM(memcpy)
{
    BYTES;
    for (int i = 0; i < 256; i++)
        at[512 + i] = at[i];
    return at[767];
}

/* Two strings of 127 characters compared. */
PROGRAM(strcmp)
{
    BYTES;
    for (int i = 0; i < 128; i++) {
        u8 a = at[256 + i], b = at[384 + i];
        if (a != b)
            return a < b ? 1 : 2;
        if (!a)
            return 0;
    }
    return 3;
}

/* The 200th number of Fibonacci, modulo 2^64. */
PROGRAM(fib)
{
    BYTES;
    u32 n = at[1032];
    u64 a = at[1033], b = 1;
    for (u32 i = 0; i < n; i++) {
        u64 c = a + b;
        a = b;
        b = c;
    }
    return a;
}

/* The Internet's checksum over a kilobyte. */
PROGRAM(csum)
{
    BYTES;
    u32 sum = 0;
    for (int i = 0; i < 512; i++)
        sum += ((u16 *)at)[i];
    sum = (sum & 0xFFFF) + (sum >> 16);
    sum = (sum & 0xFFFF) + (sum >> 16);
    return (u16)~sum;
}

/* FNV-1a over 256 bytes. */
PROGRAM(fnv)
{
    BYTES;
    u64 hash = 0xCBF29CE484222325ull;
    for (int i = 0; i < 256; i++)
        hash = (hash ^ at[i]) * 0x100000001B3ull;
    return hash;
}

/* A small machine that carries out 256 steps of what the packet says. */
PROGRAM(vm)
{
    BYTES;
    u64 a = 1, b = 2;
    for (int i = 0; i < 256; i++) {
        switch (at[i] & 15) {
        case 0: a += b; break;
        case 1: b += a; break;
        case 2: a ^= b; break;
        case 3: b ^= a << 3; break;
        case 4: a -= 7; break;
        case 5: b *= 3; break;
        case 6: a = a >> 1 | 1; break;
        case 7: b = ~b; break;
        case 8: a &= 0xFFFFFFFF; break;
        case 9: b |= 5; break;
        case 10: a <<= 2; break;
        case 11: b -= a; break;
        case 12: a += 0x1234; break;
        case 13: b = a + b * 5; break;
        case 14: a ^= 0x5555; break;
        default: b >>= 3; break;
        }
    }
    return a ^ b;
}

static __attribute__((noinline)) u64 step(u64 a, u64 b)
{
    return (a ^ b) * 31 + (a >> 7);
}

/* 64 calls of a function. */
PROGRAM(call)
{
    BYTES;
    u64 a = at[0];
    for (int i = 0; i < 64; i++)
        a = step(a, at[i]);
    return a;
}

/* What kind of packet is it? Ethernet, IPv4, TCP: the port that it is for. */
static inline int port_of(u8 *at, u8 *end)
{
    if (at + 54 > end || *(u16 *)(at + 12) != 0x0008)
        return -1;
    u32 length = (at[14] & 15) * 4;
    if (length < 20 || at[23] != 6)
        return -2;
    u8 *tcp = at + 14 + length;
    if (tcp + 20 > end)
        return -3;
    return tcp[2] << 8 | tcp[3];
}

PROGRAM(parse)
{
    u8 *at = DATA, *end = END;
    int port = port_of(at, end);
    return port == 80 ? 2 : port < 0 ? 1 : 3;
}

#ifndef BARE

/* Count in an array. */
PROGRAM(array)
{
    u8 *at = DATA, *end = END;
    if (at + 34 > end)
        return 0;
    u32 key = at[23];
    u64 *count = in_array(&key);
    if (!count)
        return 0;
    *count += 1;
    return 1;
}

/* Count in a hash. */
PROGRAM(hash)
{
    u8 *at = DATA, *end = END;
    if (at + 34 > end)
        return 0;
    u32 key = *(u32 *)(at + 26);
    u64 *count = in_hash(&key);
    if (!count)
        return 0;
    *count += 1;
    return 1;
}

/* Both: parse, and count in an array. */
PROGRAM(count)
{
    u8 *at = DATA, *end = END;
    int port = port_of(at, end);
    if (port < 0)
        return 1;
    u32 key = port & 255;
    u64 *count = in_array(&key);
    if (count)
        *count += 1;
    return 2;
}

/* -- operations of maps, TIMES of each in one run */

enum { TIMES = 64 };

PROGRAM(array_lookup)
{
    BYTES;
    u64 sum = 0;
    for (int i = 0; i < TIMES; i++) {
        u32 key = at[i];
        u64 *value = in_array(&key);
        if (value)
            sum += *value;
    }
    return sum & 1;
}

PROGRAM(hash_lookup)
{
    BYTES;
    u64 sum = 0;
    for (int i = 0; i < TIMES; i++) {
        u32 key = ((u32 *)at)[i] & 4095;
        u64 *value = in_hash(&key);
        if (value)
            sum += *value;
    }
    return sum & 1;
}

PROGRAM(hash_update)
{
    BYTES;
    u64 sum = 0;
    for (int i = 0; i < TIMES; i++) {
        u32 key = ((u32 *)at)[i] & 4095;
        sum += put_hash(&key, &sum);
    }
    return sum & 1;
}

PROGRAM(ring_record)
{
    u64 sent = 0;
    for (int i = 0; i < TIMES; i++) {
        u64 *record = ring_reserve(64);
        if (record) {
            record[0] = i;
            ring_submit(record);
            sent++;
        }
    }
    return sent;
}

#endif

LICENSE
