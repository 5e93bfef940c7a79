"""Kernel objects known by BTF: arguments of tracing programs, and what is read through pointers to kernel structs."""

from typing import Final

from ebpf.btf import Btf, Kind
from ebpf.btf.types import COMPOSITE, Type
from ebpf.engine.verifier import targets
from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.num import S32_MAX, S32_MIN, U32, U64, cast, settle, sized
from ebpf.engine.verifier.refusal import Refusal, Unjudged
from ebpf.engine.verifier.reg import (
    ANY,
    BTF_ID,
    BUF,
    MAP_PTR,
    MAYBE_NULL,
    MEM,
    PERCPU,
    RCU,
    RDONLY,
    SOCK_COMMON,
    SOCKET,
    TCP_SOCK,
    TRUSTED,
    UNTRUSTED,
    USER,
    Reg,
    number,
    offset_text,
)
from ebpf.engine.verifier.struct_walk import POINTER, NoFieldError, is_number, read, tag_of
from ebpf.uapi import AttachType, MapType, ProgType
from ebpf.uapi.tracing import (
    ERROR_ARGUMENTS,
    ITERATORS,
    NULL_ARGUMENTS,
    OBJECT,
    READ_BUFFER,
    TRUSTED_OBJECT,
    UNTRUSTED_HOOKS,
)

_MOST_ARGUMENTS: Final = 12
_PREFIXES: Final = {AttachType.TRACE_ITER: "bpf_iter_", AttachType.LSM_MAC: "bpf_lsm_", AttachType.LSM_CGROUP: "bpf_lsm_"}
_AFTER: Final = frozenset({AttachType.TRACE_FEXIT, AttachType.LSM_MAC, AttachType.LSM_CGROUP, AttachType.MODIFY_RETURN})
#: The kernel's structs behind pointers that have a kind of their own.
STRUCT_OF: Final = {SOCKET: "sock", SOCK_COMMON: "sock_common", TCP_SOCK: "tcp_sock", MAP_PTR: "bpf_map"}
_MAP_STRUCTS: Final = {
    "bpf_htab": (MapType.HASH, MapType.PERCPU_HASH, MapType.LRU_HASH, MapType.LRU_PERCPU_HASH, MapType.HASH_OF_MAPS),
    "bpf_array": (
        MapType.ARRAY,
        MapType.PERCPU_ARRAY,
        MapType.ARRAY_OF_MAPS,
        MapType.PROG_ARRAY,
        MapType.PERF_EVENT_ARRAY,
        MapType.CGROUP_ARRAY,
    ),
    "bpf_ringbuf_map": (MapType.RINGBUF, MapType.USER_RINGBUF),
    "lpm_trie": (MapType.LPM_TRIE,),
    "bpf_queue_stack": (MapType.QUEUE, MapType.STACK),
    "bpf_stack_map": (MapType.STACK_TRACE,),
    "bpf_dtab": (MapType.DEVMAP, MapType.DEVMAP_HASH),
    "bpf_cpu_map": (MapType.CPUMAP,),
    "xsk_map": (MapType.XSKMAP,),
    "bpf_stab": (MapType.SOCKMAP,),
    "bpf_shtab": (MapType.SOCKHASH,),
    "reuseport_array": (MapType.REUSEPORT_SOCKARRAY,),
    "bpf_local_storage_map": (MapType.SK_STORAGE, MapType.INODE_STORAGE, MapType.TASK_STORAGE, MapType.CGRP_STORAGE),
    "bpf_cgroup_storage_map": (MapType.CGROUP_STORAGE, MapType.PERCPU_CGROUP_STORAGE),
    "bpf_bloom_filter": (MapType.BLOOM_FILTER,),
    "bpf_arena": (MapType.ARENA,),
}
_STRUCT_OF_MAP: Final = {kind: name for name, kinds in _MAP_STRUCTS.items() for kind in kinds}
#: Program types that may write to some fields of kernel structs.
_WRITE_STRUCTS: Final = frozenset({ProgType.XDP, ProgType.SCHED_CLS, ProgType.SCHED_ACT, ProgType.STRUCT_OPS})


def kernel(env: Env) -> Btf:
    """The kernel's types. Raises Unjudged where they are not known."""
    if env.code.kernel_btf is None:
        raise Unjudged(
            f"kernel objects without the types of Linux {env.rules.name}",
            env.slot,
            f"the types of Linux {env.rules.name} are needed to judge kernel objects (ebpf verify --btf FILE)",
        )
    return env.code.kernel_btf


def named(env: Env, name: str) -> int:
    """The id of a kernel struct in the kernel's BTF. Raises Unjudged if the kernel has none."""
    found = kernel(env).find(name, Kind.STRUCT)
    if found is None:
        raise Unjudged(f"struct {name}, which is not among the kernel's types", env.slot)
    return found.id


def trusted(reg: Reg) -> bool:
    """Whether a pointer surely points to a living object."""
    if reg.ref:
        return True
    if reg.kind in STRUCT_OF:
        return not reg.flags & ~TRUSTED
    return bool(reg.flags & TRUSTED) and not reg.flags & ~TRUSTED


def in_rcu(env: Env) -> bool:
    """Whether objects under RCU cannot go away here."""
    return env.state.rcu > 0 or not env.state.sleepable


# -- arguments


def argument(env: Env, off: int, size: int, *, write: bool) -> Reg:
    """What a load of the context of a tracing program gives. Raises Refusal."""
    code = env.code
    if code.prog_type in (ProgType.STRUCT_OPS, ProgType.EXT):
        raise Unjudged("struct_ops programs" if code.prog_type == ProgType.STRUCT_OPS else "freplace programs", env.slot)
    if write or off < 0 or off >= 8 * _MOST_ARGUMENTS or off % size or off % 8:
        raise _no_argument(env, off, size)
    btf = kernel(env)
    prototype = _prototype(env, btf)
    members = prototype.members[1:] if code.attach_type == AttachType.TRACE_RAW_TP else prototype.members
    at = off // 8
    if at > len(members) or (at == len(members) and code.attach_type not in _AFTER):
        raise _no_argument(env, off, size)
    row = btf.resolve(members[at].type_id if at < len(members) else prototype.ref)
    if at == len(members) and code.attach_type == AttachType.LSM_MAC and env.rules.hook_ranges and is_number(row):
        low, high = targets.hook_returns(env) or (S32_MIN, S32_MAX)
        return number(cast(settle(0, U64, low, high, 0, U64, low, high, 0, U32, env.rules), size, env.rules))
    if is_number(row) or row.kind in COMPOSITE:
        return number(sized(size))
    if row.kind != Kind.PTR or (size != 8 and env.rules.trust):
        raise _no_argument(env, off, size)
    return _pointer(env, btf, row, at, off, members[at].name if at < len(members) else "")


def _no_argument(env: Env, off: int, size: int) -> Refusal:
    return env.refuse(
        "context-access",
        f"invalid bpf_context access off={off} size={size}",
        f"'{env.code.attach_to}' has no argument that may be read so at offset {off}, {size} bytes",
        offset=off,
        size=size,
        context="",
    )


def _prototype(env: Env, btf: Btf) -> Type:
    """The function that the program is attached to, as its type."""
    code = env.code
    name = code.attach_to
    if not name:
        raise Unjudged("programs whose target is not known", env.slot)
    attach = AttachType(code.attach_type)
    if attach == AttachType.TRACE_RAW_TP:
        own = btf.find(f"__bpf_trace_{name}", Kind.FUNC)
        if own is not None:
            return btf.type(own.ref)
        made = btf.find(f"btf_trace_{name}", Kind.TYPEDEF)
        if made is not None:
            return btf.type(btf.resolve(made.ref).ref)
    else:
        found = btf.find(_PREFIXES.get(attach, "") + name, Kind.FUNC)
        if found is not None:
            return btf.type(found.ref)
    raise Unjudged(f"'{name}', which is not among the kernel's types", env.slot)


def _pointer(env: Env, btf: Btf, row: Type, at: int, off: int, name: str) -> Reg:
    """An argument that is a pointer."""
    code = env.code
    attach = code.attach_type
    given = ITERATORS.get(code.attach_to, {}).get(off, "") if attach == AttachType.TRACE_ITER else ""
    if attach == AttachType.TRACE_ITER and code.attach_to not in ITERATORS:
        raise Unjudged(f"iterators over {code.attach_to}", env.slot)
    if given and given not in (OBJECT, TRUSTED_OBJECT):
        return Reg(BUF, id=env.new_id(), flags=MAYBE_NULL | (RDONLY if given == READ_BUFFER else 0))
    target = btf.resolve(row.ref)
    if target.kind in (Kind.VOID, Kind.INT):
        return number(sized(8))
    if target.kind not in COMPOSITE:
        raise _no_argument(env, off, 8)
    if given:
        return object_of(env, target.id, MAYBE_NULL | (TRUSTED if given == TRUSTED_OBJECT else 0))
    flags = tag_of(btf, row) & (USER | PERCPU)
    if attach in (AttachType.TRACE_RAW_TP, AttachType.TRACE_ITER) or (
        code.prog_type == ProgType.LSM and code.attach_to not in UNTRUSTED_HOOKS
    ):
        flags |= TRUSTED
    if name.endswith("__nullable") and env.rules.trust:
        flags |= MAYBE_NULL
    if attach == AttachType.TRACE_RAW_TP and env.rules.trust:
        if at in ERROR_ARGUMENTS.get(code.attach_to, ()):
            return number(sized(8))
        if at in NULL_ARGUMENTS.get(code.attach_to, ()):
            flags |= MAYBE_NULL
    return object_of(env, target.id, flags)


def object_of(env: Env, type_id: int, flags: int, ref: int = 0, id: int = 0) -> Reg:
    """A pointer to a kernel object; one that may be null gets an id."""
    if not env.rules.trust:
        flags &= ~(TRUSTED | RCU)
    if flags & MAYBE_NULL and not id:
        id = env.new_id()
    return Reg(BTF_ID, id=id, flags=flags, ref=ref, btf=kernel(env), type_id=type_id)


# -- loads


def load_object(env: Env, reg: Reg, at: int, off: int, size: int, *, write: bool) -> Reg:
    """What a load through a pointer to a kernel struct gives. Raises Refusal."""
    btf = reg.btf
    assert btf is not None
    name = btf.type(reg.type_id).name
    start = off + reg.off
    if not env.privileged:
        raise env.refuse(
            "capability",
            f"'struct {name}' access is allowed only to CAP_PERFMON and CAP_SYS_ADMIN",
            f"struct {name} of the kernel may only be read with CAP_PERFMON",
        )
    if not env.code.gpl:
        raise env.refuse(
            "licence",
            f"Cannot access kernel 'struct {name}' from non-GPL compatible program",
            "kernel structs are for programs with a GPL-compatible licence",
        )
    if start < 0:
        raise env.refuse(
            "out-of-bounds", f"R{at} is ptr_{name} invalid negative access: off={start}", f"struct {name} is read before its beginning"
        )
    if reg.num.mask or reg.num.value:
        raise env.refuse(
            "out-of-bounds",
            f"R{at} is ptr_{name} invalid variable offset: off={start}, var_off={offset_text(reg.num)}",
            f"struct {name} is read at an offset that is not constant",
        )
    for flag, what in ((USER, "user memory"), (PERCPU, "percpu memory")):
        if reg.flags & flag:
            raise env.refuse(
                "not-a-pointer",
                f"R{at} is ptr_{name} access {what}: off={start}",
                f"struct {name} is {what}: it needs a helper to be read",
                register=at,
            )
    if write:
        if env.code.prog_type in _WRITE_STRUCTS and not reg.flags & UNTRUSTED:
            raise Unjudged("writes to kernel structs", env.slot)
        raise env.refuse("read-only", "only read is supported", f"struct {name} of the kernel may only be read")
    result = _field(env, btf, reg, start, size)
    env.btf_loads.add(env.slot)
    return result


def _field(env: Env, btf: Btf, reg: Reg, start: int, size: int) -> Reg:
    try:
        found = read(btf, reg.type_id, start, size)
    except NoFieldError as error:
        raise env.refuse(
            "out-of-bounds",
            str(error),
            f"the kernel's struct has nothing that may be read so at offset {start}, {size} bytes",
            offset=start,
            size=size,
        ) from None
    if found.kind != POINTER:
        return number(sized(size)) if size < 8 else ANY
    if not found.type_id:
        if env.rules.untrusted_leaves:
            return Reg(MEM, flags=RDONLY | UNTRUSTED)
        return number(sized(size))
    return object_of(env, found.type_id, _inherited(env, btf, reg, found.type_id, found.flags, found.field))


def _inherited(env: Env, btf: Btf, reg: Reg, type_id: int, flags: int, field: str) -> int:
    """How far a pointer that was read from an object is to be trusted."""
    if reg.flags & UNTRUSTED:
        return UNTRUSTED
    if not (trusted(reg) or reg.flags & RCU):
        return flags & ~(UNTRUSTED | RCU)
    if _listed(btf, reg, type_id, field, "__safe_trusted"):
        return flags | TRUSTED
    if _listed(btf, reg, type_id, field, "__safe_trusted_or_null"):
        return flags | TRUSTED | MAYBE_NULL
    if in_rcu(env) and not reg.flags & MAYBE_NULL:
        if _listed(btf, reg, type_id, field, "__safe_rcu"):
            return flags | RCU
        listed = _listed(btf, reg, type_id, field, "__safe_rcu_or_null")
        if flags & RCU or listed:
            return (flags & ~UNTRUSTED if listed else flags) | RCU | MAYBE_NULL
        if flags & (PERCPU | USER):
            return flags
        return flags & ~(UNTRUSTED | RCU)
    return UNTRUSTED


def _listed(btf: Btf, reg: Reg, type_id: int, field: str, suffix: str) -> bool:
    """Whether the kernel lists a field as trusted: its types say so by a struct of the same name with a suffix."""
    row = btf.type(reg.type_id)
    listed = btf.find(row.name + suffix, row.kind)
    if listed is None:
        return False
    for member in listed.members:
        pointer = btf.type(member.type_id)
        if member.name == field and pointer.kind == Kind.PTR and btf.resolve(pointer.ref).id == type_id:
            return True
    return False


def load_map(env: Env, reg: Reg, at: int, start: int, size: int, *, write: bool) -> Reg:
    """What a load through a pointer to a map gives: a field of the kernel's struct of the map. Raises Refusal."""
    desc = env.map_of(reg)
    name = _STRUCT_OF_MAP.get(MapType(desc.type), "")
    if not name:
        raise Unjudged(f"fields of maps of type {MapType(desc.type).name.lower()}", env.slot)
    if not env.privileged:
        raise env.refuse(
            "capability",
            f"'struct {name}' access is allowed only to CAP_PERFMON and CAP_SYS_ADMIN",
            "a map's own fields may only be read with CAP_PERFMON",
        )
    if start < 0:
        raise env.refuse(
            "out-of-bounds", f"R{at} is {name} invalid negative access: off={start}", f"struct {name} is read before its beginning"
        )
    if write:
        raise env.refuse("read-only", f"only read from {name} is supported", "a map's own fields may only be read")
    plain = Reg(BTF_ID, btf=kernel(env), type_id=named(env, name))
    result = _field(env, kernel(env), plain, start, size)
    env.btf_loads.add(env.slot)
    return result


__all__ = ["argument", "in_rcu", "kernel", "load_map", "load_object", "named", "object_of", "trusted"]
