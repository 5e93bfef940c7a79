"""Arguments that are memory, its size, the context, and constant texts."""

from typing import Final

from ebpf.engine.verifier import memory
from ebpf.engine.verifier.arguments import expected, release
from ebpf.engine.verifier.call import Call
from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.helper_tables import NULLABLE
from ebpf.engine.verifier.references import require_unmoved
from ebpf.engine.verifier.reg import CTX, MAP_VALUE, MAYBE_NULL, MEM, RINGBUF, SCALAR, Reg
from ebpf.uapi import Arg, MapFlag

_MOST: Final = 1 << 29
_UNINIT: Final = (Arg.MEM_UNINIT, Arg.MEM_UNINIT_OR_NULL)
_WRITTEN: Final = (*_UNINIT, Arg.MEM_WRITTEN)


def check_memory(env: Env, call: Call, at: int, reg: Reg, arg: Arg) -> None:
    """The memory itself is checked with its size, which is the next argument."""
    del call, arg
    memory.kind_of_memory(env, at, reg)


def check_size(env: Env, call: Call, at: int, reg: Reg, arg: Arg) -> None:
    """The size of the memory that is the argument before."""
    zero = arg == Arg.SIZE_OR_ZERO
    if reg.kind != SCALAR:
        raise expected(env, at, reg, "scalar")
    assert call.row.args is not None
    before = call.row.args[at - 2]
    bounded(env, at, reg, zero=zero)
    num = reg.num
    call.most = num.umax
    pointer = env.regs[at - 1]
    if pointer.is_null and before in NULLABLE:
        if num.umax:
            raise expected(env, at - 1, pointer, "fp")
    else:
        memory.given(env, at - 1, num.umax, zero=zero, write=before in _WRITTEN, raw=before in _UNINIT and not num.mask)
    env.precise(at)


def bounded(env: Env, at: int, reg: Reg, *, zero: bool) -> None:
    """Check that a size has bounds. Raises Refusal."""
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


def check_context(env: Env, call: Call, at: int, reg: Reg, arg: Arg) -> None:
    """The context."""
    del call, arg
    if reg.kind != CTX or reg.flags & MAYBE_NULL:
        raise expected(env, at, reg, "ctx")
    memory.fixed_offset(env, reg, at)


def check_alloc_size(env: Env, call: Call, at: int, reg: Reg, arg: Arg) -> None:
    """A constant size of memory to reserve."""
    del arg
    if reg.kind != SCALAR:
        raise expected(env, at, reg, "scalar")
    if reg.num.mask:
        raise env.refuse("argument-type", f"R{at} is not a known constant'", "the size to reserve must be a constant", register=at)
    call.alloc = reg.num.value
    env.precise(at)


def check_alloc(env: Env, call: Call, at: int, reg: Reg, arg: Arg) -> None:
    """Memory that was reserved, to be given back."""
    del arg
    if reg.kind != MEM or not reg.flags & RINGBUF or reg.flags & MAYBE_NULL:
        raise expected(env, at, reg, "ringbuf_mem")
    require_unmoved(env, at, reg)
    release(env, call, at, reg)


def check_string(env: Env, call: Call, at: int, reg: Reg, arg: Arg) -> None:
    """A constant text in a read-only map."""
    del call, arg
    constant_text(env, at, reg)


def constant_text(env: Env, at: int, reg: Reg) -> None:
    """Check that a register points to a constant text. Raises Refusal."""
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
