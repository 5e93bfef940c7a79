"""The stack: what is written to it byte by byte, registers spilled and filled, and memory of it that helpers are given."""

from typing import Final

from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.num import UNKNOWN
from ebpf.engine.verifier.precision import stack_note
from ebpf.engine.verifier.reg import (
    ANY,
    ANY_LINK,
    NULL,
    SCALAR,
    STACK,
    Reg,
    offset_text,
)
from ebpf.engine.verifier.state import (
    DYNPTR_BYTE,
    EMPTY,
    INVALID,
    MISC,
    SPECIAL,
    SPILL,
    ZERO_BYTE,
    Frame,
    Slot,
)

SIZE: Final = 512
_FAR: Final = 1 << 29
_MISC8: Final = bytes([MISC]) * 8
_SPILL8: Final = bytes([SPILL]) * 8


def width(reg: Reg) -> int:
    """How many bits a number takes."""
    return reg.num.umax.bit_length()


def _within(env: Env, reg: Reg, off: int, size: int, *, write: bool, helper: bool = False) -> tuple[int, int]:
    """The lowest and highest offset at which an access begins. Raises Refusal if one leaves the stack."""
    num = reg.num
    extra = " write to" if write else " read from"
    if helper and not env.rules.has("6.18"):
        extra = " indirect access to"
    at = off + reg.off
    if not num.mask:
        low = high = at + num.smin
    else:
        if num.smax >= _FAR or num.smin <= -_FAR:
            raise env.refuse(
                "stack-bounds",
                f"invalid unbounded variable-offset{extra} stack R{_register(env, reg)}",
                "the stack is reached at an offset that has no bounds",
            )
        low, high = at + num.smin, at + num.smax
    frame = env.state.frames[reg.frame]
    least = -SIZE if write or env.lenient else -8 * (max(frame.stack, default=-1) + 1)
    if low < least or high + size > 0 or size < 0 or low >= 0:
        number = _register(env, reg)
        if num.mask:
            says = f"invalid variable-offset{extra} stack R{number} var_off={offset_text(num)} off={at} size={size}"
        else:
            says = f"invalid{extra} stack R{number} off={low} size={size}"
        if low >= -SIZE and high + size <= 0 <= size:
            raise env.refuse(
                "uninitialised-stack",
                says,
                f"the stack is read at offset {low}, below all that was written to it",
                low=low,
                index=0,
                size=size,
            )
        raise env.refuse(
            "stack-bounds",
            says,
            f"the access leaves the stack of {SIZE} bytes: it reaches from offset {low} to {high + size - 1}; the stack is -{SIZE} to -1",
            register=number,
            low=low,
            high=high,
            size=size,
        )
    depth = env.depth.get(frame.start, 0)
    if -low > depth:
        env.depth[frame.start] = -low
    if env.fast_calls is not None and env.slot not in env.fast_calls.part_of:
        env.other_depth[frame.start] = max(-low, env.other_depth.get(frame.start, 0))
    return low, high


def _register(env: Env, reg: Reg) -> int:
    for at, held in enumerate(env.regs):
        if held is reg:
            return at
    return 10


def _index(low: int) -> int:
    return (-low - 1) // 8


def _bits(low: int, high: int) -> int:
    """A bit for each slot of the bytes [low, high)."""
    first, last = _index(high - 1), _index(low)
    return (1 << last + 1) - (1 << first)


# -- writing


def write(env: Env, reg: Reg, base: int, off: int, size: int, value: Reg | None, source: int) -> None:
    """Write `value` (None: something) through a pointer to the stack, in register `base`. `source` is the register it comes from, or -1."""
    low, high = _within(env, reg, off, size, write=True)
    frame = env.state.frames[reg.frame]
    if low != high:
        _write_somewhere(env, reg, frame, low, high, size, value, source)
        return
    at = _index(low)
    env.scratched = stack_note(reg.frame, at)
    old = frame.stack.get(at, EMPTY)
    if not env.code.bypass_spectre and (
        (value is not None and value.is_pointer) or any(byte not in (MISC, ZERO_BYTE) for byte in old.types[:size])
    ):
        # What was there before could be seen by a guess: a barrier follows.
        env.barriers_behind.add(env.slot)
    if not env.privileged and old.spilled and old.reg.kind != SCALAR and size != 8:
        raise env.refuse("stack-bounds", "attempt to corrupt spilled pointer on stack", "a pointer on the stack is overwritten in part")
    if (old.types[0] in SPECIAL or old.types[7] in SPECIAL) and not env.rules.old_stack:
        old = _destroy(env, reg.frame, at)
    aligned = low % 8 == 0
    if env.rules.old_stack and value is not None and value.kind == SCALAR:
        aligned = aligned and _spills_old(env, base, value, source)
    if value is not None and value.kind == SCALAR and aligned:
        fits = width(value) <= 8 * size
        spilled = value
        if fits and source >= 0 and not env.rules.old_stack:
            spilled = link(env, source)
        elif value.id:
            spilled = Reg(SCALAR, value.num)
        _spill(env, frame, at, old, spilled if fits or not spilled.id else Reg(SCALAR, spilled.num), size)
        _note(env, base, reg.frame, at)
        return
    if value is not None and value.kind != SCALAR and value.kind:
        if size != 8:
            raise env.refuse("stack-bounds", "invalid size of register spill", "a pointer is stored in part")
        if reg.frame != len(env.state.frames) - 1 and value.kind == STACK:
            raise env.refuse(
                "pointer-leak",
                "cannot spill pointers to stack into stack frame of the caller",
                "a pointer to a function's own stack would outlive the function",
            )
        _spill(env, frame, at, old, value, size)
        env.note = stack_note(reg.frame, at)
        return
    types = bytearray(_scrubbed(env, old))
    tag = MISC
    if value is not None and value.is_null:
        if source >= 0:
            env.precise(source)
        tag = ZERO_BYTE
    for byte in range(low % 8, low % 8 + size):
        types[byte] = tag
    frame.stack[at] = Slot(bytes(types))
    if size == 8:
        frame.written |= 1 << at


def _spills_old(env: Env, base: int, value: Reg, source: int) -> bool:
    """Whether 6.1 keeps a number on the stack as it is: one that something is known of, and that is not 0."""
    if value.num == UNKNOWN or value.is_null:
        return False
    if source >= 0 and base != 10:
        env.precise(source)
    return True


def _note(env: Env, base: int, frame: int, at: int) -> None:
    """Let the search for what numbers decided find this access: in 6.1 it finds what goes by r10 alone."""
    if base == 10 or not env.rules.old_stack:
        env.note = stack_note(frame, at)


def link(env: Env, source: int) -> Reg:
    """A register that is copied: a number gets an id, so that what is learnt of one is learnt of the other."""
    regs = env.regs
    reg = regs[source]
    if reg.kind == SCALAR and (reg.num.mask or reg.flags & ANY_LINK):
        if reg.flags & ANY_LINK:
            # It differs from the others by an offset; the copies are numbers of their own.
            reg = regs[source] = Reg(SCALAR, reg.num)
        if not reg.id and reg.num.mask:
            reg = Reg(SCALAR, reg.num, id=env.new_id())
            regs[source] = reg
    return reg


def _scrubbed(env: Env, old: Slot) -> bytes:
    """The bytes of a slot whose register is no more."""
    if SPILL in old.types:
        if env.rules.old_stack:
            return bytes(INVALID if byte == INVALID else MISC for byte in old.types)
        return bytes(MISC if byte == SPILL else byte for byte in old.types)
    return old.types


def _spill(env: Env, frame: Frame, at: int, old: Slot, reg: Reg, size: int) -> None:
    if size == 8:
        frame.stack[at] = Slot(_SPILL8, reg)
        frame.written |= 1 << at
        return
    types = bytearray(8)
    for byte in range(8):
        if byte < size:
            types[byte] = SPILL
        elif (old.types[byte] == ZERO_BYTE and not env.rules.old_stack) or (env.privileged and old.types[byte] == INVALID):
            types[byte] = old.types[byte]
        else:
            types[byte] = MISC
    frame.stack[at] = Slot(bytes(types), reg)


def _destroy(env: Env, frame: int, at: int) -> Slot:
    from ebpf.engine.verifier.dynptrs import destroy

    return destroy(env, frame, at)


def _write_somewhere(env: Env, reg: Reg, frame: Frame, low: int, high: int, size: int, value: Reg | None, source: int) -> None:
    """A write at an offset that is known only to lie between two: each byte may have been written, or not."""
    if not env.code.bypass_spectre:
        at = _register(env, reg)
        raise env.refuse(
            "capability",
            f"R{at} variable offset stack access prohibited for !root, var_off={offset_text(reg.num)} off={reg.off}",
            "without CAP_PERFMON the stack is reached at constant offsets alone",
        )
    zero = value is not None and value.is_null and (source >= 0 or not env.rules.old_stack)
    used = False
    for byte in range(low, high + size):
        at = _index(byte)
        old = frame.stack.get(at, EMPTY)
        within = byte % 8
        was = old.types[within]
        if was in SPECIAL and not env.rules.old_stack:
            old = _destroy(env, reg.frame, at)
            was = old.types[within]
        if zero and was == SPILL and old.reg.is_null:
            used = True
            continue
        if was == INVALID and not env.lenient:
            raise env.refuse(
                "uninitialised-stack",
                f"uninit stack in range of var-offset write prohibited for !root; insn {env.slot}, off: {byte}",
                "a write somewhere into stack that is not all initialised",
            )
        types = bytearray(_scrubbed(env, old))
        if zero and was == ZERO_BYTE:
            used = True
            types[within] = ZERO_BYTE
        else:
            types[within] = MISC
        frame.stack[at] = Slot(bytes(types))
    if used and source >= 0:
        env.precise(source)


# -- reading


def read(env: Env, reg: Reg, base: int, off: int, size: int, *, wanted: bool) -> Reg:
    """What a load from the stack gives. Raises Refusal."""
    low, high = _within(env, reg, off, size, write=False)
    frame = env.state.frames[reg.frame]
    if low != high:
        given(env, reg, base, size, zero=False, write=False, raw=False, off=off, direct=True)
        return _bytes_read(env, frame, low, high + size)
    at = _index(low)
    env.scratched = stack_note(reg.frame, at)
    held = frame.stack.get(at, EMPTY)
    env.reads_stack(reg.frame, 1 << at)
    types = held.types
    within = low % 8
    if types[0] == SPILL:
        spilled = 8
        while types[spilled - 1] != SPILL:
            spilled -= 1
        kept = held.reg
        if size == 8 and spilled == 8:
            if kept.is_pointer and not wanted and not env.privileged:
                raise env.refuse("pointer-leak", f"leaking pointer from stack off {low}", "an address would become visible")
            _note(env, base, reg.frame, at)
            return kept
        if kept.kind != SCALAR:
            raise env.refuse("stack-bounds", "invalid size of register fill", "part of a pointer is read from the stack")
        if within == 0 and (size == spilled or (size < spilled and not env.rules.old_stack)):
            _note(env, base, reg.frame, at)
            if width(kept) > 8 * size and kept.id:
                return Reg(SCALAR, kept.num)
            return kept
        zeros = spills = 0
        for byte in range(within, within + size):
            kind = types[byte]
            if kind == SPILL:
                spills += 1
            elif kind == ZERO_BYTE and not env.rules.old_stack:
                zeros += 1
            elif kind == ZERO_BYTE or (kind == INVALID and not env.lenient):
                raise _uninitialised(env, low, byte - within, size)
        if env.rules.old_stack:
            return ANY
        if spills == size and kept.is_null:
            env.note = stack_note(reg.frame, at)
            return NULL
        return NULL if zeros == size else ANY
    zeros = 0
    for byte in range(within, within + size):
        kind = types[byte]
        if kind == ZERO_BYTE:
            zeros += 1
        elif kind == MISC or (kind == INVALID and env.lenient):
            continue
        else:
            raise _uninitialised(env, low, byte - within, size)
    return NULL if zeros == size else ANY


def _uninitialised(env: Env, low: int, index: int, size: int) -> Exception:
    return env.refuse(
        "uninitialised-stack",
        f"invalid read from stack off {low}+{index} size {size}",
        f"the stack is read at offset {low + index}, where nothing was written",
        low=low,
        index=index,
        size=size,
    )


def _bytes_read(env: Env, frame: Frame, low: int, high: int) -> Reg:
    for byte in range(low, high):
        if frame.stack.get(_index(byte), EMPTY).types[byte % 8] != ZERO_BYTE:
            return ANY
    return NULL


# -- memory that is given to helpers


def given(env: Env, reg: Reg, at: int, size: int, *, zero: bool, write: bool, raw: bool, off: int = 0, direct: bool = False) -> None:
    """Check `size` bytes of stack that a helper reads, or (`write`) may write; `raw`: what is there does not matter."""
    if size == 0 and not zero:
        raise env.refuse("zero-size", "invalid zero-sized read", "the size may not be zero")
    low, high = _within(env, reg, off, size, write=write, helper=not direct)
    frame = env.state.frames[reg.frame]
    if low != high and not env.code.bypass_spectre:
        raise env.refuse(
            "capability",
            f"R{at} variable offset stack access prohibited for !root, var_off={offset_text(reg.num)}",
            "without CAP_PERFMON the stack is reached at constant offsets alone",
        )
    if size == 0:
        return
    if raw and low == high:
        for byte in range(low, high + size):
            held = frame.stack.get(_index(byte), EMPTY)
            if held.types[byte % 8] == DYNPTR_BYTE:
                raise env.refuse(
                    "stack-bounds", f"potential write to dynptr at off={byte} disallowed", "the helper would overwrite a dynptr"
                )
        _fill(env, frame, low, high + size)
        return
    mask = 0
    last = high + size
    for index in range(_index(low), _index(last - 1) - 1, -1):
        mask |= 1 << index
        first = max(low, -8 * (index + 1))
        end = min(last, -8 * index)
        held = frame.stack.get(index, EMPTY)
        if not _readable(env, held, first & 7, end - first):
            byte = next(byte for byte in range(first, end) if not _readable(env, held, byte & 7, 1))
            raise _unreadable(env, reg, at, size, low=low, high=high, byte=byte)
        if write or (env.rules.old_stack and not direct):
            # In 6.1 helpers leave nothing known of what they read.
            frame.stack[index] = _written(env, held, first & 7, end - first)
    env.reads_stack(reg.frame, mask)


def _readable(env: Env, held: Slot, first: int, count: int) -> bool:
    """Whether a helper may read `count` bytes of a slot from byte `first` on."""
    for kind in held.types[first : first + count]:
        if kind in (MISC, ZERO_BYTE) or (kind == INVALID and env.lenient):
            continue
        if kind != SPILL or (held.reg.kind != SCALAR and not env.privileged):
            return False
    return True


def _written(env: Env, held: Slot, first: int, count: int) -> Slot:
    """A slot that a helper may have written to."""
    part = held.types[first : first + count]
    if SPILL in part:
        left = _scrubbed(env, held)
        return Slot(left[:first] + _MISC8[:count] + left[first + count :])
    if part == _MISC8[:count]:
        return held
    return Slot(held.types[:first] + _MISC8[:count] + held.types[first + count :], held.reg)


def _unreadable(env: Env, reg: Reg, at: int, size: int, *, low: int, high: int, byte: int) -> Exception:
    where = f"off {low}" if low == high else f"var_off {offset_text(reg.num)}"
    return env.refuse(
        "uninitialised-stack",
        f"invalid read from stack R{at} {where}+{byte - low} size {size}",
        f"argument {at} has {size} bytes on the stack, and byte {byte - low} was never written",
        register=at,
        low=low,
        index=byte - low,
        size=size,
    )


def _fill(env: Env, frame: Frame, low: int, high: int) -> None:
    """Whatever was there, is something now."""
    for index in range(_index(high - 1), _index(low) + 1):
        first, last = max(low, -8 * (index + 1)), min(high, -8 * index)
        if last - first == 8:
            frame.stack[index] = Slot(_MISC8)
            # Linux writes it byte by byte, which does not hide earlier readers; nor do we.
            continue
        held = frame.stack.get(index, EMPTY)
        if not env.privileged and held.spilled and held.reg.kind != SCALAR:
            raise env.refuse("stack-bounds", "attempt to corrupt spilled pointer on stack", "a pointer on the stack is overwritten in part")
        types = bytearray(_scrubbed(env, held))
        for byte in range(first % 8, first % 8 + last - first):
            types[byte] = MISC
        frame.stack[index] = Slot(bytes(types))
