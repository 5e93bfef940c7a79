"""The context of a program: which of its fields may be read and written, and what comes of it."""

from typing import Final

from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.num import sized
from ebpf.engine.verifier.refusal import Refusal
from ebpf.engine.verifier.reg import (
    FLOW_KEYS,
    MAYBE_NULL,
    PACKET,
    PACKET_END,
    PACKET_META,
    SOCK_COMMON,
    SOCKET,
    TP_BUFFER,
    TRUSTED,
    Reg,
    number,
)
from ebpf.uapi import CONTEXTS, PROGRAM_TYPES, AttachType, FieldKind, ProgType

_POINTER: Final = {FieldKind.PACKET: PACKET, FieldKind.PACKET_END: PACKET_END, FieldKind.PACKET_META: PACKET_META}
#: C names of a program type's context besides the struct of contexts.py.
CONTEXT_NAMES: Final = {
    ProgType.KPROBE: ("bpf_user_pt_regs_t", "pt_regs"),
    ProgType.PERF_EVENT: ("bpf_perf_event_data",),
    ProgType.RAW_TRACEPOINT: ("bpf_raw_tracepoint_args",),
    ProgType.RAW_TRACEPOINT_WRITABLE: ("bpf_raw_tracepoint_args",),
}
_TRACEPOINT_BYTES: Final = 8192
_BY_BTF: Final = frozenset({ProgType.TRACING, ProgType.LSM, ProgType.STRUCT_OPS, ProgType.EXT})
_SYSCALL_BYTES: Final = 65535


def access(env: Env, reg: Reg, at: int, off: int, size: int, *, write: bool, signed: bool) -> Reg:
    """Check an access of `size` bytes at `off` of the context; what a load gives. Raises Refusal."""
    kind = ProgType(env.code.prog_type)
    if env.ctx_access.setdefault(env.slot, (off, size)) != (off, size):
        raise env.refuse(
            "context-access",
            f"dereference of modified ctx ptr R{at} off={off} disallowed",
            "the same instruction reads different fields of the context on different paths",
        )
    if kind in _BY_BTF:
        from ebpf.engine.verifier.kernel_types import argument

        return argument(env, off, size, write=write)
    if kind == ProgType.SYSCALL:
        if off < 0 or off + size > _SYSCALL_BYTES:
            raise _bad(env, off, size)
        return number(sized(size))
    row = PROGRAM_TYPES[kind]
    context = CONTEXTS.get(row.context)
    if kind == ProgType.NETFILTER and not write and size == 8 and off in (0, 8):
        return _kernel_object(env, "sk_buff" if off else "nf_hook_state")
    if context is None:
        if kind == ProgType.TRACEPOINT and not write and off >= 0 and off + size <= _TRACEPOINT_BYTES and off % size == 0:
            return number(sized(size))
        raise _bad(env, off, size)
    if context.words:
        if not write and off >= 0 and off + size <= context.size and size == 8 and off % 8 == 0:
            if kind == ProgType.RAW_TRACEPOINT_WRITABLE and off == 0:
                return Reg(TP_BUFFER)
            return number(sized(8))
        raise _bad(env, off, size)
    for field in context.fields:
        if not (field.offset <= off and off + size <= field.offset + field.size):
            continue
        if (
            (field.since and not env.rules.has(field.since))
            or field.name in row.hidden
            or (field.name == "egress_ifindex" and env.code.attach_type != AttachType.XDP_DEVMAP)
        ):
            break
        if write:
            allowed = field.writable and (field.name in row.writes if row.writes is not None else True)
            if allowed and size == field.size:
                return number(sized(size))
            break
        if field.kind in _POINTER:
            if off != field.offset or size != field.size or signed:
                break
            return Reg(_POINTER[field.kind])
        if field.kind == FieldKind.POINTER:
            return _pointer(env, field.name, off, size, field.offset, field.size)
        if off % size or (size < field.size and not field.narrow):
            break
        return number(sized(size))
    if _array(env, context.name, off, size, write=write):
        return number(sized(size))
    raise _bad(env, off, size)


def kernel_context(env: Env) -> frozenset[str]:
    """The names of the struct that programs of this type have for a context."""
    kind = ProgType(env.code.prog_type)
    return frozenset({PROGRAM_TYPES[kind].context, *CONTEXT_NAMES.get(kind, ())}) - {""}


#: Fields that lie side by side and may be reached in other widths than one's: (from, to, widths of loads, of stores).
_ARRAYS: Final = {
    "__sk_buff": ((48, 68, (1, 2, 4, 8), (1, 2, 4, 8), "cb0"),),
    "bpf_sock_addr": ((8, 24, (1, 2, 4, 8), (4, 8), "user_ip6_0"), (44, 60, (1, 2, 4, 8), (4, 8), "msg_src_ip6_0")),
    "bpf_sock": ((48, 52, (4,), (), "dst_port"),),
    "bpf_sk_lookup": ((36, 40, (1, 2, 4), (), "remote_port"),),
}


def _array(env: Env, name: str, off: int, size: int, *, write: bool) -> bool:
    row = PROGRAM_TYPES[ProgType(env.code.prog_type)]
    for low, high, loads, stores, field in _ARRAYS.get(name, ()):
        if low <= off and off + size <= high and (off - low) % min(size, 4) == 0 and size in (stores if write else loads):
            # 8 bytes must not straddle what the kernel keeps apart.
            if size == 8 and off % 8:
                return False
            return field not in row.hidden and (not write or row.writes is None or field in row.writes)
    return False


def _pointer(env: Env, name: str, off: int, size: int, start: int, width: int) -> Reg:
    if off != start or size != width:
        raise _bad(env, off, size)
    if name == "sk":
        kind = (
            SOCKET
            if env.code.prog_type
            in (
                ProgType.SOCK_OPS,
                ProgType.SK_MSG,
                ProgType.SK_LOOKUP,
                ProgType.CGROUP_SOCKOPT,
                ProgType.CGROUP_SOCK_ADDR,
                ProgType.SK_REUSEPORT,
            )
            else SOCK_COMMON
        )
        nullable = kind == SOCK_COMMON or env.code.prog_type in (ProgType.SOCK_OPS, ProgType.SK_LOOKUP)
        return Reg(kind, id=env.new_id() if nullable else 0, flags=MAYBE_NULL if nullable else 0)
    if name == "migrating_sk":
        return Reg(SOCK_COMMON, id=env.new_id(), flags=MAYBE_NULL)
    if name == "flow_keys":
        return Reg(FLOW_KEYS)
    raise _bad(env, off, size)


def _kernel_object(env: Env, name: str) -> Reg:
    from ebpf.engine.verifier.kernel_types import named, object_of

    return object_of(env, named(env, name), TRUSTED)


def _bad(env: Env, off: int, size: int) -> Refusal:
    row = PROGRAM_TYPES[ProgType(env.code.prog_type)]
    context = CONTEXTS.get(row.context)
    near = ""
    if context is not None and context.fields:
        field = min(context.fields, key=lambda f: abs(f.offset - off))
        near = f"; the nearest field is {field.name} (offset {field.offset}, {field.size} bytes)"
    name = f"struct {row.context}" if row.context else "the context"
    return env.refuse(
        "context-access",
        f"invalid bpf_context access off={off} size={size}",
        f"{name} has nothing that may be used so at offset {off}, {size} bytes{near}",
        offset=off,
        size=size,
        context=row.context,
    )
