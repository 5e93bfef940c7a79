"""Dynptrs on the stack: made, used and given back by helpers and kernel functions; the memory that is reached through them."""

from typing import Final

from ebpf.engine.verifier import memory
from ebpf.engine.verifier.arguments import expected
from ebpf.engine.verifier.call import Call
from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.iterators import place_of
from ebpf.engine.verifier.references import acquire, release, void
from ebpf.engine.verifier.refusal import Refusal
from ebpf.engine.verifier.reg import DYNPTR, MEM, RINGBUF, STACK, Reg
from ebpf.engine.verifier.stack import write as write_stack
from ebpf.engine.verifier.state import DYNPTR_BYTE, EMPTY, INVALID, IRQ_BYTE, ITER_BYTE, MISC, Slot, Special
from ebpf.uapi import Arg

#: What dynptrs point to; those of a ring buffer must be given back.
LOCAL: Final = "local"
RING: Final = "ringbuf"
SKB: Final = "skb"
XDP: Final = "xdp"
SKB_META: Final = "skb_meta"
#: Dynptrs whose pieces are void when the packet moves.
PACKETS: Final = frozenset({SKB, XDP, SKB_META})
_KIND: Final = "dynptr"
_SLOTS: Final = 2


def destroy(env: Env, frame: int, at: int) -> Slot:
    """The slot of a dynptr, iterator or interrupt flag is overwritten: it is none any more; the slot as it is then. Raises Refusal."""
    held = env.state.frames[frame].stack[at]
    if held.types[0] in (ITER_BYTE, IRQ_BYTE):
        return Slot(bytes([MISC]) * 8)
    special = held.special
    assert special is not None
    if special.what == RING:
        raise env.refuse(
            "reference-misuse",
            "cannot overwrite referenced dynptr",
            "a dynptr of a ring buffer is overwritten that was not given back",
        )
    _clear(env, frame, at if special.first else at + 1)
    for each in env.state.frames:
        for place, reg in enumerate(each.regs):
            if _piece_of(reg, special.id):
                each.regs[place] = void(env, reg)
        for place, slot in each.stack.items():
            if _piece_of(slot.reg, special.id):
                each.stack[place] = Slot(slot.types, void(env, slot.reg))
    return Slot(bytes([INVALID]) * 8)


def _piece_of(reg: Reg, id: int) -> bool:
    return reg.kind == MEM and reg.uid == id and not reg.flags & RINGBUF


def _clear(env: Env, frame: int, first: int) -> None:
    """Nothing is in the two slots from `first` on."""
    for at in (first, first - 1):
        env.state.frames[frame].stack[at] = Slot(bytes([INVALID]) * 8)
        env.state.frames[frame].written |= 1 << at


def check(env: Env, call: Call, at: int, reg: Reg, arg: Arg) -> None:
    """An argument of a helper that is a dynptr, or becomes one."""
    if reg.kind not in (STACK, DYNPTR):
        raise expected(env, at, reg, "fp, dynptr_ptr")
    if arg == Arg.DYNPTR_UNINIT:
        begin(env, at, reg, LOCAL)
    elif arg == Arg.DYNPTR_RING_UNINIT:
        begin(env, at, reg, RING)
    elif arg == Arg.DYNPTR_RELEASED:
        _released(env, at, reg)
        call.dynptr = begun(env, at, reg, wanted=RING)
    else:
        call.dynptr = begun(env, at, reg)


def _released(env: Env, at: int, reg: Reg) -> None:
    """Check that a dynptr may be given back."""
    if reg.kind == DYNPTR:
        raise env.refuse(
            "reference-misuse", "cannot release unowned const bpf_dynptr", "a dynptr that was given to the program cannot be given back"
        )
    says = f"arg {at} is an unacquired reference"
    try:
        index = place_of(env, reg, _SLOTS, _KIND)
    except Refusal as refusal:
        refusal.says += f"\n{says}"
        raise
    held = env.state.frames[reg.frame].stack.get(index, EMPTY)
    if not (held.special is not None and held.special.ref) and not held.reg.ref:
        raise env.refuse("reference-misuse", says, f"argument {at} is given back, and was not acquired", register=at)


def begin(env: Env, at: int, reg: Reg, what: str, ref: int = 0) -> None:
    """Two slots of the stack become a dynptr; `ref` is the reference of the one that it is a copy of. Raises Refusal."""
    says = "Dynptr has to be an uninitialized dynptr"
    if reg.kind == DYNPTR and env.rules.old_stack:
        # What a callback is given may be begun anew there.
        return
    if reg.kind == DYNPTR:
        raise env.refuse("argument-type", says, f"argument {at} must be 16 bytes of the stack", register=at)
    try:
        index = place_of(env, reg, _SLOTS, _KIND)
    except Refusal as refusal:
        refusal.says += f"\n{says}"
        raise
    frame = env.state.frames[reg.frame]
    if env.rules.old_stack and any(DYNPTR_BYTE in frame.stack.get(place, EMPTY).types for place in (index, index - 1)):
        raise env.refuse("argument-type", says, f"argument {at} lies where a dynptr is")
    for each in range(_SLOTS):
        write_stack(env, reg, at, 8 * each, 8, None, -1)
    for place in (index, index - 1):
        if frame.stack.get(place, EMPTY).types[0] == DYNPTR_BYTE:
            destroy(env, reg.frame, place)
    id = env.new_id()
    if what == RING and not ref:
        ref = acquire(env)
    for each in range(_SLOTS):
        frame.stack[index - each] = Slot(bytes([DYNPTR_BYTE]) * 8, special=Special(_KIND, ref, not each, what=what, id=id))
        frame.written |= 1 << index - each


def begun(env: Env, at: int, reg: Reg, *, wanted: str = "", const: bool = True) -> Special:
    """The dynptr that an argument is, of the type `wanted` if that is said; `const`: it is not changed. Raises Refusal."""
    if reg.kind == DYNPTR:
        memory.fixed_offset(env, reg, at)
        if not const:
            raise env.refuse(
                "argument-type",
                "cannot pass pointer to const bpf_dynptr, the helper mutates it",
                f"argument {at} must be a dynptr of the program's own",
                register=at,
            )
        return Special(_KIND, 0, True, what=LOCAL, id=reg.id)
    says, cause = f"Expected an initialized dynptr as arg #{at - 1}", f"argument {at} must be a dynptr that was made, from its beginning"
    try:
        index = place_of(env, reg, _SLOTS, _KIND)
    except Refusal as refusal:
        refusal.says += f"\n{says}"
        raise
    stack = env.state.frames[reg.frame].stack
    first, second = stack.get(index, EMPTY), stack.get(index - 1, EMPTY)
    special = first.special
    if special is None or not special.first or special.kind != _KIND or second.types[0] != DYNPTR_BYTE:
        raise env.refuse("argument-type", says, cause, register=at)
    if wanted and special.what != wanted:
        raise env.refuse(
            "argument-type",
            f"Expected a dynptr of type {wanted} as arg #{at - 1}",
            f"argument {at} must be a {wanted} dynptr, it is a {special.what} one",
            register=at,
        )
    env.reads_stack(reg.frame, 3 << index - 1)
    return special


def give_back(env: Env, special: Special) -> None:
    """A dynptr's memory is given back: it, its copies and all pieces of it are void."""
    release(env, special.ref)
    for depth, frame in enumerate(env.state.frames):
        for at, held in list(frame.stack.items()):
            mine = held.special
            if mine is not None and mine.kind == _KIND and mine.ref == special.ref and mine.first:
                _clear(env, depth, at)
