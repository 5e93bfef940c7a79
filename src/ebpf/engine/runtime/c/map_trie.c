/* Tries of prefixes: the longest that a key begins with answers. Look-ups take no lock and walk again when a writer was there.
 *
 * A key is the prefix's length in bits and its bytes. Every change becomes visible by one store, so that a trie whose writer was
 * killed is whole; only the list of free nodes has to be made anew. */
#include "maps.h"

#include <errno.h>
#include <string.h>

enum { NODE_FREE = 0, NODE_BETWEEN = 1, NODE_REAL = 2, SPINS_FOR_WRITER = 10000, DEEPEST = 8 * 256 + 2 };

/* A node between two others only says where they part. Its value is behind the key's bytes, at a multiple of 8. */
struct node {
    u32 child[2]; /* number + 1; 0: none */
    u32 prefix, state;
    u8 data[];
};

struct trie {
    u32 root, spare;
};

static inline struct trie *trie_of(struct rt_map *map) { return map->meta; }
static inline struct node *node_at(struct rt_map *map, u32 number) { return (struct node *)(map->data + (u64)(number - 1) * map->elem_size); }
static inline u8 *node_value(struct rt_map *map, struct node *node) { return (u8 *)node + sizeof *node + round8(map->key_size - 4); }
static inline u32 longest(const struct rt_map *map) { return (map->key_size - 4) * 8; }
static inline u32 bit_at(const u8 *data, u32 at) { return data[at / 8] >> (7 - at % 8) & 1; }

static inline u32 length_of(const void *key)
{
    u32 length;
    memcpy(&length, key, 4);
    return length;
}

/* How many leading bits two prefixes share, at most `limit`. */
static u32 shared(const u8 *a, const u8 *b, u32 limit)
{
    u32 bits = 0;
    while (bits < limit) {
        u32 differ = (u32)(a[bits / 8] ^ b[bits / 8]);
        if (differ) {
            bits += (u32)__builtin_clz(differ) - 24;
            break;
        }
        bits += 8;
    }
    return bits < limit ? bits : limit;
}

static inline u32 least(u32 a, u32 b) { return a < b ? a : b; }

/* The node that answers for a key; bounded, because a reader may walk over nodes that are being used anew. */
static struct node *walk(struct rt_map *map, const u8 *data, u32 length)
{
    struct node *best = NULL;
    u32 at = __atomic_load_n(&trie_of(map)->root, __ATOMIC_ACQUIRE);
    for (u32 step = 0; at && step < DEEPEST; step++) {
        struct node *node = node_at(map, at);
        u32 prefix = least(__atomic_load_n(&node->prefix, __ATOMIC_RELAXED), longest(map));
        if (shared(node->data, data, least(prefix, length)) < prefix)
            break;
        if (__atomic_load_n(&node->state, __ATOMIC_RELAXED) == NODE_REAL)
            best = node;
        if (prefix == longest(map))
            break;
        at = __atomic_load_n(&node->child[bit_at(data, prefix)], __ATOMIC_ACQUIRE);
    }
    return best;
}

/* -- writers */

static void trie_mend(struct rt_map *map)
{
    /* First every node counts as free, then those that are reached do not. */
    u32 stack[DEEPEST + 1], depth = 0;
    for (u32 i = 1; i <= map->fresh; i++)
        node_at(map, i)->state |= 0x80;
    map->count = 0;
    if (trie_of(map)->root)
        stack[depth++] = trie_of(map)->root;
    while (depth) {
        struct node *node = node_at(map, stack[--depth]);
        node->state &= 0x7F;
        map->count += node->state == NODE_REAL;
        for (int side = 0; side < 2; side++)
            if (node->child[side])
                stack[depth++] = node->child[side];
    }
    map->free_head = 0;
    for (u32 i = map->fresh; i; i--) {
        struct node *node = node_at(map, i);
        if (!(node->state & 0x80))
            continue;
        node->state = NODE_FREE;
        node->child[0] = map->free_head;
        node->child[1] = 0;
        map->free_head = i;
    }
}

static void trie_begin(struct rt_map *map)
{
    if (rt_lock(&map->lock)) {
        if (!(map->seq & 1))
            __atomic_store_n(&map->seq, map->seq + 1, __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_RELEASE);
        trie_mend(map);
    } else {
        __atomic_store_n(&map->seq, map->seq + 1, __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_RELEASE);
    }
}

static void trie_end(struct rt_map *map)
{
    __atomic_store_n(&map->seq, map->seq + 1, __ATOMIC_RELEASE);
    rt_unlock(&map->lock);
}

static u32 node_new(struct rt_map *map)
{
    u32 number = map->free_head;
    if (number)
        map->free_head = node_at(map, number)->child[0];
    else if (map->fresh < map->capacity)
        number = ++map->fresh;
    return number;
}

static void node_free(struct rt_map *map, u32 number)
{
    struct node *node = node_at(map, number);
    node->state = NODE_FREE;
    node->child[0] = map->free_head;
    node->child[1] = 0;
    map->free_head = number;
}

/* The place that holds the node where a key's way ends: the node may match it, part from it, or be none. */
static u32 *place_of(struct rt_map *map, const u8 *data, u32 length, u32 *match)
{
    u32 *place = &trie_of(map)->root;
    *match = 0;
    while (*place) {
        struct node *node = node_at(map, *place);
        *match = shared(node->data, data, least(node->prefix, length));
        if (node->prefix != *match || node->prefix == length || node->prefix == longest(map))
            break;
        place = &node->child[bit_at(data, node->prefix)];
    }
    return place;
}

static s64 trie_put(struct rt_map *map, const void *key, const void *value, u64 flags, int per_cpu, u32 cpu)
{
    (void)per_cpu, (void)cpu;
    const u8 *data = (const u8 *)key + 4;
    u32 length = length_of(key), match;
    if (flags > PUT_EXIST || length > longest(map))
        return -EINVAL;
    s64 result = 0;
    trie_begin(map);
    u32 *place = place_of(map, data, length, &match), old = *place;
    struct node *there = old ? node_at(map, old) : NULL;
    int same = there && there->prefix == match && match == length, real = same && there->state == NODE_REAL;
    u32 fresh = 0, between = 0;
    if (real && flags == PUT_NOEXIST)
        result = -EEXIST;
    else if (!real && flags == PUT_EXIST)
        result = -ENOENT;
    else if (!real && map->count >= map->max_entries)
        result = -ENOSPC;
    else if (!(fresh = node_new(map)) || (there && !same && length != match && !(between = node_new(map))))
        result = -ENOMEM;
    if (result) {
        if (fresh)
            node_free(map, fresh);
        trie_end(map);
        return result;
    }
    struct node *made = node_at(map, fresh);
    made->child[0] = made->child[1] = 0;
    made->prefix = length;
    made->state = NODE_REAL;
    memcpy(made->data, data, map->key_size - 4);
    memcpy(node_value(map, made), value, map->value_size);
    map->count += !real;
    if (!there) {
        __atomic_store_n(place, fresh, __ATOMIC_RELEASE);
    } else if (same) {
        made->child[0] = there->child[0];
        made->child[1] = there->child[1];
        __atomic_store_n(place, fresh, __ATOMIC_RELEASE);
        node_free(map, old);
    } else if (length == match) {
        /* The new prefix is a beginning of the one that is there. */
        made->child[bit_at(there->data, length)] = old;
        __atomic_store_n(place, fresh, __ATOMIC_RELEASE);
    } else {
        struct node *fork = node_at(map, between);
        fork->prefix = match;
        fork->state = NODE_BETWEEN;
        memcpy(fork->data, there->data, map->key_size - 4);
        fork->child[bit_at(data, match)] = fresh;
        fork->child[!bit_at(data, match)] = old;
        __atomic_store_n(place, between, __ATOMIC_RELEASE);
    }
    trie_end(map);
    return 0;
}

static s64 trie_remove(struct rt_map *map, const void *key)
{
    const u8 *data = (const u8 *)key + 4;
    u32 length = length_of(key);
    if (length > longest(map))
        return -EINVAL;
    s64 result = -ENOENT;
    trie_begin(map);
    u32 *place = &trie_of(map)->root, *above = NULL;
    while (*place) {
        struct node *node = node_at(map, *place);
        u32 match = shared(node->data, data, least(node->prefix, length));
        if (node->prefix != match)
            break;
        if (node->prefix == length) {
            if (node->state != NODE_REAL)
                break;
            u32 number = *place;
            result = 0;
            map->count--;
            if (node->child[0] && node->child[1]) {
                __atomic_store_n(&node->state, NODE_BETWEEN, __ATOMIC_RELEASE);
                break;
            }
            u32 only = node->child[0] | node->child[1];
            if (!only && above && node_at(map, *above)->state == NODE_BETWEEN) {
                /* Where two parted there is one left: the node between goes too. */
                u32 between = *above;
                struct node *fork = node_at(map, between);
                __atomic_store_n(above, fork->child[fork->child[0] == number], __ATOMIC_RELEASE);
                node_free(map, between);
            } else {
                __atomic_store_n(place, only, __ATOMIC_RELEASE);
            }
            node_free(map, number);
            break;
        }
        if (node->prefix == longest(map))
            break;
        above = place;
        place = &node->child[bit_at(data, node->prefix)];
    }
    trie_end(map);
    return result;
}

/* -- readers */

/* Begin to read: the number that must still stand at the end. A writer that died half-way is cleaned up after by the next. */
static u32 read_begin(struct rt_map *map)
{
    for (u32 spins = 0;; spins++) {
        u32 seq = __atomic_load_n(&map->seq, __ATOMIC_ACQUIRE);
        if (!(seq & 1))
            return seq;
        if (spins > SPINS_FOR_WRITER) {
            trie_begin(map);
            trie_end(map);
            spins = 0;
        }
        rt_pause();
    }
}

static int read_again(struct rt_map *map, u32 seq)
{
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    return __atomic_load_n(&map->seq, __ATOMIC_RELAXED) != seq;
}

static void *trie_value(struct rt_map *map, const void *key, u32 cpu)
{
    (void)cpu;
    u32 length = length_of(key), seq;
    struct node *found;
    if (length > longest(map))
        return NULL;
    do {
        seq = read_begin(map);
        found = walk(map, (const u8 *)key + 4, length);
    } while (read_again(map, seq));
    return found ? node_value(map, found) : NULL;
}

static s64 trie_read(struct rt_map *map, const void *key, void *out, u64 size)
{
    u32 length = length_of(key), seq;
    struct node *found;
    if (length > longest(map))
        return -ENOENT;
    do {
        seq = read_begin(map);
        found = walk(map, (const u8 *)key + 4, length);
        if (found)
            memcpy(out, node_value(map, found), size);
    } while (read_again(map, seq));
    return found ? 0 : -ENOENT;
}

/* Children come before their parent, the 0 side first: so the more special prefixes come before the more general ones. */
static s64 trie_next(struct rt_map *map, const void *key, void *out)
{
    u32 stack[DEEPEST], depth = 0, at = 0;
    trie_begin(map);
    u32 length = key ? length_of(key) : 0;
    if (key && length <= longest(map)) {
        const u8 *data = (const u8 *)key + 4;
        for (at = trie_of(map)->root; at;) {
            struct node *node = node_at(map, at);
            stack[depth++] = at;
            if (shared(node->data, data, least(node->prefix, length)) != node->prefix || node->prefix == length)
                break;
            at = node->prefix == longest(map) ? 0 : node->child[bit_at(data, node->prefix)];
        }
        struct node *node = at ? node_at(map, at) : NULL;
        if (!node || node->prefix != length || shared(node->data, data, length) != length || node->state != NODE_REAL)
            at = 0;
    }
    u32 down = 0;
    if (!at) {
        depth = 0;
        down = trie_of(map)->root;
    } else {
        depth--;
    }
    s64 result = -ENOENT;
    for (;;) {
        if (down) {
            for (u32 n = down; n;) {
                struct node *node = node_at(map, n);
                stack[depth++] = n;
                n = node->child[0] ? node->child[0] : node->child[1];
            }
            at = stack[--depth];
            down = 0;
        } else if (depth) {
            struct node *parent = node_at(map, stack[depth - 1]);
            if (parent->child[0] == at && parent->child[1]) {
                down = parent->child[1];
                continue;
            }
            at = stack[--depth];
        } else {
            break;
        }
        struct node *node = node_at(map, at);
        if (node->state == NODE_REAL) {
            memcpy(out, &node->prefix, 4);
            memcpy((u8 *)out + 4, node->data, map->key_size - 4);
            result = 0;
            break;
        }
    }
    trie_end(map);
    return result;
}

const struct rt_ops rt_trie_ops = {.value = trie_value, .read = trie_read, .put = trie_put, .remove = trie_remove, .next = trie_next};
