"""Tries, queues, stacks and evicting hashes against models in Python, and after their writers were killed."""

import ctypes
import errno
import os
import random
import signal
import struct
import time
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_map import SharedMap

from ebpf.engine.runtime import library
from ebpf.uapi import MapType

ANY, NOEXIST, EXIST = 0, 1, 2


def prefix(bits: int, address: int) -> bytes:
    return struct.pack("<I", bits) + struct.pack(">H", address)


def covers(bits: int, address: int, other: int) -> bool:
    return not (address ^ other) >> (16 - bits) if bits else True


# Addresses of few different bits, so that prefixes nest and part at every depth.
ADDRESSES = st.sampled_from([0, 1, 2, 0x8000, 0x8001, 0x8100, 0x80FF, 0xC000, 0xFFFF, 0x0F0F]) | st.integers(0, 0xFFFF)
ENTRIES = st.lists(st.tuples(st.sampled_from(["put", "new", "replace", "remove", "get"]), st.integers(0, 16), ADDRESSES), max_size=80)


def ordered(model: dict[tuple[int, int], bytes]) -> list[tuple[int, int]]:
    """What a walk gives: prefixes behind those that they are the beginning of, else by address."""

    def rank(entry: tuple[int, int]) -> str:
        # "2" sorts behind both sides of a fork.
        return f"{entry[1]:016b}"[: entry[0]] + "2"

    return sorted(model, key=rank)


@settings(max_examples=300, deadline=None)
@given(operations=ENTRIES)
def test_a_trie_answers_with_the_longest_prefix_as_a_search_through_all_does(operations: list[tuple[str, int, int]]) -> None:
    held, model = SharedMap(MapType.LPM_TRIE, 6, 8, 12), dict[tuple[int, int], bytes]()
    for place, (what, bits, address) in enumerate(operations):
        short = address >> (16 - bits) << (16 - bits)
        key, value, there = prefix(bits, address), struct.pack("<Q", place), (bits, short) in model
        if what == "get":
            best = max((entry for entry in model if entry[0] <= bits and covers(*entry, address)), default=None)
            assert held.get(key) == (model[best] if best is not None else None)
        elif what == "remove":
            assert held.remove(key) == (0 if there else -errno.ENOENT)
            model.pop((bits, short), None)
        else:
            flags = {"put": ANY, "new": NOEXIST, "replace": EXIST}[what]
            expected = -errno.EEXIST if there and flags == NOEXIST else -errno.ENOENT if not there and flags == EXIST else 0
            if not expected and not there and len(model) == 12:
                expected = -errno.ENOSPC
            assert held.put(key, value, flags) == expected
            if not expected:
                model[bits, short] = value
    walked = [(struct.unpack_from("<I", key)[0], struct.unpack_from(">H", key, 4)[0]) for key in held.walk()]
    assert [(bits, address >> (16 - bits) << (16 - bits)) for bits, address in walked] == ordered(model)
    assert held.header.count == len(model)
    # A trie of n prefixes has at most n - 1 nodes between them; all others are free again.
    for bits, address in model:
        assert held.remove(prefix(bits, address)) == 0
    assert [held.put(prefix(16, address), bytes(8)) for address in range(13)] == [0] * 12 + [-errno.ENOSPC]


@pytest.mark.parametrize("kind", [MapType.QUEUE, MapType.STACK])
@settings(max_examples=100, deadline=None)
@given(operations=st.lists(st.tuples(st.sampled_from(["push", "over", "pop", "peek"]), st.integers(0, 2**32 - 1)), max_size=60))
def test_a_queue_or_stack_does_what_a_deque_does(kind: MapType, operations: list[tuple[str, int]]) -> None:
    held, model = SharedMap(kind, 0, 4, 3), deque[int]()
    lib, out = library(), ctypes.create_string_buffer(4)
    for what, number in operations:
        if what in ("push", "over"):
            full = len(model) == 3
            expected = -errno.E2BIG if full and what == "push" else 0
            assert lib.rt_map_push(held.address, struct.pack("<I", number), EXIST if what == "over" else ANY) == expected
            if not expected:
                if full:
                    model.popleft()
                model.append(number)
            continue
        result = (lib.rt_map_pop if what == "pop" else lib.rt_map_peek)(held.address, out)
        assert result == (0 if model else -errno.ENOENT)
        end = 0 if kind == MapType.QUEUE else -1
        assert out.raw == struct.pack("<I", model[end] if model else 0)
        if model and what == "pop":
            del model[end]


@settings(max_examples=60, deadline=None)
@given(operations=st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=200))
def test_an_evicting_hash_keeps_what_is_used_and_never_refuses(operations: list[tuple[bool, int]]) -> None:
    held, last = SharedMap(MapType.LRU_HASH, 4, 8, 8), dict[int, int]()
    favourite = struct.pack("<I", 1000)
    held.put(favourite, bytes(8))
    for place, (write, number) in enumerate(operations):
        key = struct.pack("<I", number)
        if write:
            assert held.put(key, struct.pack("<Q", place)) == 0
            last[number] = place
        # An element that is looked up between any two insertions stays.
        assert held.use(favourite)
        found = held.get(key)
        assert found is None or found == struct.pack("<Q", last[number])
        assert not write or found is not None
    assert len(held.walk()) == held.header.count == min(len(last) + 1, 8)


def killed(work: object, chance: random.Random) -> None:
    """Run `work` for ever in a process, and kill it."""
    pid = os.fork()
    if not pid:
        while True:
            work()  # type: ignore[operator]
    time.sleep(chance.uniform(0.002, 0.015))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_trie_whose_writers_are_killed_stays_whole() -> None:
    held, chance = SharedMap(MapType.LPM_TRIE, 6, 16, 64), random.Random(2)
    held.put(prefix(0, 0), b"d" * 16)

    entries = [(chance.randrange(1, 17), chance.choice((0, 0x8000, 0xC0C0)) + chance.randrange(16)) for _ in range(50)]
    keys_, values, done = b"".join(prefix(*e) for e in entries), b"".join(bytes([bits]) * 16 for bits, _ in entries), ctypes.c_uint32()

    def work() -> None:
        # Nearly all of the time is spent in the runtime, so that is where the signal comes.
        library().rt_map_put_many(held.address, keys_, values, 50, 0, 16, ctypes.byref(done))
        for place in range(0, 300, 6):
            library().rt_map_remove_many(held.address, keys_[place:], 50 - place // 6, ctypes.byref(done))

    for _ in range(12):
        killed(work, chance)
        # Readers see whole values, and always at least the default route.
        for address in (0, 0x8003, 0xC0CF, 0x1234):
            value = held.get(prefix(16, address))
            assert value is not None
            assert value == value[:1] * 16
    keys = held.walk()
    assert [held.remove(key) for key in keys] == [0] * len(keys)
    assert held.header.lock == 0
    assert [held.put(prefix(16, address), bytes(16)) for address in range(65)] == [0] * 64 + [-errno.ENOSPC]


def test_values_in_a_hash_whose_writers_are_killed_are_whole() -> None:
    held, chance = SharedMap(MapType.HASH, 4, 512, 16), random.Random(3)

    numbers = [(chance.randrange(16), chance.randrange(256)) for _ in range(2000)]
    keys_, values = b"".join(struct.pack("<I", key) for key, _ in numbers), b"".join(bytes([value]) * 512 for _, value in numbers)

    def work() -> None:
        # Nearly all of the time is spent in the runtime, so that is where the signal comes.
        library().rt_map_put_many(held.address, keys_, values, 2000, 0, 512, ctypes.byref(ctypes.c_uint32()))

    for _ in range(12):
        killed(work, chance)
        keys = held.walk()
        assert len(keys) == len(set(keys))
        for key in keys:
            value = held.get(key)
            assert value is not None
            assert value == value[:1] * 512
    assert [held.put(struct.pack("<I", number), bytes(512)) for number in range(17)] == [0] * 16 + [-errno.E2BIG]
    assert held.header.lock == 0
