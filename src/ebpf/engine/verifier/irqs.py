"""Interrupts that are disabled: the flag that says how they were lies on the stack, and flags are given back in the opposite order."""

from typing import Final

from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.iterators import place_of
from ebpf.engine.verifier.references import acquire
from ebpf.engine.verifier.refusal import Refusal
from ebpf.engine.verifier.reg import STACK, Reg
from ebpf.engine.verifier.stack import write as write_stack
from ebpf.engine.verifier.state import EMPTY, INVALID, IRQ_BYTE, Slot, Special

_KIND: Final = "irq"
#: The kernel functions that save a flag and those that restore it; those of locks keep to themselves.
_SAVE: Final = {"bpf_local_irq_save": "native", "bpf_res_spin_lock_irqsave": "lock"}
_RESTORE: Final = {"bpf_local_irq_restore": "native", "bpf_res_spin_unlock_irqrestore": "lock"}


def flag(env: Env, at: int, reg: Reg, name: str) -> None:
    """An interrupt flag is given to a kernel function. Raises Refusal."""
    if reg.kind != STACK:
        raise env.refuse(
            "argument-type",
            f"arg#{at - 1} doesn't point to an irq flag on stack",
            f"argument {at} of {name}() must be a flag on the stack",
            register=at,
        )
    wanted = "expected uninitialized irq flag" if name in _SAVE else "expected an initialized irq flag"
    try:
        index = place_of(env, reg, 1, "irq_flag")
    except Refusal as refusal:
        refusal.says += f"\n{wanted} as arg#{at - 1}"
        raise
    if name in _SAVE:
        _save(env, at, reg, index, _SAVE[name])
    else:
        _restore(env, at, reg, index, _RESTORE[name])


def _save(env: Env, at: int, reg: Reg, index: int, family: str) -> None:
    frame = env.state.frames[reg.frame]
    if IRQ_BYTE in frame.stack.get(index, EMPTY).types:
        raise env.refuse(
            "reference-misuse", f"expected uninitialized irq flag as arg#{at - 1}", "there is a flag already that was not restored"
        )
    write_stack(env, reg, at, 0, 8, None, -1)
    frame.stack[index] = Slot(bytes([IRQ_BYTE]) * 8, special=Special(_KIND, acquire(env, _KIND), True, what=family))
    frame.written |= 1 << index


def _restore(env: Env, at: int, reg: Reg, index: int, family: str) -> None:
    state = env.state
    frame = state.frames[reg.frame]
    special = frame.stack.get(index, EMPTY).special
    if special is None or special.kind != _KIND:
        raise env.refuse(
            "reference-misuse", f"expected an initialized irq flag as arg#{at - 1}", f"argument {at} must be a flag that was saved"
        )
    env.reads_stack(reg.frame, 1 << index)
    if special.what != family:
        raise env.refuse(
            "lock-misuse",
            f"irq flag acquired by {special.what} kfuncs cannot be restored with {family} kfuncs",
            "a flag that a lock saved is restored with that lock, others are not",
        )
    last = [held for held in state.held if held.kind == _KIND][-1]
    if last.id != special.ref:
        raise env.refuse(
            "lock-misuse",
            f"cannot restore irq state out of order, expected id={last.id} acquired at insn_idx={last.slot}",
            "the flag that was saved last must be restored first",
            acquired=last.slot,
        )
    state.held = tuple(held for held in state.held if held is not last)
    frame.stack[index] = Slot(bytes([INVALID]) * 8)
    frame.written |= 1 << index
