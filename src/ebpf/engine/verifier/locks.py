"""Locks: which are held, and that they are given back in order. Resilient ones may not be had, and more than one may be held."""

from typing import Final

from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.reg import Reg
from ebpf.engine.verifier.state import Held

_KIND: Final = "lock"
#: The structs in a map's value that are locks.
LOCKS: Final = ("bpf_spin_lock", "bpf_res_spin_lock")
PLAIN: Final = "bpf_spin"
RESILIENT: Final = "bpf_res_spin"
#: The same, with interrupts disabled.
RESILIENT_IRQ: Final = "bpf_res_spin irq"
#: The kernel functions of resilient locks: those that take one, and those that give it back.
TAKES: Final = {"bpf_res_spin_lock": RESILIENT, "bpf_res_spin_lock_irqsave": RESILIENT_IRQ}
GIVES_BACK: Final = {"bpf_res_spin_unlock": RESILIENT, "bpf_res_spin_unlock_irqrestore": RESILIENT_IRQ}
FUNCTIONS: Final = frozenset({*TAKES, *GIVES_BACK})


def held(env: Env) -> list[Held]:
    """The locks that are held, the one that was taken last at the end."""
    return [one for one in env.state.held if one.kind == _KIND]


def _is(one: Held, reg: Reg) -> bool:
    return one.id == reg.id and one.what[1:] == (reg.fd, reg.uid)


def take(env: Env, reg: Reg, family: str = PLAIN) -> None:
    """A lock is taken. Raises Refusal if it must not be."""
    before = held(env)
    if family == PLAIN and before:
        raise env.refuse("lock-misuse", "Locking two bpf_spin_locks are not allowed", "a lock is held already")
    if any(one.what[0] != PLAIN and _is(one, reg) for one in before):
        raise env.refuse("lock-misuse", "Acquiring the same lock again, AA deadlock detected", "this lock is held already")
    env.state.held = (*env.state.held, Held(reg.id, env.slot, _KIND, (family, reg.fd, reg.uid)))


def give_back(env: Env, reg: Reg, family: str = PLAIN) -> None:
    """A lock is given back. Raises Refusal if it is not held, or another was taken since."""
    says = family.partition(" ")[0]
    before = held(env)
    if not before:
        raise env.refuse("lock-misuse", f"{says}_unlock without taking a lock", "no lock is held")
    if not any(one.what[0] == family and _is(one, reg) for one in before):
        raise env.refuse("lock-misuse", f"{says}_unlock of different lock", "another lock is held than the one that is given back")
    if not _is(before[-1], reg):
        raise env.refuse("lock-misuse", f"{says}_unlock cannot be out of order", "the lock that was taken last must be given back first")
    env.state.held = tuple(one for one in env.state.held if one is not before[-1])
