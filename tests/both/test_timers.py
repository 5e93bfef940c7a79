"""Timers in values: they run when nobody runs programs, once for each start, and answer as Linux's to every misuse."""

import errno
import struct
import threading
import time
from collections.abc import Callable

import pytest

from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import KernelError
from ebpf.object import Collection
from ebpf.spec import ObjectSpec
from ebpf.sys.calls import FdById, MapCreate, NextId
from ebpf.sys.kernel import Kernel
from ebpf.uapi import Cmd, MapFlag, MapType

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#define CLOCK_MONOTONIC 1
struct element { __u64 fired; struct bpf_timer timer; __u64 key, again, result; };
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 4); __type(key, __u32); __type(value, struct element); } array SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 4); __type(key, __u32); __type(value, struct element); } hash SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_LRU_HASH); __uint(max_entries, 4); __type(key, __u32); __type(value, struct element); } lru SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u64); } count SEC(".maps");
__u64 clock = CLOCK_MONOTONIC, delay = 1000000, flags = 0, answers[8];
int which = 0;
static int fire(void *map, __u32 *key, struct element *e)
{
    __u32 zero = 0;
    __u64 *all = bpf_map_lookup_elem(&count, &zero);
    e->fired++;
    e->key = *key + 100;
    if (all)
        __sync_fetch_and_add(all, 1);
    if (e->again) {
        e->again--;
        e->result = bpf_timer_start(&e->timer, 1000, 0);
    }
    return 0;
}
static int cancel_itself(void *map, __u32 *key, struct element *e)
{
    e->result = bpf_timer_cancel(&e->timer);
    e->fired++;
    return 0;
}
static int remove_itself(void *map, __u32 *key, struct element *e)
{
    __u32 zero = 0;
    __u64 *all = bpf_map_lookup_elem(&count, &zero);
    long gone = bpf_map_delete_elem(map, key);
    if (all)
        *all = 1 + (gone != 0);
    return 0;
}
#define START(name, map, function) \\
    SEC("tc") int name(struct __sk_buff *skb) \\
    { \\
        __u32 key = 3; \\
        struct element *e = bpf_map_lookup_elem(&map, &key); \\
        if (!e) \\
            return 1; \\
        answers[0] = bpf_timer_init(&e->timer, &map, clock); \\
        answers[1] = bpf_timer_set_callback(&e->timer, function); \\
        answers[2] = bpf_timer_start(&e->timer, delay, flags); \\
        return 0; \\
    }
START(start_array, array, fire)
START(start_hash, hash, fire)
START(start_lru, lru, fire)
START(start_cancelling, hash, cancel_itself)
START(start_removing, hash, remove_itself)
SEC("tc") int cancel(struct __sk_buff *skb)
{
    __u32 key = 3;
    struct element *e = bpf_map_lookup_elem(&hash, &key);
    if (e)
        answers[3] = bpf_timer_cancel(&e->timer);
    return 0;
}
SEC("tc") int restart(struct __sk_buff *skb)
{
    __u32 key = 3;
    struct element *e = bpf_map_lookup_elem(&hash, &key);
    if (e)
        answers[4] = bpf_timer_start(&e->timer, delay, flags);
    return 0;
}
SEC("tc") int overwrite(struct __sk_buff *skb)
{
    __u32 key = 3;
    struct element value = {};
    answers[5] = bpf_map_update_elem(&hash, &key, &value, 0);
    return 0;
}
SEC("tc") int now(struct __sk_buff *skb)
{
    answers[6] = bpf_ktime_get_ns();
    return 0;
}
char LICENSE[] SEC("license") = "GPL";
"""
KEY = struct.pack("<I", 3)
ELEMENT = "<QQQQQQ"
SIZE = struct.calcsize(ELEMENT)
HOUR = 3600 * 10**9
_NO_MEMORY = str((1 << 64) - errno.ENOMEM)
_NAMES = {**{(1 << 64) - number: errno.errorcode[number] for number in (errno.EBUSY, errno.EINVAL)}, 0: "0", 1: "1"}


@pytest.fixture(scope="module")
def spec() -> ObjectSpec:
    return read_object(compile_c("timers.bpf.c", text=SOURCE).object, "timers.o")


def run(held: Collection, name: str, **values: int) -> list[str]:
    """Run a program with its variables set; what the helpers answered, by name."""
    for variable, value in values.items():
        held.set_variable(variable, value)
    held.programs[name].run(bytes(64))
    return [_NAMES.get(answer, str(answer)) for answer in answers(held)]


def answers(held: Collection) -> list[int]:
    """What the helpers answered."""
    return list(held.variables()["answers"])


def element(held: Collection, name: str) -> tuple[int, int, int, int]:
    """fired, key, again and result of the element; its timer is never shown."""
    fired, timer, rest, key, again, result = struct.unpack(ELEMENT, held.maps[name].raw[KEY])
    assert timer == rest == 0
    return fired, key, again, result


def until(true: Callable[[], bool]) -> None:
    """Wait until something is true: a minute at most, which no busy machine takes."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.parametrize("clock", [0, 1, 7])
@pytest.mark.parametrize("name", ["array", "hash", "lru"])
def test_a_timer_fires_when_nobody_runs_programs(kernel: Kernel, engine: str, spec: ObjectSpec, name: str, clock: int) -> None:
    with Collection.load(spec, kernel) as held:
        held.maps[name].raw[KEY] = struct.pack(ELEMENT, 0, 1, 1, 0, 2, 9)
        assert run(held, f"start_{name}", clock=clock)[:3] == ["0", "0", "0"]
        until(lambda: element(held, name)[0] == 3)
        assert element(held, name) == (3, 103, 0, 0)
        assert run(held, f"start_{name}", clock=clock)[:3] == ["EBUSY", "0", "0"]
        until(lambda: element(held, name)[0] == 4)


def test_misuse_is_answered_as_on_linux(kernel: Kernel, engine: str, spec: ObjectSpec) -> None:
    with Collection.load(spec, kernel) as held:
        held.maps["hash"].raw[KEY] = bytes(SIZE)
        assert run(held, "cancel")[3] == "EINVAL"
        assert run(held, "restart")[4] == "EINVAL"
        for clock in (2, 3, 8, 9, 11, 16, 1 << 32):
            assert run(held, "start_hash", clock=clock)[:3] == ["EINVAL", "EINVAL", "EINVAL"]
        for flags in (4, 1 << 32, 8):
            assert run(held, "start_hash", clock=1, flags=flags)[2] == "EINVAL"
            held.maps["hash"].raw[KEY] = bytes(SIZE)
        assert run(held, "start_hash", flags=2, delay=HOUR)[:3] == ["0", "0", "0"]
        assert run(held, "cancel")[3] == "1"
        assert run(held, "cancel")[3] == "0"
        assert run(held, "restart")[4] == "EINVAL"
        assert run(held, "start_hash")[:3] == ["EBUSY", "0", "0"]
        assert run(held, "restart", delay=(1 << 64) - 1)[4] == "0"
        assert run(held, "cancel")[3] == "1"
        assert element(held, "hash")[0] == 0


def test_a_time_of_the_monotonic_clock_can_be_given(kernel: Kernel, engine: str, spec: ObjectSpec) -> None:
    with Collection.load(spec, kernel) as held:
        for clock in (1, 7, 0):
            held.maps["hash"].raw[KEY] = bytes(SIZE)
            run(held, "now")
            now = answers(held)[6]
            assert run(held, "start_hash", clock=clock, flags=1, delay=now + HOUR)[:3] == ["0", "0", "0"]
            assert run(held, "cancel")[3] == "1"
            assert run(held, "start_hash", delay=now)[:3] == ["EBUSY", "0", "0"]
            until(lambda: element(held, "hash")[0] == 1)


def test_a_timer_goes_with_its_element(kernel: Kernel, engine: str, spec: ObjectSpec) -> None:
    with Collection.load(spec, kernel) as held:
        table = held.maps["hash"].raw
        for remove in (lambda: table.__delitem__(KEY), lambda: table.__setitem__(KEY, bytes(SIZE)), lambda: run(held, "overwrite")):
            table[KEY] = bytes(SIZE)
            assert run(held, "start_hash", delay=HOUR)[:3] == ["0", "0", "0"]
            remove()
            if KEY not in table:
                table[KEY] = bytes(SIZE)
            assert run(held, "cancel")[3] == "EINVAL"
        assert run(held, "start_array", delay=HOUR)[:3] == ["0", "0", "0"]
        held.maps["array"].raw[KEY] = bytes(SIZE)
        assert run(held, "start_array", delay=HOUR)[:3] == ["0", "0", "0"]


def test_what_fires_may_not_wait_for_itself_but_may_remove_itself(kernel: Kernel, engine: str, spec: ObjectSpec) -> None:
    with Collection.load(spec, kernel) as held:
        held.maps["hash"].raw[KEY] = bytes(SIZE)
        run(held, "start_cancelling")
        until(lambda: element(held, "hash")[0] == 1)
        assert element(held, "hash")[3] == (1 << 64) - errno.EDEADLK
        held.maps["hash"].raw[KEY] = bytes(SIZE)
        run(held, "start_removing")
        until(lambda: held.maps["count"].raw[bytes(4)] != bytes(8))
        assert held.maps["count"].raw[bytes(4)] == struct.pack("<Q", 1)
        assert KEY not in held.maps["hash"].raw


def test_a_timer_keeps_its_program_until_the_map_is_left(kernel: Kernel, engine: str, spec: ObjectSpec) -> None:
    held = Collection.load(spec, kernel)
    with held:
        held.maps["hash"].raw[KEY] = struct.pack(ELEMENT, 0, 0, 0, 0, 1 << 40, 0)
        assert run(held, "start_hash")[:3] == ["0", "0", "0"]
        id_ = held.programs["start_hash"].info().id
        for program in held.programs.values():
            program.close()
        before = element(held, "hash")[0]
        until(lambda: element(held, "hash")[0] > before + 3)
        kernel.close(kernel.bpf(FdById(Cmd.PROG_GET_FD_BY_ID, id_)))
        assert element(held, "hash")[0] > before

    def gone() -> bool:
        try:
            kernel.bpf(NextId(Cmd.PROG_GET_NEXT_ID, id_ - 1))
            kernel.close(kernel.bpf(FdById(Cmd.PROG_GET_FD_BY_ID, id_)))
        except KernelError as error:
            return error.errno == errno.ENOENT
        return False

    until(gone)


@pytest.mark.parametrize(
    ("type_", "flags", "expected"),
    [
        (MapType.ARRAY, 0, 0),
        (MapType.HASH, MapFlag.NO_PREALLOC, 0),
        (MapType.LRU_HASH, 0, 0),
        (MapType.PERCPU_ARRAY, 0, errno.EOPNOTSUPP),
        (MapType.PERCPU_HASH, 0, errno.EOPNOTSUPP),
        (MapType.LRU_PERCPU_HASH, 0, errno.EOPNOTSUPP),
        (MapType.ARRAY, MapFlag.RDONLY_PROG, errno.EACCES),
        (MapType.HASH, MapFlag.WRONLY_PROG, errno.EACCES),
    ],
)
def test_only_some_maps_may_have_timers(kernel: Kernel, spec: ObjectSpec, type_: MapType, flags: int, expected: int) -> None:
    with Collection.load(spec, kernel) as held:
        info = held.maps["hash"].info()
        btf = kernel.bpf(FdById(Cmd.BTF_GET_FD_BY_ID, info.btf_id))
        call = MapCreate(
            type_, 4, SIZE, 4, int(flags), btf_fd=btf, btf_key_type_id=info.btf_key_type_id, btf_value_type_id=info.btf_value_type_id
        )
        try:
            kernel.close(kernel.bpf(call))
            answer = 0
        except KernelError as error:
            answer = error.errno
        assert answer == expected


def test_threads_that_start_cancel_and_remove_lose_no_timer(kernel: Kernel, engine: str, spec: ObjectSpec) -> None:
    """Afterwards the timer works as ever."""
    rounds = 20000 if engine == "jit" else 100
    with Collection.load(spec, kernel) as held:
        table = held.maps["hash"].raw
        held.set_variable("delay", 0)

        def renew() -> None:
            for _ in range(rounds // 20):
                table[KEY] = bytes(SIZE)

        def repeat(name: str) -> None:
            held.programs[name].run(bytes(64), repeat=rounds)

        names = ("start_hash", "cancel", "restart")
        work = [threading.Thread(target=renew), *(threading.Thread(target=repeat, args=(name,)) for name in names)]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join()
        table[KEY] = bytes(SIZE)
        answers = []

        def started() -> bool:
            answers.append(run(held, "start_hash")[:3])
            return answers[-1] == ["0", "0", "0"]

        # Linux 6.18 takes a timer's memory without waiting for any (kmalloc_nolock), and after so many may have none for seconds (12 at most of 25 runs).
        until(lambda: started() or kernel.name == "user")
        assert answers[-1] == ["0", "0", "0"]
        assert {answer[0] for answer in answers[:-1]} <= {_NO_MEMORY}
        until(lambda: element(held, "hash")[0] == 1)
