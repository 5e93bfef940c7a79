"""What helpers return."""

from typing import Final

from ebpf.engine.program import MapDesc
from ebpf.engine.verifier.call import Call
from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.locks import LOCKS
from ebpf.engine.verifier.num import U32, U64, settle, unsigned_range
from ebpf.engine.verifier.object_arguments import object_result, percpu_result
from ebpf.engine.verifier.references import acquire
from ebpf.engine.verifier.refusal import Unjudged
from ebpf.engine.verifier.reg import (
    ANY,
    MAP_VALUE,
    MAYBE_NULL,
    MEM,
    NOTHING,
    RINGBUF,
    SOCK_COMMON,
    SOCKET,
    TCP_SOCK,
    Reg,
    number,
)
from ebpf.uapi import MapType, Ret

_SOCKETS: Final = {Ret.SOCKET_OR_NULL: SOCKET, Ret.SOCK_COMMON_OR_NULL: SOCK_COMMON, Ret.TCP_SOCK_OR_NULL: TCP_SOCK}
_ACQUIRES: Final = frozenset({"sk_lookup_tcp", "sk_lookup_udp", "skc_lookup_tcp"})
#: Helpers whose result is the same socket as their argument, seen as another type.
_CASTS: Final = frozenset({"sk_fullsock", "tcp_sock"})
#: Helpers whose result is at most the size that they are given, or an error.
_SIZED_RESULT: Final = frozenset({"get_stack", "get_task_stack", "probe_read_str", "probe_read_kernel_str", "probe_read_user_str"})
#: The numbers of errors, as what a call returns has them with a minus.
ERRORS: Final = 4095


def result(env: Env, call: Call) -> Reg:
    """What the helper leaves in r0. Raises Unjudged where that is not known."""
    row = call.row
    if row.ret == Ret.INT:
        return _bounded_result(env, call)
    if row.ret == Ret.VOID:
        return NOTHING
    if row.ret == Ret.MAP_VALUE_OR_NULL:
        assert call.the_map is not None
        inside = call.the_map.fd
        if call.map is not None and call.map.type in (MapType.SOCKMAP, MapType.SOCKHASH) and row.name == "map_lookup_elem":
            id = _acquired(env)
            return Reg(MAP_VALUE, id=id, fd=inside, flags=MAYBE_NULL, uid=call.the_map.uid, ref=id)
        if call.null_key and call.map is not None and call.map.inner is None:
            return Reg(MAP_VALUE, id=_lock_id(env, call.map), fd=inside, uid=call.the_map.uid)
        return Reg(MAP_VALUE, id=env.new_id(), fd=inside, flags=MAYBE_NULL, uid=call.the_map.uid)
    if row.ret == Ret.ALLOC_MEM_OR_NULL:
        id = _acquired(env)
        return Reg(MEM, id=id, ref=id, flags=MAYBE_NULL | RINGBUF, size=call.alloc)
    if row.ret == Ret.DYNPTR_MEM_OR_NULL:
        assert call.dynptr is not None
        return Reg(MEM, id=env.new_id(), flags=MAYBE_NULL, size=call.alloc, uid=call.dynptr.id, ref=call.dynptr.ref)
    if row.ret == Ret.MAP_VALUE:
        assert call.the_map is not None
        assert call.map is not None
        return Reg(MAP_VALUE, id=_lock_id(env, call.map), fd=call.the_map.fd, uid=call.the_map.uid)
    if row.ret in (Ret.BTF, Ret.BTF_OR_NULL):
        return object_result(env, call)
    if row.ret in (Ret.PERCPU, Ret.PERCPU_OR_NULL):
        return percpu_result(env, call)
    kind = _SOCKETS.get(row.ret)
    if kind is None:
        raise Unjudged(f"what bpf_{row.name} returns", env.slot)
    if row.name in _ACQUIRES:
        id = _acquired(env)
        return Reg(kind, id=id, ref=id, flags=MAYBE_NULL)
    return Reg(kind, id=env.new_id(), flags=MAYBE_NULL, ref=call.ref if row.name in _CASTS else 0)


def _acquired(env: Env) -> int:
    """A new reference, which is not there if the pointer is null: Linux takes a number for either."""
    env.new_id()
    return acquire(env)


def _lock_id(env: Env, desc: MapDesc) -> int:
    """An id for a map's value that has a lock: which one is held must be known."""
    return env.new_id() if any(what in LOCKS for _, what, _ in desc.special) else 0


def _bounded_result(env: Env, call: Call) -> Reg:
    name = call.row.name
    if name == "get_smp_processor_id" and env.rules.bounds_cpu:
        return number(unsigned_range(0, env.code.cpus - 1)) if env.code.cpus else ANY
    if name in _SIZED_RESULT:
        most = call.most
        return number(settle(0, U64, -ERRORS, most, 0, U64, -ERRORS, most, 0, U32, env.rules))
    return ANY
