"""Maps of the user kernel: one class for each type, and the table of them."""

import errno
from collections.abc import Callable, Mapping
from typing import Final

from ebpf.errors import NotSupportedError
from ebpf.kernels.user.maps.array import Array, PerCpuArray
from ebpf.kernels.user.maps.base import FD_ACCESS, PROG_ACCESS, Map, bad
from ebpf.kernels.user.maps.hash import Hash, LruHash, LruPerCpuHash, PerCpuHash
from ebpf.kernels.user.maps.queue import Bloom, Queue
from ebpf.kernels.user.maps.ringbuf import Ringbuf
from ebpf.kernels.user.maps.slots import (
    ArrayOfMaps,
    CgroupArray,
    Devmap,
    DevmapHash,
    HashOfMaps,
    Holding,
    Inner,
    PerfArray,
    ProgArray,
)
from ebpf.kernels.user.maps.storage import CgroupStorage, Storage, TaskStorage
from ebpf.kernels.user.maps.traces import StackTrace
from ebpf.kernels.user.maps.trie import Trie
from ebpf.sys.calls import MapCreate
from ebpf.uapi import MAP_TYPES, MapFlag, MapType

__all__ = ["REASONS", "TYPES", "Devmap", "DevmapHash", "HashOfMaps", "Holding", "Inner", "Map", "ProgArray", "Storage", "create"]

#: The types that are built.
TYPES: Final[Mapping[MapType, type[Map]]] = {
    MapType.HASH: Hash,
    MapType.ARRAY: Array,
    MapType.PROG_ARRAY: ProgArray,
    MapType.PERF_EVENT_ARRAY: PerfArray,
    MapType.PERCPU_HASH: PerCpuHash,
    MapType.PERCPU_ARRAY: PerCpuArray,
    MapType.STACK_TRACE: StackTrace,
    MapType.CGROUP_ARRAY: CgroupArray,
    MapType.LRU_HASH: LruHash,
    MapType.LRU_PERCPU_HASH: LruPerCpuHash,
    MapType.LPM_TRIE: Trie,
    MapType.ARRAY_OF_MAPS: ArrayOfMaps,
    MapType.HASH_OF_MAPS: HashOfMaps,
    MapType.DEVMAP: Devmap,
    MapType.QUEUE: Queue,
    MapType.STACK: Queue,
    MapType.DEVMAP_HASH: DevmapHash,
    MapType.RINGBUF: Ringbuf,
    MapType.TASK_STORAGE: TaskStorage,
    MapType.CGRP_STORAGE: CgroupStorage,
    MapType.BLOOM_FILTER: Bloom,
}


_LATER: Final = "it is not built yet"
_NO_SOCKETS: Final = "there are no sockets of the kernel's to keep in it"
_NO_CGROUPS: Final = "programs are not attached to cgroups here"
#: Why the other types are not.
REASONS: Final[Mapping[MapType, str]] = {
    MapType.SOCKMAP: _NO_SOCKETS,
    MapType.SOCKHASH: _NO_SOCKETS,
    MapType.REUSEPORT_SOCKARRAY: _NO_SOCKETS,
    MapType.SK_STORAGE: _NO_SOCKETS,
    MapType.XSKMAP: "no packets go to AF_XDP sockets here",
    MapType.CPUMAP: "packets are not handed to other CPUs here",
    MapType.INODE_STORAGE: "there are no inodes of the kernel's to keep it with",
    MapType.CGROUP_STORAGE: _NO_CGROUPS,
    MapType.PERCPU_CGROUP_STORAGE: _NO_CGROUPS,
    MapType.STRUCT_OPS: "there are no operations of the kernel's to replace",
    MapType.USER_RINGBUF: _LATER,
    MapType.ARENA: _LATER,
    MapType.INSN_ARRAY: _LATER,
    MapType.RHASH: _LATER,
}


def create(call: MapCreate, cpus: int, find: Callable[[int], Map]) -> Map:
    """Make a map, or say with Linux's errno what is wrong with the request. `find` gives the map behind a descriptor."""
    try:
        kind = MapType(call.map_type)
    except ValueError:
        raise bad(f"there is no map type {call.map_type}") from None
    if kind not in MAP_TYPES:
        raise bad("map type 0 is none")
    name = MAP_TYPES[kind].name
    if call.ifindex:
        raise bad("no device here has memory for maps", errno.EOPNOTSUPP)
    cls = TYPES.get(kind)
    if cls is None:
        raise NotSupportedError(
            f"map {call.name!r}", f"the user kernel has no maps of type {name}: {REASONS[kind]}", hint="Run with --kernel linux"
        )
    if call.flags & ~int(cls.FLAGS):
        raise bad(f"{name} does not take flags {call.flags & ~int(cls.FLAGS):#x}")
    for pair in (FD_ACCESS, PROG_ACCESS):
        if call.flags & pair == pair:
            raise bad("a map that is neither read nor written")
    if call.map_extra and kind != MapType.BLOOM_FILTER:
        raise bad(f"{name} has no map_extra")
    if call.flags & MapFlag.NUMA_NODE and call.numa_node:
        raise bad(f"there is no NUMA node {call.numa_node}")
    cls.check(call)
    if len(call.name) > 15 or not all(c.isalnum() or c in "_." for c in call.name):
        raise bad(f"name {call.name!r} has more than 15 characters, or other than letters, digits, '_' and '.'")
    inner = Inner(find(call.inner_map_fd)) if kind in (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS) else None
    made = cls(call, cpus)
    if isinstance(made, Holding):
        made.inner = inner
    return made
