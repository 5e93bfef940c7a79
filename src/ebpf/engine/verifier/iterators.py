"""Open-coded iterators on the stack: begun, advanced and ended by kernel functions."""

from ebpf.engine.verifier import loops
from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.kernel_types import in_rcu
from ebpf.engine.verifier.references import acquire, release
from ebpf.engine.verifier.reg import MAYBE_NULL, NULL, RCU, UNTRUSTED, Reg
from ebpf.engine.verifier.stack import write as write_stack
from ebpf.engine.verifier.state import EMPTY, INVALID, ITER_BYTE, Frame, Slot, Special, State
from ebpf.uapi.kfuncs import Says

ACTIVE, DRAINED = 0, 1
_KIND = "iter"


def place_of(env: Env, reg: Reg, slots: int, what: str) -> int:
    """The index of the first slot of an object on the stack. Raises Refusal."""
    if reg.num.mask:
        raise env.refuse("argument-type", f"{what} has to be at a constant offset", f"the {what} must lie at a constant place on the stack")
    off = reg.off + reg.num.smin
    index = (-off - 1) // 8
    if off % 8 or index + 1 < slots or off >= 0:
        raise env.refuse("argument-type", f"cannot pass in {what} at an offset={off}", f"the {what} does not begin at offset {off}")
    return index


def begin(env: Env, at: int, reg: Reg, what: str, slots: int, says: Says) -> None:
    """An iterator `what` begins in `slots` slots of the stack."""
    index = place_of(env, reg, slots, _KIND)
    frame = env.state.frames[reg.frame]
    if any(ITER_BYTE in frame.stack.get(index - each, EMPTY).types for each in range(slots)):
        raise env.refuse(
            "reference-misuse", f"expected uninitialized iter_{what} as arg #{at - 1}", "there is an iterator already that was not ended"
        )
    for each in range(slots):
        write_stack(env, reg, at, 8 * each, 8, None, -1)
    trust = 0
    if says & Says.RCU_PROTECTED:
        trust = RCU if in_rcu(env) else UNTRUSTED
    ref = acquire(env)
    for each in range(slots):
        special = Special(_KIND, ref if not each else 0, not each, ACTIVE, what=what, trust=trust)
        frame.stack[index - each] = Slot(bytes([ITER_BYTE]) * 8, special=special)
        frame.written |= 1 << index - each


def begun(env: Env, at: int, reg: Reg, what: str, slots: int, name: str) -> int:
    """Check that an iterator `what` lies there; the index of its first slot. Raises Refusal."""
    wrong = env.refuse(
        "reference-misuse",
        f"expected an initialized iter_{what} as arg #{at - 1}",
        f"argument {at} must be an iterator that was begun",
    )
    if reg.num.mask:
        raise wrong
    index = place_of(env, reg, slots, _KIND)
    frame = env.state.frames[reg.frame]
    mask = 0
    for each in range(slots):
        held = frame.stack.get(index - each, EMPTY)
        special = held.special
        if special is not None and special.trust == UNTRUSTED:
            raise env.refuse("lock-misuse", f"expected an RCU CS when using {name}", "the iterator needs an RCU section around it")
        if special is None or special.kind != _KIND or special.what != what or special.first != (not each):
            raise wrong
        mask |= 1 << index - each
    env.reads_stack(reg.frame, mask)
    return index


def end(env: Env, reg: Reg, index: int, slots: int) -> None:
    """An iterator ends."""
    frame = env.state.frames[reg.frame]
    special = frame.stack[index].special
    assert special is not None
    release(env, special.ref)
    for each in range(slots):
        frame.stack[index - each] = Slot(bytes([INVALID]) * 8)
        frame.written |= 1 << index - each


def advance(env: Env, reg: Reg, index: int, slots: int) -> State | None:
    """The next element: here the iterator is drained; returned is the state in which there was one."""
    state = env.state
    special = state.frames[reg.frame].stack[index].special
    assert special is not None
    turn = None
    if special.state == ACTIVE:
        turn = state.copy()
        turn.history = (state.history, env.slot, None)
        _set(turn.frames[reg.frame], index, slots, ACTIVE, special.depth + 1)
        assert state.parent is not None
        loops.widen(env.slot, turn, state.parent.parent)
        element = turn.frames[-1].regs[0]
        turn.frames[-1].regs[0] = Reg(
            element.kind,
            element.num,
            id=element.id,
            flags=element.flags & ~MAYBE_NULL,
            size=element.size,
            ref=element.ref,
            btf=element.btf,
            type_id=element.type_id,
        )
    _set(state.frames[reg.frame], index, slots, DRAINED, special.depth)
    state.frames[-1].regs[0] = NULL
    return turn


def _set(frame: Frame, index: int, slots: int, state: int, depth: int) -> None:
    del slots
    held = frame.stack[index]
    old = held.special
    assert old is not None
    special = Special(old.kind, old.ref, old.first, state, depth, old.what, trust=old.trust)
    frame.stack[index] = Slot(held.types, special=special)


def leave_rcu(frame: Frame) -> None:
    """An RCU section ended: its iterators cannot be used any more."""
    for at, held in frame.stack.items():
        old = held.special
        if old is not None and old.trust == RCU:
            special = Special(old.kind, old.ref, old.first, old.state, old.depth, old.what, trust=UNTRUSTED)
            frame.stack[at] = Slot(held.types, special=special)


def depths_differ(old: State, new: State) -> bool:
    """Whether an iterator that is active was advanced since."""
    for a, b in zip(old.frames, new.frames, strict=False):
        for at, held in a.stack.items():
            special = held.special
            if special is None or not special.first or special.kind != _KIND or special.state != ACTIVE:
                continue
            other = b.stack.get(at, EMPTY).special
            if other is not None and other.depth != special.depth:
                return True
    return False


def is_active(frame: Frame, index: int) -> bool:
    """Whether the iterator in a slot has elements left."""
    special = frame.stack.get(index, EMPTY).special
    return special is not None and special.state == ACTIVE
