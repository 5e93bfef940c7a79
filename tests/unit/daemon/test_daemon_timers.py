"""Timers in ebpfd: they go on while no client is there, and end with the last pin of their map."""

import struct
import time
from contextlib import suppress

import pytest

from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import KernelError, NotSupportedError
from ebpf.kernels.remote import RemoteKernel
from ebpf.object import Collection
from ebpf.spec import ObjectSpec
from ebpf.sys.calls import FdById, MapCreate, MapLookup, NextId, ObjGet, ObjPin
from ebpf.uapi import Cmd, MapFlag, MapType

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct element { __u64 fired; struct bpf_timer timer; };
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, struct element); } table SEC(".maps");
static int again(void *map, __u32 *key, struct element *e)
{
    e->fired++;
    bpf_timer_start(&e->timer, 1000000, 0);
    return 0;
}
SEC("tc") int start(struct __sk_buff *skb)
{
    __u32 key = 0;
    struct element *e = bpf_map_lookup_elem(&table, &key);
    int i, sum = 0;
    if (!e || bpf_timer_init(&e->timer, &table, 1) || bpf_timer_set_callback(&e->timer, again))
        return 1;
    bpf_for(i, 0, 5)
        sum += i;
    return bpf_timer_start(&e->timer, 0, 0) || sum != 10;
}
char LICENSE[] SEC("license") = "GPL";
"""
KEY = bytes(4)
PATH = "/sys/fs/bpf/timers"


@pytest.fixture(scope="module")
def spec() -> ObjectSpec:
    return read_object(compile_c("timers.bpf.c", text=SOURCE).object, "timers.o")


def fired(kernel: RemoteKernel, fd: int) -> int:
    return int(struct.unpack("<QQQ", kernel.bpf(MapLookup(fd, KEY, 24)))[0])


def test_a_timer_goes_on_without_its_client(spec: ObjectSpec) -> None:
    with RemoteKernel() as first, Collection.load(spec, first) as held:
        assert held.programs["start"].run(bytes(64)).retval == 0
        first.bpf(ObjPin(PATH, held.maps["table"].fd))
    with RemoteKernel() as second:
        fd = second.bpf(ObjGet(PATH))
        before = fired(second, fd)
        while fired(second, fd) < before + 3:
            time.sleep(0.002)
        assert programs(second) == [1]
        second.unpin(PATH)
        second.close(fd)
        assert programs(second) == []


def test_the_daemon_does_not_take_descriptors_for_keys(spec: ObjectSpec) -> None:
    with RemoteKernel() as kernel, Collection.load(spec, kernel) as held:
        info = held.maps["table"].info()
        btf = kernel.bpf(FdById(Cmd.BTF_GET_FD_BY_ID, info.btf_id))
        types = {"btf_fd": btf, "btf_key_type_id": info.btf_key_type_id, "btf_value_type_id": info.btf_key_type_id}
        fd = kernel.bpf(MapCreate(int(MapType.TASK_STORAGE), 4, 4, 0, int(MapFlag.NO_PREALLOC), **types))
        with pytest.raises(NotSupportedError, match="ebpfd does not see its clients' descriptors"):
            kernel.bpf(MapLookup(fd, struct.pack("<i", 0), 4))


def programs(kernel: RemoteKernel) -> list[int]:
    """The ids of all programs."""
    out: list[int] = []
    with suppress(KernelError):
        while True:
            out.append(kernel.bpf(NextId(Cmd.PROG_GET_NEXT_ID, out[-1] if out else 0)))
    return out
