"""Calls of helpers: which may be called, what their arguments have to be, and what they return."""

from dataclasses import replace
from typing import Final

from ebpf.engine.verifier import arguments, dynptrs, map_arguments, memory_arguments, object_arguments, targets
from ebpf.engine.verifier.call import Call
from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.helper_tables import (
    NO_RETVAL,
    NULLABLE,
    OTHER_ARGUMENTS,
    PACKET_HELPERS,
    RETVALS,
    SEES_PACKETS,
    SLEEPS,
)
from ebpf.engine.verifier.references import forget_packets, release
from ebpf.engine.verifier.refusal import Unjudged
from ebpf.engine.verifier.reg import MAP_VALUE, NOTHING, PACKET, PACKET_END, PACKET_META
from ebpf.engine.verifier.results import result
from ebpf.engine.verifier.sections import helper_sleeps, nothing_left
from ebpf.uapi import HELPERS, PERFMON_HELPERS, PROGRAM_TYPES, Arg, AttachType, Helper, ProgType
from ebpf.uapi.later_helpers import LOCKED_HELPERS, helper_since
from ebpf.uapi.tracing import ATTACH_HELPERS, DENIED_HELPERS, ITERATOR_HELPERS

#: Helpers that LSM programs have of a cgroup's.
_OF_CGROUPS: Final = frozenset({"get_local_storage", "get_retval", "set_retval"})


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
    map_arguments.fits(env, call)
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
    if (row.moves_packet and not _failed_tail_call(env, row)) or (
        row.name == "dynptr_write" and call.dynptr is not None and call.dynptr.what in _OF_SKB
    ):
        forget_packets(env)
    for at in range(1, 6):
        regs[at] = NOTHING
    regs[0] = result(env, call)
    return call


def _failed_tail_call(env: Env, row: Helper) -> bool:
    """Whether what follows in this function is reached only where nothing was jumped to, and nothing happened."""
    return row.name == "tail_call" and env.rules.failed_tail_calls and not env.frame.callback


def _as_this_type_has_it(env: Env, row: Helper) -> Helper:
    other = OTHER_ARGUMENTS.get((row.name, ProgType(env.code.prog_type)))
    return row if other is None or row.args is None else replace(row, args=(*other, *row.args[len(other) :]))


def _of_attach_type(env: Env, row: Helper) -> bool:
    """Whether a program may call what only those of its attach type may."""
    code = env.code
    if code.prog_type == ProgType.LSM:
        of_cgroup = code.attach_type == AttachType.LSM_CGROUP
        if of_cgroup and (row.name in _OF_CGROUPS or (row.name in ("getsockopt", "setsockopt") and targets.sockopt_hook(env))):
            return True
    if code.prog_type == ProgType.CGROUP_SOCKOPT:
        return code.attach_type == AttachType.CGROUP_SETSOCKOPT and row.name in ("getsockopt", "setsockopt")
    if code.prog_type not in (ProgType.TRACING, ProgType.LSM):
        return False
    if code.attach_type == AttachType.TRACE_ITER and row.name in ITERATOR_HELPERS.get(code.attach_to, ()):
        return True
    return row.name in ATTACH_HELPERS.get(code.attach_type, ())


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
    if not env.rules.has(row.since):
        raise env.refuse(
            "helper-not-allowed",
            f"invalid func unknown#{id_}",
            f"Linux {env.rules.name} has no bpf_{row.name}: it is there since {row.since}",
            helper=id_,
        )
    kind = PROGRAM_TYPES[ProgType(env.code.prog_type)]
    if kind.helpers is None:
        raise Unjudged(f"helpers of {kind.name} programs", env.slot)
    since = helper_since(row.name, env.code.prog_type, env.code.attach_type)
    later = bool(since) and not env.rules.has(since)
    denied = row.name in DENIED_HELPERS.get(env.code.attach_type, ()) and env.code.prog_type in (ProgType.TRACING, ProgType.LSM)
    unlocked = not env.rules.locked_down and LOCKED_HELPERS.get(row.name, "") in kind.helpers
    if later or denied or (row.name not in kind.helpers and not unlocked and not _of_attach_type(env, row)):
        raise env.refuse(
            "helper-not-allowed",
            f"{'program of this type cannot use helper' if env.rules.has('6.12') else 'unknown func'} bpf_{row.name}#{id_}",
            f"{kind.name} programs cannot call bpf_{row.name}{f' in Linux {env.rules.name}' if later else ''}",
            helper=id_,
        )
    if not env.privileged and row.name in PERFMON_HELPERS:
        raise env.refuse(
            "capability",
            f"program of this type cannot use helper bpf_{row.name}#{id_}",
            f"bpf_{row.name} takes CAP_PERFMON",
            helper=id_,
        )
    if row.name in RETVALS and env.code.attach_type in NO_RETVAL:
        raise env.refuse(
            "helper-not-allowed",
            f"program of this type cannot use helper bpf_{row.name}#{id_}",
            f"bpf_{row.name} is of no use to programs that cannot fail what they see; others name what they are attached to",
            helper=id_,
        )
    if row.gpl and not env.code.gpl:
        raise env.refuse(
            "licence",
            "cannot call GPL-restricted function from non-GPL compatible program",
            f"bpf_{row.name} is for programs with a GPL-compatible licence",
            helper=id_,
        )
    if not targets.allows(env, row.name):
        raise env.refuse(
            "helper-not-allowed",
            "helper call is not allowed in probe",
            f"bpf_{row.name} cannot be called where this program is attached",
            helper=id_,
        )
    if row.name in SLEEPS and not env.state.sleepable:
        raise env.refuse(
            "helper-not-allowed",
            "helper call might sleep in a non-sleepable prog",
            f"bpf_{row.name} may sleep, and this program must not",
            helper=id_,
        )
    if row.name in SLEEPS:
        helper_sleeps(env, row.name, id_)
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
    if reg.kind in (PACKET, PACKET_META, PACKET_END) and (env.code.prog_type not in SEES_PACKETS or row.name not in PACKET_HELPERS):
        raise env.refuse(
            "argument-type", "helper access to the packet is not allowed", f"bpf_{row.name} does not take memory of a packet", register=at
        )
    if arg in NULLABLE and reg.is_null:
        env.precise(at)
        return
    checker = _CHECKS.get(arg)
    if checker is None:
        raise Unjudged(f"an argument of kind {arg.name.lower()} of bpf_{row.name}", env.slot)
    checker(env, call, at, reg, arg)
    if reg.ref and arg.name not in ("KPTR_DEST",):
        call.ref = reg.ref


_CHECKS: Final = {
    Arg.MAP: map_arguments.check_map,
    Arg.KEY: map_arguments.check_key,
    Arg.VALUE: map_arguments.check_value,
    Arg.VALUE_UNINIT: map_arguments.check_value,
    Arg.MEM: memory_arguments.check_memory,
    Arg.MEM_OR_NULL: memory_arguments.check_memory,
    Arg.MEM_UNINIT: memory_arguments.check_memory,
    Arg.MEM_UNINIT_OR_NULL: memory_arguments.check_memory,
    Arg.SIZE: memory_arguments.check_size,
    Arg.SIZE_OR_ZERO: memory_arguments.check_size,
    Arg.CTX: memory_arguments.check_context,
    Arg.CTX_OR_NULL: memory_arguments.check_context,
    Arg.CONST_ALLOC_SIZE: memory_arguments.check_alloc_size,
    Arg.ALLOC_MEM: memory_arguments.check_alloc,
    Arg.CONST_STR: memory_arguments.check_string,
    Arg.MEM_WRITTEN: memory_arguments.check_memory,
    Arg.VALUE_OR_NULL: map_arguments.check_value,
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
    Arg.DYNPTR: dynptrs.check,
    Arg.DYNPTR_UNINIT: dynptrs.check,
    Arg.DYNPTR_RING_UNINIT: dynptrs.check,
    Arg.DYNPTR_RELEASED: dynptrs.check,
    Arg.TIMER: arguments.timer,
    Arg.BTF: object_arguments.check_object,
    Arg.BTF_OR_NULL: object_arguments.check_object,
    Arg.PERCPU_BTF: object_arguments.check_percpu,
}


#: Dynptrs of a packet that a write may move.
_OF_SKB: Final = (dynptrs.SKB, dynptrs.SKB_META)


def _special(env: Env, call: Call) -> None:
    name = call.row.name
    if name == "tail_call":
        key = env.regs[3].const
        if key is not None and call.map is not None and key < call.map.max_entries:
            # Linux jumps there directly then.
            env.precise(3)
        nothing_left(env, "tail_call", "a tail call ends the program")
    elif name in ("ringbuf_submit_dynptr", "ringbuf_discard_dynptr"):
        assert call.dynptr is not None
        dynptrs.give_back(env, call.dynptr)
    elif name == "dynptr_from_mem" and env.regs[1].kind != MAP_VALUE:
        raise env.refuse(
            "argument-type",
            f"Unsupported reg type {env.regs[1].name} for bpf_dynptr_from_mem data",
            "a dynptr can only be made of memory of a map's value",
            register=1,
        )
    elif name == "get_local_storage" and not env.regs[2].is_null:
        raise env.refuse(
            "argument-type", "get_local_storage() doesn't support non-zero flags", "the flags of bpf_get_local_storage must be 0"
        )
