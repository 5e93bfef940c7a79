"""Arguments that are maps, their keys and values; which helper takes which type of map."""

from typing import Final

from ebpf.engine.program import MapDesc
from ebpf.engine.verifier import arguments, memory
from ebpf.engine.verifier.arguments import expected
from ebpf.engine.verifier.call import Call
from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.reg import MAP_PTR, MAYBE_NULL, STACK, Reg
from ebpf.engine.verifier.state import SPILL
from ebpf.uapi import Arg, AttachType, Helper, MapFlag, MapType, ProgType

_KEYED: Final = frozenset(
    {
        MapType.HASH,
        MapType.ARRAY,
        MapType.PERCPU_HASH,
        MapType.PERCPU_ARRAY,
        MapType.LRU_HASH,
        MapType.LRU_PERCPU_HASH,
        MapType.LPM_TRIE,
    }
)
_OF_MAPS: Final = frozenset({MapType.HASH_OF_MAPS, MapType.ARRAY_OF_MAPS})
_RING: Final = frozenset({MapType.RINGBUF})
_PERF: Final = frozenset({MapType.PERF_EVENT_ARRAY})
_SOCKS: Final = frozenset({MapType.SOCKMAP, MapType.SOCKHASH})
_QUEUES: Final = frozenset({MapType.QUEUE, MapType.STACK})
_BLOOM: Final = frozenset({MapType.BLOOM_FILTER})
#: The map types that a helper takes; a helper that is not here takes any of those that are not taken by others alone.
_TAKES: Final[dict[str, frozenset[MapType]]] = {
    "map_lookup_elem": _KEYED | _OF_MAPS | _SOCKS | {MapType.DEVMAP, MapType.DEVMAP_HASH, MapType.CPUMAP, MapType.XSKMAP},
    "map_update_elem": _KEYED | _SOCKS,
    "map_delete_elem": _KEYED | _SOCKS,
    "map_lookup_percpu_elem": frozenset({MapType.PERCPU_HASH, MapType.PERCPU_ARRAY, MapType.LRU_PERCPU_HASH}),
    "for_each_map_elem": _KEYED - {MapType.LPM_TRIE},
    "ringbuf_output": _RING,
    "ringbuf_reserve": _RING,
    "ringbuf_query": _RING,
    "ringbuf_reserve_dynptr": _RING,
    "user_ringbuf_drain": frozenset({MapType.USER_RINGBUF}),
    "perf_event_output": _PERF,
    "skb_output": _PERF,
    "xdp_output": _PERF,
    "perf_event_read": _PERF,
    "perf_event_read_value": _PERF,
    "tail_call": frozenset({MapType.PROG_ARRAY}),
    "get_stackid": frozenset({MapType.STACK_TRACE}),
    "map_push_elem": _QUEUES | _BLOOM,
    "map_pop_elem": _QUEUES,
    "map_peek_elem": _QUEUES | _BLOOM,
    "skb_under_cgroup": frozenset({MapType.CGROUP_ARRAY}),
    "current_task_under_cgroup": frozenset({MapType.CGROUP_ARRAY}),
    "redirect_map": frozenset({MapType.DEVMAP, MapType.DEVMAP_HASH, MapType.CPUMAP, MapType.XSKMAP}),
    "sk_redirect_map": frozenset({MapType.SOCKMAP}),
    "msg_redirect_map": frozenset({MapType.SOCKMAP}),
    "sock_map_update": frozenset({MapType.SOCKMAP}),
    "sk_redirect_hash": frozenset({MapType.SOCKHASH}),
    "msg_redirect_hash": frozenset({MapType.SOCKHASH}),
    "sock_hash_update": frozenset({MapType.SOCKHASH}),
    "get_local_storage": frozenset({MapType.CGROUP_STORAGE, MapType.PERCPU_CGROUP_STORAGE}),
    "sk_select_reuseport": frozenset({MapType.REUSEPORT_SOCKARRAY, *_SOCKS}),
    "sk_storage_get": frozenset({MapType.SK_STORAGE}),
    "sk_storage_delete": frozenset({MapType.SK_STORAGE}),
    "inode_storage_get": frozenset({MapType.INODE_STORAGE}),
    "inode_storage_delete": frozenset({MapType.INODE_STORAGE}),
    "task_storage_get": frozenset({MapType.TASK_STORAGE}),
    "task_storage_delete": frozenset({MapType.TASK_STORAGE}),
    "cgrp_storage_get": frozenset({MapType.CGRP_STORAGE}),
    "cgrp_storage_delete": frozenset({MapType.CGRP_STORAGE}),
}
_WRITES_MAPS: Final = frozenset({"map_update_elem", "map_delete_elem", "map_push_elem", "map_pop_elem"})


def check_map(env: Env, call: Call, at: int, reg: Reg, arg: Arg) -> None:
    """A map."""
    del arg
    if reg.kind != MAP_PTR or reg.flags & MAYBE_NULL:
        raise expected(env, at, reg, "map_ptr")
    if reg.off or reg.num.mask or reg.num.value:
        memory.fixed_offset(env, reg, at)
    if call.timer:
        assert call.the_map is not None
        if (call.the_map.fd, call.the_map.uid) != (reg.fd, reg.uid):
            raise env.refuse(
                "argument-type",
                f"timer pointer in R1 map_uid={call.the_map.uid} doesn't match map pointer in R2 map_uid={reg.uid}",
                "the timer lies in another map than the one named",
            )
    call.the_map = reg
    call.map = env.map_of(reg)
    if env.call_map.setdefault(env.slot, reg.fd) != reg.fd:
        env.call_map[env.slot] = -1


def check_key(env: Env, call: Call, at: int, reg: Reg, arg: Arg) -> None:
    """A key of the map that was named before."""
    del arg
    assert call.map is not None
    memory.kind_of_memory(env, at, reg, element=True)
    memory.given(env, at, call.map.key_size, zero=False, write=False, raw=False)
    if call.row.name == "map_lookup_elem":
        call.null_key = _known_key(env, reg, call.map)


def _known_key(env: Env, reg: Reg, desc: MapDesc) -> bool:
    """Whether a constant key is within an array, so that the lookup cannot fail."""
    if not env.rules.nonnull_array or desc.type not in (MapType.ARRAY, MapType.PERCPU_ARRAY):
        return False
    if reg.kind != STACK or reg.num.mask or desc.key_size != 4:
        return False
    low = reg.off + reg.num.value
    frame = env.state.frames[reg.frame]
    at = (-low - 1) // 8
    held = frame.stack.get(at)
    if held is None or low % 8 not in (0, 4):
        return False
    here = held.types[low % 8 :]
    if here[:4] == b"\x03\x03\x03\x03":
        key = 0
    elif here.count(SPILL) == 4 and here[0] == SPILL and held.reg.const is not None:
        # As in Linux, a register that was stored with four bytes, or the whole of one of whose upper half the key is.
        key = held.reg.const
    else:
        return False
    if key >= desc.max_entries:
        return False
    if held.spilled and here[0] == SPILL:
        env.precise_slot(reg.frame, at)
    return True


def check_value(env: Env, call: Call, at: int, reg: Reg, arg: Arg) -> None:
    """A value of the map, to read or to fill."""
    assert call.map is not None
    if call.map.type in _SOCKS and call.row.name == "map_update_elem":
        arguments.socket(env, call, at, reg, Arg.SOCK)
        return
    memory.kind_of_memory(env, at, reg, element=True)
    size = call.map.value_size
    written = arg == Arg.VALUE_UNINIT
    memory.given(env, at, size, zero=False, write=written, raw=written)


def fits(env: Env, call: Call) -> None:
    """Check that the helper takes maps of this type. Raises Refusal."""
    row, desc = call.row, call.map
    if desc is None:
        return
    takes = _TAKES.get(row.name)
    if (takes is not None and desc.type not in takes) or (desc.type in _SOCKS and not _may_change_sockets(env, row)):
        raise env.refuse(
            "map-type",
            f"cannot pass map_type {desc.type} into func bpf_{row.name}#{row.id}",
            f"bpf_{row.name} does not take a map of type {MapType(desc.type).name.lower()}",
            helper=row.id,
        )
    if desc.flags & MapFlag.RDONLY_PROG and row.name in _WRITES_MAPS:
        raise env.refuse("read-only", "write into map forbidden", "the map is read-only for programs")


#: Programs that may put sockets into maps with the helpers of all maps; sock_ops programs may only delete.
_CHANGE_SOCKETS: Final = frozenset(
    {ProgType.SOCKET_FILTER, ProgType.SCHED_CLS, ProgType.SCHED_ACT, ProgType.XDP, ProgType.SK_REUSEPORT, ProgType.SK_LOOKUP}
    | {ProgType.FLOW_DISSECTOR}
)


def _may_change_sockets(env: Env, row: Helper) -> bool:
    if row.name not in ("map_update_elem", "map_delete_elem"):
        return True
    kind = env.code.prog_type
    if kind == ProgType.TRACING:
        return env.code.attach_type == AttachType.TRACE_ITER
    return kind in _CHANGE_SOCKETS or (kind == ProgType.SOCK_OPS and row.name == "map_delete_elem")
