"""The runtime's maps against a dict, and what is left of a hash when its writers are killed."""

import errno
import os
import random
import signal
import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_map import SharedMap

from ebpf.uapi import MapType

ANY, NOEXIST, EXIST = 0, 1, 2
OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["put", "new", "replace", "remove", "get"]), st.integers(0, 7), st.integers(0, 2**64 - 1)), max_size=60
)


def number(value: int) -> bytes:
    return struct.pack("<I", value)


def expected_put(model: dict[bytes, bytes], key: bytes, flags: int, room: int) -> int:
    if key in model:
        return -errno.EEXIST if flags == NOEXIST else 0
    if flags == EXIST:
        return -errno.ENOENT
    return -errno.E2BIG if len(model) == room else 0


@pytest.mark.parametrize("key_size", [1, 4, 8, 13])
@settings(max_examples=60, deadline=None)
@given(operations=OPERATIONS)
def test_a_hash_does_what_a_dict_does(key_size: int, operations: list[tuple[str, int, int]]) -> None:
    held, model = SharedMap(MapType.HASH, key_size, 8, 5), dict[bytes, bytes]()
    for what, at, number_ in operations:
        key, value = bytes([at]) * key_size, struct.pack("<Q", number_)
        if what == "get":
            assert held.get(key) == model.get(key)
        elif what == "remove":
            assert held.remove(key) == (0 if model.pop(key, None) is not None else -errno.ENOENT)
        else:
            flags = {"put": ANY, "new": NOEXIST, "replace": EXIST}[what]
            result = expected_put(model, key, flags, 5)
            assert held.put(key, value, flags) == result
            if not result:
                model[key] = value
    assert sorted(held.walk()) == sorted(model)
    assert held.batched(8) == (model, held.header.buckets)
    assert held.header.count == len(model)


@pytest.mark.parametrize(
    ("kind", "key", "flags", "result"),
    [
        pytest.param(MapType.ARRAY, 3, ANY, 0, id="array-any"),
        pytest.param(MapType.ARRAY, 3, EXIST, 0, id="array-exist"),
        pytest.param(MapType.ARRAY, 3, NOEXIST, -errno.EEXIST, id="array-elements-always-exist"),
        pytest.param(MapType.ARRAY, 4, ANY, -errno.E2BIG, id="array-past-the-end"),
        pytest.param(MapType.ARRAY, 0, 3, -errno.EINVAL, id="array-contradicting-flags"),
        pytest.param(MapType.HASH, 0, 3, -errno.EINVAL, id="hash-contradicting-flags"),
        pytest.param(MapType.HASH, 0, 4, -errno.EINVAL, id="hash-without-a-spin-lock"),
        pytest.param(MapType.HASH, 0, 8, -errno.EINVAL, id="hash-unknown-flag"),
        pytest.param(MapType.PERCPU_ARRAY, 4, ANY, -errno.E2BIG, id="percpu-array-past-the-end"),
    ],
)
def test_an_update_answers_with_linux_errno(kind: MapType, key: int, flags: int, result: int) -> None:
    held = SharedMap(kind, 4, 8, 4)
    assert held.put(number(key), bytes(8), flags) == result


def test_elements_of_an_array_cannot_be_removed() -> None:
    held = SharedMap(MapType.ARRAY, 4, 8, 4)
    assert held.remove(number(0)) == -errno.EINVAL
    assert held.walk() == [number(i) for i in range(4)]


@pytest.mark.parametrize("kind", [MapType.PERCPU_HASH, MapType.PERCPU_ARRAY])
def test_a_per_cpu_value_is_all_cpus_side_by_side(kind: MapType) -> None:
    held = SharedMap(kind, 4, 4, 4, cpus=3)
    value = b"".join(struct.pack("<II", cpu, 0) for cpu in (7, 8, 9))
    assert held.put(number(2), value) == 0
    assert held.get(number(2)) == value


def dead_child() -> int:
    """A process that was killed and that nobody has reaped yet."""
    pid = os.fork()
    if not pid:
        signal.pause()
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


@pytest.mark.parametrize("reaped", [False, True], ids=["zombie", "reaped"])
def test_a_lock_whose_owner_died_is_taken_over_and_its_half_made_element_comes_back(reaped: bool) -> None:
    held = SharedMap(MapType.HASH, 4, 8, 3)
    held.put(number(1), bytes(8))
    pid = dead_child()
    if reaped:
        os.waitpid(pid, 0)
    # As it is when an insertion is killed after it took an element and before it hung it up.
    held.header.lock, held.header.count, held.header.fresh = pid, 2, 2
    assert [held.put(number(key), bytes(8)) for key in (2, 3, 4)] == [0, 0, -errno.E2BIG]
    assert held.header.lock == 0
    assert held.header.count == 3
    if not reaped:
        os.waitpid(pid, 0)


def hammer(held: SharedMap, writer: int, rounds: int) -> None:
    """Insert, overwrite and remove keys of this writer alone; of every three, one stays."""
    for i in range(rounds):
        key = struct.pack("<II", writer, i % 30)
        held.put(key, struct.pack("<Q", i))
        if i % 3:
            held.remove(key)


def child(held: SharedMap, writer: int, rounds: int) -> int:
    pid = os.fork()
    if not pid:
        try:
            hammer(held, writer, rounds)
        finally:
            os._exit(0)
    return pid


def test_four_processes_hammer_one_hash_while_others_are_killed_and_it_stays_exact() -> None:
    held, chance = SharedMap(MapType.HASH, 8, 8, 100), random.Random(1)
    survivors = [child(held, writer, 30_000) for writer in range(3)]
    for _ in range(15):
        victim = child(held, 9, 1 << 30)
        time.sleep(chance.uniform(0.002, 0.02))
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
    assert [os.waitpid(pid, 0)[1] for pid in survivors] == [0, 0, 0]
    assert held.put(struct.pack("<II", 8, 0), bytes(8)) in (0, -errno.E2BIG)
    assert held.header.lock == 0
    kept = {key: value for key, value in held.batched(128)[0].items() if struct.unpack("<II", key)[0] < 3}
    assert kept == {struct.pack("<II", writer, at): struct.pack("<Q", 30_000 - 30 + at) for writer in range(3) for at in range(0, 30, 3)}
    # Nothing leaked: all 100 places can be had.
    for key in held.walk():
        assert held.remove(key) == 0
    assert held.header.count == 0
    assert [held.put(struct.pack("<II", 7, i), bytes(8)) for i in range(101)] == [0] * 100 + [-errno.E2BIG]
