"""Sections of a program: under RCU, with preemption or interrupts disabled. Nothing in them may sleep, and each must end."""

from ebpf.engine.verifier import iterators
from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.reg import MAYBE_NULL, RCU, SCALAR, UNTRUSTED, Reg
from ebpf.engine.verifier.state import Slot, State


def rcu(env: Env, name: str, *, sleeps: bool) -> None:
    """A kernel function is called that may begin or end an RCU section. Raises Refusal."""
    state = env.state
    begins, ends = name == "bpf_rcu_read_lock", name == "bpf_rcu_read_unlock"
    if state.rcu:
        if begins:
            raise env.refuse("lock-misuse", f"nested rcu read lock (kernel function {name})", "an RCU section begins inside of another")
        if sleeps:
            raise env.refuse(
                "locked-call",
                f"kernel func {name} is sleepable within rcu_read_lock region",
                f"{name}() may sleep inside of an RCU section",
            )
        if ends:
            state.rcu = 0
            _leave_rcu(env)
    elif begins:
        state.rcu = 1
    elif ends:
        raise env.refuse("lock-misuse", f"unmatched rcu read unlock (kernel function {name})", "an RCU section ends that did not begin")


def _leave_rcu(env: Env) -> None:
    """What RCU kept alive may be gone."""
    for frame in env.state.frames:
        for at, reg in enumerate(frame.regs):
            if reg.flags & RCU and reg.kind != SCALAR:
                frame.regs[at] = _doubtful(reg)
        for index, held in frame.stack.items():
            if held.reg.flags & RCU and held.reg.kind != SCALAR:
                frame.stack[index] = Slot(held.types, _doubtful(held.reg))
        iterators.leave_rcu(frame)


def _doubtful(reg: Reg) -> Reg:
    return reg.flagged(reg.flags & ~(RCU | MAYBE_NULL) | UNTRUSTED)


def irq(env: Env, name: str) -> None:
    """A kernel function is called that may sleep. Raises Refusal where interrupts are disabled."""
    if in_irq(env.state):
        raise env.refuse(
            "locked-call",
            f"kernel func {name} is sleepable within IRQ-disabled region",
            f"{name}() may sleep where interrupts are disabled",
        )


def in_irq(state: State) -> bool:
    """Whether interrupts are disabled."""
    return any(held.kind == "irq" for held in state.held)


def preempt(env: Env, name: str, *, sleeps: bool) -> None:
    """A kernel function is called that may disable or enable preemption. Raises Refusal."""
    state = env.state
    if name == "bpf_preempt_disable":
        state.preempt += 1
    elif name == "bpf_preempt_enable":
        if not state.preempt:
            raise env.refuse(
                "lock-misuse",
                f"unmatched attempt to enable preemption (kernel function {name})",
                "preemption is enabled that was not disabled",
            )
        state.preempt -= 1
    elif state.preempt and sleeps:
        raise env.refuse(
            "locked-call",
            f"kernel func {name} is sleepable within non-preemptible region",
            f"{name}() may sleep where preemption is disabled",
        )


def helper_sleeps(env: Env, name: str, number: int) -> None:
    """A helper that may sleep is called. Raises Refusal inside of a section."""
    state = env.state
    sections = ((state.rcu, "rcu_read_lock region"), (state.preempt, "non-preemptible region"), (in_irq(state), "IRQ-disabled region"))
    for inside, where in sections:
        if inside:
            raise env.refuse(
                "locked-call",
                f"sleepable helper bpf_{name}#{number} in {where}",
                f"bpf_{name} may sleep inside of a section that must not",
                helper=number,
            )


def nothing_left(env: Env, where: str, what: str) -> None:
    """The program may end at `where`, as `what` says. Raises Refusal if something is held, or a section was not left."""
    state = env.state
    if any(held.kind == "lock" for held in state.held):
        raise env.refuse("lock-misuse", f"{where} cannot be used inside bpf_spin_lock-ed region", f"{what} with a lock held")
    for held in state.held:
        if held.kind == "ref":
            raise env.refuse(
                "leaked-reference",
                f"Unreleased reference id={held.id} alloc_insn={held.slot}\n{where} would lead to reference leak",
                f"{what}, and what was acquired was not given back",
                acquired=held.slot,
            )
    sections = ((in_irq(state), "bpf_local_irq_save"), (state.rcu, "bpf_rcu_read_lock"), (state.preempt, "bpf_preempt_disable"))
    for inside, begins in sections:
        if inside:
            raise env.refuse(
                "lock-misuse", f"{where} cannot be used inside {begins}-ed region", f"{what} inside of a section of {begins}()"
            )
