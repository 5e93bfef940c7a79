"""Loads and stores: what a pointer may reach, and what comes back."""

from typing import Final

from ebpf.engine.verifier import context, stack
from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.num import S32_MAX, S32_MIN, S64_MIN, cast, sign_extend, sized
from ebpf.engine.verifier.refusal import Unjudged
from ebpf.engine.verifier.reg import (
    ANY,
    ARENA,
    BTF_ID,
    BUF,
    CTX,
    FLOW_KEYS,
    MAP_KEY,
    MAP_PTR,
    MAP_VALUE,
    MAYBE_NULL,
    MEM,
    PACKET,
    PACKET_END,
    PACKET_META,
    RDONLY,
    SCALAR,
    SOCK_COMMON,
    SOCKET,
    STACK,
    TCP_SOCK,
    TP_BUFFER,
    TRUSTED,
    UNTRUSTED,
    VOID_PACKET,
    XDP_SOCK,
    Reg,
    constant,
    number,
    offset_text,
)
from ebpf.uapi import CONTEXTS, MapFlag, MapType, ProgType
from ebpf.uapi.prog_types import WRITES_PACKETS

MAX_OFFSET: Final = 1 << 29
_SOCKETS: Final = frozenset((SOCKET, SOCK_COMMON, TCP_SOCK, XDP_SOCK))
_SPECIAL: Final = frozenset((CTX, *_SOCKETS, BTF_ID, ARENA))
#: Loads from these may be one instruction: one that reads zero where nothing is.
_PROBED: Final = frozenset((BTF_ID, MEM))
_DESCRIPTIONS: Final = {
    FLOW_KEYS: "flow keys ",
    MAP_KEY: "key ",
    MAP_VALUE: "value ",
    CTX: "context ",
    STACK: "stack ",
    SOCKET: "sock ",
    SOCK_COMMON: "sock_common ",
    TCP_SOCK: "tcp_sock ",
    XDP_SOCK: "xdp_sock ",
}


def access(
    env: Env, at: int, off: int, size: int, *, write: bool, value: Reg | None, source: int = -1, signed: bool = False, atomic: bool = False
) -> Reg:
    """Check an access of `size` bytes through register `at`; what a load gives. `value` is what a store writes."""
    reg = env.regs[at]
    aligned(env, reg, off, size, strict=atomic)
    start = off + reg.off
    kind = reg.kind
    result = ANY
    if kind == STACK:
        if write:
            stack.write(env, reg, at, off, size, value, source)
            return ANY
        result = stack.read(env, reg, at, off, size, wanted=value is None or not atomic)
        return _narrowed(result, size, env, signed=signed)
    if reg.flags & MAYBE_NULL or kind in (SCALAR, MAP_PTR, PACKET_END) or kind == 0:
        if kind == MAP_PTR and not reg.flags & MAYBE_NULL:
            return _load_map(env, reg, at, start, size, write=write)
        raise invalid(env, reg, at)
    if kind == MAP_VALUE:
        if write:
            _leak(env, value, at, "map", source)
        _map_rights(env, reg, at, off, size, write=write)
        _map_value(env, reg, at, off, size)
        if not write and not reg.num.mask:
            known = _constant(env, reg, start, size)
            if known is not None:
                result = constant(known)
                return _narrowed(result, size, env, signed=signed)
    elif kind == CTX:
        if write:
            _leak(env, value, at, "ctx", source)
        return _context(env, reg, at, off, size, write=write, signed=signed)
    elif kind in (PACKET, PACKET_META):
        if write:
            if env.code.prog_type not in WRITES_PACKETS:
                raise env.refuse("read-only", "cannot write into packet", "programs of this type may not write to packets")
            _leak(env, value, at, "packet", source)
        _packet(env, reg, at, start, size)
    elif kind == MEM:
        if write and reg.flags & RDONLY:
            raise env.refuse("read-only", f"R{at} cannot write into {reg.name}", "this memory may only be read")
        if write:
            _leak(env, value, at, "mem", source)
        if reg.flags & UNTRUSTED:
            env.btf_loads.add(env.slot)
        else:
            region(env, reg, at, off, size, reg.size)
    elif kind == MAP_KEY:
        if write:
            raise env.refuse("read-only", f"write to change key R{at} not allowed", "a map's keys may only be read")
        region(env, reg, at, off, size, env.map_of(reg).key_size)
    elif kind in _SOCKETS:
        if write:
            raise env.refuse("read-only", f"R{at} cannot write into {reg.name}", "a socket may only be read")
        _socket(env, reg, at, off, size)
    elif kind == FLOW_KEYS:
        if start < 0 or start + size > 56:
            raise env.refuse("out-of-bounds", f"invalid access to flow keys off={start} size={size}", "the access leaves the flow keys")
    elif kind == BTF_ID:
        from ebpf.engine.verifier.kernel_types import load_object

        result = load_object(env, reg, at, off, size, write=write)
        return _narrowed(result, size, env, signed=signed)
    elif kind == TP_BUFFER:
        if start < 0:
            raise env.refuse(
                "out-of-bounds",
                f"R{at} invalid tracepoint buffer access: off={start}, size={size}",
                "the access leaves the tracepoint's buffer",
            )
        if reg.num.mask or reg.num.value:
            raise env.refuse(
                "out-of-bounds",
                f"R{at} invalid variable buffer offset: off={start}, var_off={offset_text(reg.num)}",
                "a tracepoint's buffer is reached at constant offsets alone",
            )
    elif kind == BUF:
        if write and reg.flags & RDONLY:
            raise env.refuse("read-only", f"R{at} cannot write into {reg.name}", "this memory may only be read")
        if start < 0 or reg.num.mask or reg.num.value:
            raise env.refuse("out-of-bounds", f"R{at} invalid rdwr buffer access: off={start}, size={size}", "the access leaves the buffer")
    elif kind != ARENA:
        raise invalid(env, reg, at)
    if write:
        return ANY
    if signed:
        return _narrowed(ANY, size, env, signed=True)
    return number(sized(size))


def _narrowed(reg: Reg, size: int, env: Env, *, signed: bool) -> Reg:
    if reg.kind != SCALAR or size == 8:
        return reg
    num = sign_extend(reg.num, size, env.rules) if signed else cast(reg.num, size, env.rules)
    if num is reg.num or num == reg.num:
        return reg
    return Reg(SCALAR, num, reg.off, reg.id, reg.flags)


def invalid(env: Env, reg: Reg, at: int) -> Exception:
    """The refusal of memory that is reached through what is no pointer, or maybe none."""
    says = f"R{at} invalid mem access '{reg.name}'"
    if reg.flags & MAYBE_NULL:
        return env.refuse("maybe-null", says, f"r{at} may be null here: test it before it is used", register=at)
    if reg is VOID_PACKET:
        return env.refuse("packet-void", says, f"r{at} pointed into the packet, and a helper has moved the packet since", register=at)
    cause = "an address must be a pointer; this is a number" if reg.kind == SCALAR else f"a {reg.name} is no memory to reach through"
    return env.refuse("not-a-pointer", says, cause, register=at)


def same_kind(env: Env, kind: int, *, load: bool = False) -> None:
    """Context, socket and kernel pointers are rewritten where they are used: an instruction may not use them and others."""
    before = env.pointer_kinds.get(env.slot)
    if before is None:
        env.pointer_kinds[env.slot] = kind
    elif before != kind and (before in _SPECIAL or kind in _SPECIAL):
        if load and env.rules.untrusted_leaves and {before, kind} <= _PROBED:
            return
        raise env.refuse(
            "mixed-pointers",
            "same insn cannot be used with different pointers",
            "the same access means the context or a kernel object on one path and other memory on another",
        )


def _leak(env: Env, value: Reg | None, at: int, where: str, source: int) -> None:
    if value is not None and value.is_pointer and not env.privileged:
        raise env.refuse("pointer-leak", f"R{at} leaks addr into {where}", "an address would be stored where others can read it")
    del source


def aligned(env: Env, reg: Reg, off: int, size: int, *, strict: bool) -> None:
    """Check that an access is aligned, where it must be. Raises Refusal."""
    kind = reg.kind
    if size == 1 or (kind != STACK and not strict and not env.code.strict_alignment):
        return
    num = reg.num
    if kind in (PACKET, PACKET_META):
        align = 2
        total = num.value + reg.off + off + align
        if total & (size - 1) or num.mask & (size - 1):
            raise env.refuse(
                "misaligned",
                f"misaligned packet access off {align}+{offset_text(num)}+{reg.off}+{off} size {size}",
                f"{size} bytes of the packet are reached at an address that is no multiple of {size}",
            )
        return
    total = num.value + reg.off + off
    if total & (size - 1) or num.mask & (size - 1):
        what = _DESCRIPTIONS.get(kind, "")
        raise env.refuse(
            "misaligned",
            f"misaligned {what}access off {offset_text(num)}+{reg.off}+{off} size {size}",
            f"{size} bytes are reached at an offset that is no multiple of {size}",
        )


# -- memory with bounds


def _outside(env: Env, reg: Reg, at: int, off: int, size: int, whole: int) -> str:
    if reg.kind == MAP_KEY:
        return f"invalid access to map key, key_size={whole} off={off} size={size}"
    if reg.kind == MAP_VALUE:
        return f"invalid access to map value, value_size={whole} off={off} size={size}"
    if reg.kind in (PACKET, PACKET_META, PACKET_END):
        return f"invalid access to packet, off={off} size={size}, R{at}(id={reg.id},off={off},r={whole})"
    return f"invalid access to memory, mem_size={whole} off={off} size={size}"


def region(env: Env, reg: Reg, at: int, off: int, size: int, whole: int, *, zero: bool = False) -> None:
    """Check that `size` bytes at `off` from a pointer lie in memory of `whole` bytes. Raises Refusal."""
    num = reg.num
    start = reg.off + off
    what = {MAP_VALUE: "map value", MAP_KEY: "map key"}.get(reg.kind, "memory")
    facts = {"register": at, "whole": whole, "size": size, "low": start + num.smin, "high": start + num.umax}
    fits = size > 0 or zero
    if num.smin < 0 and (num.smin == S64_MIN or not S32_MIN <= start + num.smin <= S32_MAX or num.smin + start < 0):
        raise env.refuse(
            "out-of-bounds",
            f"R{at} min value is negative, either use unsigned index or do a if (index >=0) check.",
            f"the offset in r{at} may be negative (as low as {num.smin})",
            **facts,
        )
    low = start + num.smin
    if low < 0 or not fits or low + size > whole:
        raise env.refuse(
            "out-of-bounds",
            _outside(env, reg, at, low, size, whole) + f"\nR{at} min value is outside of the allowed memory range",
            f"bytes {low} to {low + size - 1} are reached in a {what} of {whole} bytes",
            **facts,
        )
    if num.umax >= MAX_OFFSET:
        raise env.refuse(
            "unbounded-offset",
            f"R{at} unbounded memory access, make sure to bounds check any such access",
            f"the offset in r{at} has no upper bound: compare it before the access",
            **facts,
        )
    high = start + num.umax
    if high < 0 or high + size > whole:
        raise env.refuse(
            "out-of-bounds",
            _outside(env, reg, at, high, size, whole) + f"\nR{at} max value is outside of the allowed memory range",
            f"the access may reach byte {high + size - 1} of a {what} of {whole} bytes",
            **facts,
        )


def _map_value(env: Env, reg: Reg, at: int, off: int, size: int, *, zero: bool = False, helper: bool = False) -> None:
    desc = env.map_of(reg)
    region(env, reg, at, off, size, desc.value_size, zero=zero)
    for field, what, width in desc.special:
        low, high = reg.off + off + reg.num.smin, reg.off + off + reg.num.umax + size
        if low < field + width and field < high:
            raise env.refuse(
                "read-only",
                f"{what} cannot be accessed directly by load/store" if not helper else f"{what} cannot be accessed indirectly by helper",
                f"{what} in the map's value may only be used by its helpers",
            )


def _map_rights(env: Env, reg: Reg, at: int, off: int, size: int, *, write: bool) -> None:
    desc = env.map_of(reg)
    rights = desc.flags
    text = f"value_size={desc.value_size} off={off} size={size}"
    if write and rights & MapFlag.RDONLY_PROG:
        raise env.refuse("read-only", f"write into map forbidden, {text}", "the map is read-only for programs", register=at)
    if not write and rights & MapFlag.WRONLY_PROG:
        raise env.refuse("read-only", f"read from map forbidden, {text}", "the map is write-only for programs", register=at)


def _constant(env: Env, reg: Reg, start: int, size: int) -> int | None:
    """What a frozen read-only map has there: its contents are constants."""
    desc = env.map_of(reg)
    if not desc.frozen or not desc.flags & MapFlag.RDONLY_PROG or desc.type != MapType.ARRAY or desc.content is None:
        return None
    at = start + reg.num.value
    return int.from_bytes(desc.content[at : at + size], "little")


def _packet(env: Env, reg: Reg, at: int, start: int, size: int, *, zero: bool = False) -> None:
    """Only the fixed offset counts: what was proved came after the variable part was added."""
    facts = {"register": at, "start": start, "size": size, "proved": max(reg.rng, 0), "id": reg.id}
    if reg.num.smin < 0:
        raise env.refuse(
            "out-of-bounds",
            f"R{at} min value is negative, either use unsigned index or do a if (index >=0) check.",
            f"the offset in r{at} may be negative",
            **facts,
        )
    if reg.rng < 0 or start < 0 or (size <= 0 and not zero) or start + size > reg.rng:
        reason = "packet-moved" if reg.id and not reg.rng else "packet-short" if reg.rng > 0 else "packet-unproved"
        text = "" if reg.rng < 0 else _outside(env, reg, at, start, size, reg.rng) + "\n"
        raise env.refuse(
            reason,
            f"{text}R{at} offset is outside of the packet",
            f"bytes {start} to {start + size - 1} of the packet are needed, {max(reg.rng, 0)} are proved to be there: "
            "compare with data_end first",
            **facts,
        )


# -- other memory


def _context(env: Env, reg: Reg, at: int, off: int, size: int, *, write: bool, signed: bool) -> Reg:
    fixed_offset(env, reg, at)
    result = context.access(env, reg, at, off + reg.off, size, write=write, signed=signed)
    if write:
        return ANY
    return _narrowed(result, size, env, signed=signed) if result.kind == SCALAR else result


def fixed_offset(env: Env, reg: Reg, at: int, *, movable: bool = False) -> None:
    """Check that a pointer was not moved, or (`movable`) only by constants that are not negative."""
    num = reg.num
    facts = {"register": at, "offset": reg.off}
    if reg.off < 0:
        raise env.refuse(
            "context-access",
            f"negative offset {reg.name} ptr R{at} off={reg.off} disallowed",
            f"the {reg.name} pointer in r{at} was moved to before its beginning",
            **facts,
        )
    if reg.off and not movable:
        raise env.refuse(
            "context-access",
            f"dereference of modified {reg.name} ptr R{at} off={reg.off} disallowed",
            f"the {reg.name} pointer in r{at} was moved: use it as it is, and put the offset into the access",
            **facts,
        )
    if num.mask or num.value:
        raise env.refuse(
            "context-access",
            f"variable {reg.name} access var_off={offset_text(num)} disallowed",
            f"the {reg.name} is reached at an offset that is not constant",
            **facts,
        )


_SOCK_CONTEXT: Final = {SOCKET: "bpf_sock", SOCK_COMMON: "bpf_sock", TCP_SOCK: "bpf_tcp_sock", XDP_SOCK: "bpf_xdp_sock"}
#: What only a full socket has; where dst_port is, of which old programs read 4 bytes.
_FULL_FIELDS: Final = frozenset({"type", "protocol", "mark", "priority"})
_DST_PORT: Final = 48


def _socket(env: Env, reg: Reg, at: int, off: int, size: int) -> None:
    if reg.num.smin < 0:
        raise env.refuse(
            "out-of-bounds",
            f"R{at} min value is negative, either use unsigned index or do a if (index >=0) check.",
            f"the offset in r{at} may be negative",
        )
    start = reg.off + off
    good = False
    for field in CONTEXTS[_SOCK_CONTEXT[reg.kind]].fields:
        if field.offset <= start and start + size <= field.offset + field.size and start % size == 0:
            good = field.narrow or (start == field.offset and size == field.size)
            good = good and not (reg.kind == SOCK_COMMON and field.name in _FULL_FIELDS)
            break
    if start == _DST_PORT and size == 4 and reg.kind in (SOCKET, SOCK_COMMON):
        good = True
    if not good:
        raise env.refuse(
            "context-access",
            f"R{at} invalid {reg.name} access off={start} size={size}",
            f"a {reg.name} has nothing that may be read so at offset {start}",
        )


def _load_map(env: Env, reg: Reg, at: int, start: int, size: int, *, write: bool) -> Reg:
    from ebpf.engine.verifier.kernel_types import load_map

    return load_map(env, reg, at, start, size, write=write)


# -- memory that a helper is given


_GIVEN: Final = frozenset((STACK, PACKET, PACKET_META, MAP_KEY, MAP_VALUE, MEM, BUF))
#: What 6.1 takes for a map's key or value.
_ELEMENTS: Final = frozenset((STACK, PACKET, PACKET_META, MAP_KEY, MAP_VALUE))
_ELEMENT_NAMES: Final = "fp, pkt, pkt_meta, map_key, map_value"
_GIVEN_NAMES: Final = "fp, pkt, pkt_meta, map_key, map_value, mem, ringbuf_mem, buf, trusted_ptr_"


def kind_of_memory(env: Env, at: int, reg: Reg, *, element: bool = False) -> None:
    """Check that a register points to memory that helpers take; `element`: as a map's key or value. Raises Refusal."""
    kinds, names = (_ELEMENTS, _ELEMENT_NAMES) if element and not env.rules.trust else (_GIVEN, _GIVEN_NAMES)
    if reg.flags & MAYBE_NULL or not (reg.kind in kinds or (reg.kind == BTF_ID and reg.flags & TRUSTED)):
        from ebpf.engine.verifier.arguments import expected

        raise expected(env, at, reg, names)


def given(env: Env, at: int, size: int, *, zero: bool, write: bool, raw: bool) -> None:
    """Check `size` bytes of memory that a helper gets in register `at` to read or (`write`) to fill.

    `raw`: what was there before does not matter.
    """
    reg = env.regs[at]
    kind = reg.kind
    if kind in (PACKET, PACKET_META):
        if write and env.code.prog_type not in WRITES_PACKETS:
            raise env.refuse("read-only", "helper access to the packet is not allowed", "the helper would write to the packet")
        _packet(env, reg, at, reg.off, size, zero=zero)
        return
    if kind == MAP_KEY:
        if write:
            raise env.refuse("read-only", f"R{at} cannot write into {reg.name}", "a map's keys may only be read")
        region(env, reg, at, 0, size, env.map_of(reg).key_size, zero=zero)
        return
    if kind == MAP_VALUE:
        _map_rights(env, reg, at, reg.off, size, write=write)
        _map_value(env, reg, at, 0, size, zero=zero, helper=True)
        return
    if kind == MEM:
        if write and reg.flags & RDONLY:
            raise env.refuse("read-only", f"R{at} cannot write into {reg.name}", "this memory may only be read")
        region(env, reg, at, 0, size, reg.size, zero=zero)
        return
    if kind == STACK:
        stack.given(env, reg, at, size, zero=zero, write=write, raw=raw)
        return
    if kind == CTX and env.code.prog_type == ProgType.SYSCALL:
        return
    if kind == BUF:
        if write and reg.flags & RDONLY:
            raise env.refuse("read-only", f"R{at} cannot write into {reg.name}", "this memory may only be read")
        return
    if kind == BTF_ID and reg.flags & TRUSTED and size and not write:
        from ebpf.engine.verifier.kernel_types import load_object

        load_object(env, reg, at, 0, size, write=False)
        return
    if kind == BTF_ID and not reg.flags & MAYBE_NULL:
        raise Unjudged("kernel objects that a helper writes to", env.slot)
    if zero and not size and reg.is_null:
        return
    raise env.refuse(
        "argument-type",
        f"R{at} type={reg.name} expected=fp",
        f"argument {at} must point to memory, it is {'possibly null' if reg.maybe_null else 'a number'}",
        register=at,
    )
