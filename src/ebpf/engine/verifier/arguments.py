"""Arguments of special kinds: sockets, functions, locks and timers in map values, fixed-size headers."""

from typing import Final

from ebpf.engine.verifier import locks, memory
from ebpf.engine.verifier.call import Call
from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.reg import (
    BTF_ID,
    FUNC,
    MAP_VALUE,
    MAYBE_NULL,
    SCALAR,
    SOCK_COMMON,
    SOCKET,
    STACK,
    TCP_SOCK,
    TRUSTED,
    XDP_SOCK,
    Reg,
)
from ebpf.uapi import Arg

_SOCKETS: Final = frozenset((SOCK_COMMON, SOCKET, TCP_SOCK, XDP_SOCK))
_SIZES: Final = {Arg.IPV4_HEADER: 20, Arg.IPV6_HEADER: 40, Arg.TCP_HEADER: 20, Arg.LONG: 8, Arg.INT_PTR: 4, Arg.INT_CHANGED: 4}


def expected(env: Env, at: int, reg: Reg, names: str) -> Exception:
    """The refusal of an argument of another type than those named."""
    reason = "maybe-null" if reg.maybe_null else "argument-type"
    what = "it may be null: test it first" if reg.maybe_null else "it is a number" if reg.kind == SCALAR else f"it is a {reg.name}"
    return env.refuse(
        reason, f"R{at} type={reg.name} expected={names}", f"argument {at} must be of another kind ({names}): {what}", register=at
    )


def number(env: Env, call: Call, at: int, reg: Reg, arg: Arg) -> None:
    """A number."""
    del call, arg
    if reg.kind != SCALAR:
        raise expected(env, at, reg, "scalar")


def fixed(env: Env, call: Call, at: int, reg: Reg, arg: Arg) -> None:
    """Memory whose size the helper knows."""
    del call
    memory.kind_of_memory(env, at, reg)
    written = arg in (Arg.LONG, Arg.INT_PTR, Arg.INT_CHANGED)
    if written:
        memory.aligned(env, reg, 0, _SIZES[arg], strict=True)
    memory.given(env, at, _SIZES[arg], zero=False, write=written, raw=arg in (Arg.LONG, Arg.INT_PTR))


def socket(env: Env, call: Call, at: int, reg: Reg, arg: Arg) -> None:
    """A socket."""
    names = "sock_common, sock, tcp_sock, xdp_sock"
    kinds = _SOCKETS
    if arg in (Arg.SOCK, Arg.SOCK_OR_NULL, Arg.SOCK_RELEASED):
        names += ", ptr_, trusted_ptr_"
        kinds = _SOCKETS | {BTF_ID}
    elif arg == Arg.SOCKET_OR_NULL:
        names, kinds = "sock", frozenset((SOCKET,))
    from ebpf.engine.verifier.object_arguments import same_struct

    nullable = arg in (Arg.SOCK_OR_NULL, Arg.SOCKET_OR_NULL)
    flags = reg.flags & ~MAYBE_NULL if nullable else reg.flags
    if reg.kind not in kinds or flags & ~(TRUSTED if reg.kind == BTF_ID else 0):
        raise expected(env, at, reg, names)
    if reg.kind == BTF_ID:
        same_struct(env, at, reg, "sock_common")
    else:
        memory.fixed_offset(env, reg, at)
    if arg == Arg.SOCK_RELEASED:
        release(env, call, at, reg)


def release(env: Env, call: Call, at: int, reg: Reg) -> None:
    """What the call gives back."""
    if not reg.ref:
        raise env.refuse(
            "reference-misuse",
            f"R{at} must be referenced when passed to release function",
            "only what was acquired can be given back",
            register=at,
        )
    call.released = reg.ref
    call.released_any = True


def function(env: Env, call: Call, at: int, reg: Reg, arg: Arg) -> None:
    """A function of the program."""
    del arg
    if reg.kind != FUNC:
        raise expected(env, at, reg, "func")
    call.function = reg.uid


def stack_pointer(env: Env, call: Call, at: int, reg: Reg, arg: Arg) -> None:
    """A pointer to the stack."""
    del call, arg
    if reg.kind != STACK:
        raise expected(env, at, reg, "fp")


def lock(env: Env, call: Call, at: int, reg: Reg, arg: Arg) -> None:
    """A lock in a map's value: taken or given back."""
    del arg
    field(env, at, reg, "bpf_spin_lock")
    if call.row.name == "spin_lock":
        locks.take(env, reg)
    else:
        locks.give_back(env, reg)


def timer(env: Env, call: Call, at: int, reg: Reg, arg: Arg) -> None:
    """A timer in a map's value."""
    del arg
    field(env, at, reg, "bpf_timer")
    call.the_map = reg
    call.map = env.map_of(reg)
    call.timer = True


def field(env: Env, at: int, reg: Reg, name: str) -> None:
    """Check that a pointer to a map's value points to the struct `name` in it. Raises Refusal."""
    if reg.kind != MAP_VALUE or reg.flags & MAYBE_NULL:
        raise expected(env, at, reg, "map_value, ptr_" if name == "bpf_spin_lock" else "map_value")
    if reg.num.mask:
        raise env.refuse(
            "lock-misuse",
            f"R{at} doesn't have constant offset. {name} has to be at the constant offset",
            f"the {name} must be at a constant place in the map's value",
            register=at,
        )
    desc = env.map_of(reg)
    if not desc.typed:
        raise env.refuse(
            "missing-information", f"map '{desc.name}' has to have BTF in order to use {name}", f"a map with a {name} needs its types"
        )
    place = next((offset for offset, what, _ in desc.special if what == name), None)
    if place is None:
        raise env.refuse("lock-misuse", f"map '{desc.name}' has no valid {name}", f"the map's value has no {name}")
    off = reg.off + reg.num.value
    if off != place:
        raise env.refuse(
            "lock-misuse",
            f"off {off} doesn't point to 'struct {name}' that is at {place}",
            f"the {name} is at offset {place} of the map's value, not at {off}",
            register=at,
        )
