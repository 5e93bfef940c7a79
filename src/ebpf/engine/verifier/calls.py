"""Calls of helpers: which may be called, what their arguments have to be, and what they return."""

from dataclasses import replace
from typing import Final

from ebpf.engine.program import MapDesc
from ebpf.engine.verifier import arguments, memory
from ebpf.engine.verifier.arguments import expected
from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.num import U32, U64, settle, unsigned_range
from ebpf.engine.verifier.refusal import Unjudged
from ebpf.engine.verifier.reg import (
    ANY,
    BUF,
    CTX,
    MAP_KEY,
    MAP_PTR,
    MAP_VALUE,
    MAYBE_NULL,
    MEM,
    NOTHING,
    PACKET,
    PACKET_END,
    PACKET_META,
    RINGBUF,
    SCALAR,
    SOCK_COMMON,
    SOCKET,
    STACK,
    TCP_SOCK,
    VOID_PACKET,
    Reg,
    number,
)
from ebpf.engine.verifier.state import Held, Slot
from ebpf.uapi import HELPERS, PROGRAM_TYPES, Arg, AttachType, Helper, MapFlag, MapType, ProgType, Ret

_MOST: Final = 1 << 29
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
#: Helpers that may move the packet, so that pointers into it are void afterwards.
MOVES_PACKET_NAMES: Final = frozenset(
    [
        "tail_call",
        "skb_store_bytes",
        "l3_csum_replace",
        "l4_csum_replace",
        "clone_redirect",
        "skb_vlan_push",
        "skb_vlan_pop",
        "skb_change_proto",
        "skb_change_tail",
        "skb_pull_data",
        "skb_change_head",
        "skb_adjust_room",
        "xdp_adjust_head",
        "xdp_adjust_meta",
        "xdp_adjust_tail",
        "msg_pull_data",
        "msg_push_data",
        "msg_pop_data",
        "lwt_push_encap",
        "lwt_seg6_store_bytes",
        "lwt_seg6_adjust_srh",
        "lwt_seg6_action",
        "store_hdr_opt",
        "reserve_hdr_opt",
        "sk_skb_pull_data",
        "sk_skb_change_tail",
        "sk_skb_change_head",
        "sk_skb_adjust_room",
    ]
)
MOVES_PACKET: Final = frozenset(row.id for row in HELPERS.values() if row.name in MOVES_PACKET_NAMES)
_WRITES_MAPS: Final = frozenset({"map_update_elem", "map_delete_elem", "map_push_elem", "map_pop_elem", "redirect_map"})
_MEMORY: Final = (Arg.MEM, Arg.MEM_OR_NULL, Arg.MEM_UNINIT, Arg.MEM_UNINIT_OR_NULL)
_UNINIT: Final = (Arg.MEM_UNINIT, Arg.MEM_UNINIT_OR_NULL)
_WRITTEN: Final = (*_UNINIT, Arg.MEM_WRITTEN)
_NULLABLE: Final = (
    Arg.MEM_OR_NULL,
    Arg.MEM_UNINIT_OR_NULL,
    Arg.CTX_OR_NULL,
    Arg.VALUE_OR_NULL,
    Arg.BTF_OR_NULL,
    Arg.SOCK_OR_NULL,
    Arg.SOCKET_OR_NULL,
    Arg.STACK_OR_NULL,
    Arg.KPTR_OR_NULL,
)
_MEMORY_KINDS: Final = frozenset((STACK, PACKET, PACKET_META, MAP_KEY, MAP_VALUE, MEM, BUF))
_MEMORY_NAMES: Final = "fp, pkt, pkt_meta, map_key, map_value, mem, ringbuf_mem, buf, trusted_ptr_"
_RETVALS: Final = frozenset({"get_retval", "set_retval"})
#: Helpers that may sleep, which only sleepable programs may call.
_SLEEPS: Final = frozenset(
    {"copy_from_user", "copy_from_user_task", "sys_bpf", "sys_close", "btf_find_by_name_kind", "ima_inode_hash", "ima_file_hash"}
)
#: Attach types whose programs must return 1.
FIXED_ONE: Final = frozenset(
    {
        AttachType.CGROUP_UDP4_RECVMSG,
        AttachType.CGROUP_UDP6_RECVMSG,
        AttachType.CGROUP_UNIX_RECVMSG,
        AttachType.CGROUP_INET4_GETPEERNAME,
        AttachType.CGROUP_INET6_GETPEERNAME,
        AttachType.CGROUP_UNIX_GETPEERNAME,
        AttachType.CGROUP_INET4_GETSOCKNAME,
        AttachType.CGROUP_INET6_GETSOCKNAME,
        AttachType.CGROUP_UNIX_GETSOCKNAME,
    }
)
#: Helpers that may read packets directly through a pointer.
_SEES_PACKETS: Final = frozenset(
    {ProgType.SCHED_CLS, ProgType.SCHED_ACT, ProgType.XDP, ProgType.LWT_XMIT, ProgType.SK_SKB, ProgType.SK_MSG}
    | {ProgType.LWT_IN, ProgType.LWT_OUT, ProgType.LWT_SEG6LOCAL, ProgType.SK_REUSEPORT, ProgType.FLOW_DISSECTOR, ProgType.CGROUP_SKB}
)
_PACKET_HELPERS: Final = frozenset(
    [
        "csum_diff",
        "map_delete_elem",
        "map_lookup_elem",
        "map_lookup_percpu_elem",
        "map_push_elem",
        "map_update_elem",
        "sk_lookup_tcp",
        "sk_lookup_udp",
        "skc_lookup_tcp",
        "tcp_check_syncookie",
        "tcp_gen_syncookie",
        "tcp_raw_check_syncookie_ipv4",
        "tcp_raw_check_syncookie_ipv6",
        "tcp_raw_gen_syncookie_ipv4",
        "tcp_raw_gen_syncookie_ipv6",
    ]
)


class Call:
    """What the arguments of one call said: the map, the reference, the memory that is returned, the function called back."""

    __slots__ = ("alloc", "function", "map", "most", "null_key", "ref", "released", "released_any", "row", "the_map", "timer")

    def __init__(self, row: Helper) -> None:
        self.row = row
        self.the_map: Reg | None = None
        self.map: MapDesc | None = None
        self.alloc = 0
        self.ref = 0
        self.released = 0
        self.released_any = False
        self.function = -1
        self.most = 0
        self.null_key = False
        self.timer = False


def helper(env: Env, id_: int) -> Call:
    """Check the call of helper `id_` and put its result into r0. Raises Refusal."""
    row = _row(env, id_)
    assert row.args is not None
    row = _as_this_type_has_it(env, row)
    assert row.args is not None
    call = Call(row)
    regs = env.regs
    for place, arg in enumerate(row.args):
        _argument(env, call, place, arg)
    _map_fits(env, call)
    if call.released_any:
        if not call.released and not regs[call_release(row)].is_null:
            raise env.refuse(
                "reference-misuse",
                f"func bpf_{row.name}#{row.id} reference has not been acquired before",
                "what is given back was not acquired",
            )
        if call.released:
            release(env, call.released)
    _special(env, call)
    if row.name in MOVES_PACKET_NAMES:
        forget_packets(env)
    for at in range(1, 6):
        regs[at] = NOTHING
    regs[0] = _result(env, call)
    return call


#: Helpers whose first arguments are others for a program type.
_OTHER_ARGUMENTS: Final = {
    ("get_socket_cookie", ProgType.SK_REUSEPORT): (Arg.SOCK_OR_NULL,),
    ("get_socket_cookie", ProgType.TRACING): (Arg.SOCK_OR_NULL,),
    ("sk_assign", ProgType.SK_LOOKUP): (Arg.CTX, Arg.SOCKET_OR_NULL),
    ("sk_storage_get", ProgType.CGROUP_SOCK): (Arg.MAP, Arg.CTX),
    ("getsockopt", ProgType.CGROUP_SOCKOPT): (Arg.SOCK,),
    ("setsockopt", ProgType.CGROUP_SOCKOPT): (Arg.SOCK,),
}


def _as_this_type_has_it(env: Env, row: Helper) -> Helper:
    other = _OTHER_ARGUMENTS.get((row.name, ProgType(env.code.prog_type)))
    return row if other is None or row.args is None else replace(row, args=(*other, *row.args[len(other) :]))


def _of_setsockopt(env: Env, row: Helper) -> bool:
    """Whether a program on setsockopt(2) calls what only those may."""
    setting = env.code.prog_type == ProgType.CGROUP_SOCKOPT and env.code.attach_type == AttachType.CGROUP_SETSOCKOPT
    return setting and row.name in ("getsockopt", "setsockopt")


def call_release(row: Helper) -> int:
    """The register of the argument that is given back."""
    assert row.args is not None
    for place, arg in enumerate(row.args):
        if arg in (Arg.ALLOC_MEM, Arg.SOCK_RELEASED):
            return place + 1
    return 1


def _row(env: Env, id_: int) -> Helper:
    row = HELPERS.get(id_)
    if row is None:
        raise env.refuse("helper-not-allowed", f"invalid func unknown#{id_}", f"there is no helper with number {id_}", helper=id_)
    kind = PROGRAM_TYPES[ProgType(env.code.prog_type)]
    if kind.helpers is None:
        raise Unjudged(f"helpers of {kind.name} programs", env.slot)
    if row.name not in kind.helpers and not _of_setsockopt(env, row):
        raise env.refuse(
            "helper-not-allowed",
            f"program of this type cannot use helper bpf_{row.name}#{id_}",
            f"{kind.name} programs cannot call bpf_{row.name}",
            helper=id_,
        )
    if row.name in _RETVALS and env.code.attach_type in FIXED_ONE and env.code.prog_type == ProgType.CGROUP_SOCK_ADDR:
        raise env.refuse(
            "helper-not-allowed",
            f"program of this type cannot use helper bpf_{row.name}#{id_}",
            f"programs that cannot fail what they see have no use for bpf_{row.name}",
            helper=id_,
        )
    if row.name in _SLEEPS and not env.code.sleepable:
        raise env.refuse(
            "helper-not-allowed",
            "helper call might sleep in a non-sleepable prog",
            f"bpf_{row.name} may sleep, and this program must not",
            helper=id_,
        )
    if row.gpl and not env.code.gpl:
        raise env.refuse(
            "licence",
            "cannot call GPL-restricted function from non-GPL compatible program",
            f"bpf_{row.name} is for programs with a GPL-compatible licence",
            helper=id_,
        )
    if row.args is None:
        raise Unjudged(f"helper bpf_{row.name}", env.slot)
    held = env.state.held
    if row.name != "spin_unlock" and any(one.kind == "lock" for one in held):
        raise env.refuse(
            "locked-call",
            "function calls are not allowed while holding a lock",
            f"bpf_{row.name} is called while a lock is held",
            helper=id_,
        )
    return row


def _argument(env: Env, call: Call, place: int, arg: Arg) -> None:
    at = place + 1
    row = call.row
    if arg == Arg.VARARG:
        return
    reg = env.readable(at)
    if arg == Arg.ANY:
        if reg.is_pointer and not env.privileged:
            raise env.refuse("pointer-leak", f"R{at} leaks addr into helper function", "an address would become visible")
        return
    if reg.kind in (PACKET, PACKET_META, PACKET_END) and (env.code.prog_type not in _SEES_PACKETS or row.name not in _PACKET_HELPERS):
        raise env.refuse(
            "argument-type", "helper access to the packet is not allowed", f"bpf_{row.name} does not take memory of a packet", register=at
        )
    if arg in _NULLABLE and reg.is_null:
        env.precise(at)
        return
    checker = _CHECKS.get(arg)
    if checker is None:
        raise Unjudged(f"an argument of kind {arg.name.lower()} of bpf_{row.name}", env.slot)
    checker(env, call, at, reg, arg)
    if reg.ref and arg.name not in ("KPTR_DEST",):
        call.ref = reg.ref


def _check_map(env: Env, call: Call, at: int, reg: Reg, arg: Arg) -> None:
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


def _check_key(env: Env, call: Call, at: int, reg: Reg, arg: Arg) -> None:
    del arg
    assert call.map is not None
    memory.kind_of_memory(env, at, reg)
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
    if low % 8 == 0 and held.types[:4] == b"\x01\x01\x01\x01" and held.reg.const is not None:
        key = held.reg.const & 0xFFFFFFFF
    elif held.types[low % 8 : low % 8 + 4] == b"\x03\x03\x03\x03":
        key = 0
    else:
        return False
    if key >= desc.max_entries:
        return False
    if held.spilled and low % 8 == 0:
        env.precise_slot(reg.frame, at)
    return True


def _check_value(env: Env, call: Call, at: int, reg: Reg, arg: Arg) -> None:
    assert call.map is not None
    if call.map.type in _SOCKS and call.row.name == "map_update_elem":
        arguments.socket(env, call, at, reg, Arg.SOCK)
        return
    memory.kind_of_memory(env, at, reg)
    size = call.map.value_size
    written = arg == Arg.VALUE_UNINIT
    memory.given(env, at, size, zero=False, write=written, raw=written)


def _check_memory(env: Env, call: Call, at: int, reg: Reg, arg: Arg) -> None:
    """The memory itself is checked with its size, which is the next argument."""
    del call, arg
    memory.kind_of_memory(env, at, reg)


def _check_size(env: Env, call: Call, at: int, reg: Reg, arg: Arg) -> None:
    zero = arg == Arg.SIZE_OR_ZERO
    if reg.kind != SCALAR:
        raise expected(env, at, reg, "scalar")
    assert call.row.args is not None
    before = call.row.args[at - 2]
    num = reg.num
    facts = {"register": at, "low": num.smin, "high": num.umax}
    if num.smin < 0:
        raise env.refuse(
            "negative-size",
            f"R{at} min value is negative, either use unsigned or 'var &= const'",
            f"the size in r{at} may be negative (as low as {num.smin})",
            **facts,
        )
    if num.umin == 0 and not zero:
        raise env.refuse(
            "zero-size",
            f"R{at} invalid zero-sized read: u64=[{num.umin},{num.umax}]",
            f"the size in r{at} may be zero (it is {num.umin} to {num.umax})",
            **facts,
        )
    if num.umax >= _MOST:
        raise env.refuse(
            "unbounded-size",
            f"R{at} unbounded memory access, use 'var &= const' or 'if (var < const)'",
            f"the size in r{at} has no upper bound",
            **facts,
        )
    call.most = num.umax
    pointer = env.regs[at - 1]
    if pointer.is_null and before in _NULLABLE:
        if num.umax:
            raise expected(env, at - 1, pointer, "fp")
    else:
        memory.given(env, at - 1, num.umax, zero=zero, write=before in _WRITTEN, raw=before in _UNINIT and not num.mask)
    env.precise(at)


def _check_context(env: Env, call: Call, at: int, reg: Reg, arg: Arg) -> None:
    del call, arg
    if reg.kind != CTX or reg.flags & MAYBE_NULL:
        raise expected(env, at, reg, "ctx")
    memory.fixed_offset(env, reg, at)


def _check_alloc_size(env: Env, call: Call, at: int, reg: Reg, arg: Arg) -> None:
    del arg
    if reg.kind != SCALAR:
        raise expected(env, at, reg, "scalar")
    if reg.num.mask:
        raise env.refuse("argument-type", f"R{at} is not a known constant'", "the size to reserve must be a constant", register=at)
    call.alloc = reg.num.value
    env.precise(at)


def _check_alloc(env: Env, call: Call, at: int, reg: Reg, arg: Arg) -> None:
    del arg
    if reg.kind != MEM or not reg.flags & RINGBUF or reg.flags & MAYBE_NULL:
        raise expected(env, at, reg, "ringbuf_mem")
    if reg.off or reg.num.mask or reg.num.value:
        raise env.refuse(
            "reference-misuse",
            f"R{at} must have zero offset when passed to release func or trusted arg to kfunc",
            "what is given back must be what was acquired, not moved",
            register=at,
        )
    if not reg.ref:
        raise env.refuse(
            "reference-misuse",
            f"R{at} must be referenced when passed to release function",
            "only what was acquired can be given back",
            register=at,
        )
    call.released = reg.ref
    call.released_any = True


def _check_string(env: Env, call: Call, at: int, reg: Reg, arg: Arg) -> None:
    del call, arg
    if reg.kind != MAP_VALUE or reg.flags & MAYBE_NULL:
        raise expected(env, at, reg, "map_value")
    desc = env.map_of(reg)
    if not desc.flags & MapFlag.RDONLY_PROG or not desc.frozen:
        raise env.refuse("argument-type", f"R{at} does not point to a readonly map'", "the text must lie in a read-only map", register=at)
    if reg.num.mask:
        raise env.refuse("argument-type", f"R{at} is not a constant address'", "the text must lie at a constant place", register=at)
    memory.region(env, reg, at, 0, 1, desc.value_size)
    if desc.content is not None:
        start = reg.off + reg.num.value
        if b"\0" not in desc.content[start:]:
            raise env.refuse("argument-type", "string is not zero-terminated", "the text must end with a zero byte", register=at)


_CHECKS: Final = {
    Arg.MAP: _check_map,
    Arg.KEY: _check_key,
    Arg.VALUE: _check_value,
    Arg.VALUE_UNINIT: _check_value,
    Arg.MEM: _check_memory,
    Arg.MEM_OR_NULL: _check_memory,
    Arg.MEM_UNINIT: _check_memory,
    Arg.MEM_UNINIT_OR_NULL: _check_memory,
    Arg.SIZE: _check_size,
    Arg.SIZE_OR_ZERO: _check_size,
    Arg.CTX: _check_context,
    Arg.CTX_OR_NULL: _check_context,
    Arg.CONST_ALLOC_SIZE: _check_alloc_size,
    Arg.ALLOC_MEM: _check_alloc,
    Arg.CONST_STR: _check_string,
    Arg.MEM_WRITTEN: _check_memory,
    Arg.VALUE_OR_NULL: _check_value,
    Arg.SCALAR: arguments.number,
    Arg.LONG: arguments.fixed,
    Arg.INT_PTR: arguments.fixed,
    Arg.INT_CHANGED: arguments.fixed,
    Arg.IPV4_HEADER: arguments.fixed,
    Arg.IPV6_HEADER: arguments.fixed,
    Arg.TCP_HEADER: arguments.fixed,
    Arg.SOCK_COMMON: arguments.socket,
    Arg.SOCK: arguments.socket,
    Arg.SOCK_OR_NULL: arguments.socket,
    Arg.SOCK_RELEASED: arguments.socket,
    Arg.SOCKET_OR_NULL: arguments.socket,
    Arg.FUNC: arguments.function,
    Arg.STACK_OR_NULL: arguments.stack_pointer,
    Arg.SPIN_LOCK: arguments.lock,
    Arg.TIMER: arguments.timer,
}


def _map_fits(env: Env, call: Call) -> None:
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


def _special(env: Env, call: Call) -> None:
    name = call.row.name
    state = env.state
    if name == "tail_call":
        if any(held.kind == "lock" for held in state.held):
            raise env.refuse(
                "locked-call", "tail_call cannot be used inside bpf_spin_lock-ed region", "a tail call would leave a lock held"
            )
        for held in state.held:
            raise env.refuse(
                "leaked-reference",
                f"Unreleased reference id={held.id} alloc_insn={held.slot}\ntail_call would lead to reference leak",
                "a tail call would leave what was acquired behind",
                acquired=held.slot,
            )
    elif name == "get_local_storage" and not env.regs[2].is_null:
        raise env.refuse(
            "argument-type", "get_local_storage() doesn't support non-zero flags", "the flags of bpf_get_local_storage must be 0"
        )


def release(env: Env, ref: int) -> None:
    """Give a reference back: what points to it cannot be used any more, wherever it was copied to."""
    state = env.state
    if not any(held.id == ref for held in state.held):
        raise env.refuse("reference-misuse", "reference has not been acquired before", "what is given back was not acquired")
    state.held = tuple(held for held in state.held if held.id != ref)
    for frame in state.frames:
        for at, reg in enumerate(frame.regs):
            if reg.ref == ref:
                frame.regs[at] = void(env, reg)
        for at, held_ in frame.stack.items():
            if held_.reg.ref == ref:
                frame.stack[at] = Slot(held_.types, void(env, held_.reg)) if env.privileged else Slot(b"\x02" * 8)


def void(env: Env, reg: Reg) -> Reg:
    """What is left of a pointer that is void: a number for those who may see addresses."""
    if not env.privileged:
        return NOTHING
    return VOID_PACKET if reg.kind in (PACKET, PACKET_META, PACKET_END) else ANY


def forget_packets(env: Env) -> None:
    """The packet moved: all pointers into it are void."""
    for frame in env.state.frames:
        for at, reg in enumerate(frame.regs):
            if reg.kind in (PACKET, PACKET_META, PACKET_END):
                frame.regs[at] = void(env, reg)
        for at, held in frame.stack.items():
            if held.reg.kind in (PACKET, PACKET_META, PACKET_END):
                frame.stack[at] = Slot(held.types, void(env, held.reg))


def _result(env: Env, call: Call) -> Reg:
    row = call.row
    if row.ret == Ret.INT:
        return _bounded_result(env, call)
    if row.ret == Ret.VOID:
        return NOTHING
    if row.ret == Ret.MAP_VALUE_OR_NULL:
        assert call.the_map is not None
        inside = call.the_map.fd
        if call.map is not None and call.map.type in _SOCKS and row.name == "map_lookup_elem":
            id = acquire(env)
            return Reg(MAP_VALUE, id=id, fd=inside, flags=MAYBE_NULL, uid=call.the_map.uid, ref=id)
        if call.null_key and call.map is not None and call.map.inner is None:
            return Reg(MAP_VALUE, id=_lock_id(env, call.map), fd=inside, uid=call.the_map.uid)
        return Reg(MAP_VALUE, id=env.new_id(), fd=inside, flags=MAYBE_NULL, uid=call.the_map.uid)
    if row.ret == Ret.ALLOC_MEM_OR_NULL:
        id = acquire(env)
        return Reg(MEM, id=id, ref=id, flags=MAYBE_NULL | RINGBUF, size=call.alloc)
    if row.ret == Ret.MAP_VALUE:
        assert call.the_map is not None
        assert call.map is not None
        return Reg(MAP_VALUE, id=_lock_id(env, call.map), fd=call.the_map.fd, uid=call.the_map.uid)
    kind = _SOCKETS.get(row.ret)
    if kind is None:
        raise Unjudged(f"what bpf_{row.name} returns", env.slot)
    if row.name in _ACQUIRES:
        id = acquire(env)
        return Reg(kind, id=id, ref=id, flags=MAYBE_NULL)
    return Reg(kind, id=env.new_id(), flags=MAYBE_NULL, ref=call.ref if row.name in _CASTS else 0)


def _lock_id(env: Env, desc: MapDesc) -> int:
    """An id for a map's value that has a lock: which one is held must be known."""
    return env.new_id() if any(what == "bpf_spin_lock" for _, what, _ in desc.special) else 0


_SOCKETS: Final = {Ret.SOCKET_OR_NULL: SOCKET, Ret.SOCK_COMMON_OR_NULL: SOCK_COMMON, Ret.TCP_SOCK_OR_NULL: TCP_SOCK}
_ACQUIRES: Final = frozenset({"sk_lookup_tcp", "sk_lookup_udp", "skc_lookup_tcp"})
#: Helpers whose result is the same socket as their argument, seen as another type.
_CASTS: Final = frozenset(
    {"sk_fullsock", "tcp_sock", "skc_to_tcp_sock", "skc_to_tcp6_sock", "skc_to_udp6_sock", "skc_to_mptcp_sock"}
    | {"skc_to_tcp_timewait_sock", "skc_to_tcp_request_sock", "skc_to_unix_sock"}
)


def acquire(env: Env, kind: str = "ref") -> int:
    """A new reference, held from now on."""
    id = env.new_id()
    env.state.held = (*env.state.held, Held(id, env.slot, kind))
    return id


#: Helpers whose result is at most the size that they are given, or an error.
_SIZED_RESULT: Final = frozenset({"get_stack", "get_task_stack", "probe_read_str", "probe_read_kernel_str", "probe_read_user_str"})
_ERRORS: Final = 4095


def _bounded_result(env: Env, call: Call) -> Reg:
    name = call.row.name
    if name == "get_smp_processor_id":
        return number(unsigned_range(0, env.code.cpus - 1)) if env.code.cpus else ANY
    if name in _SIZED_RESULT:
        most = call.most
        return number(settle(0, U64, -_ERRORS, most, 0, U64, -_ERRORS, most, 0, U32, env.rules))
    return ANY
