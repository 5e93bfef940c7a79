"""Sections of a program: under RCU, and with preemption disabled. Nothing in them may sleep, and each must end."""

from ebpf.engine.verifier import iterators
from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.reg import MAYBE_NULL, RCU, SCALAR, UNTRUSTED, Reg
from ebpf.engine.verifier.state import Slot


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
    for inside, where in ((env.state.rcu, "rcu_read_lock region"), (env.state.preempt, "non-preemptible region")):
        if inside:
            raise env.refuse(
                "locked-call",
                f"sleepable helper bpf_{name}#{number} in {where}",
                f"bpf_{name} may sleep inside of a section that must not",
                helper=number,
            )


def left_open(env: Env, what: str) -> None:
    """The program ends. Raises Refusal if a section does not."""
    for inside, where in ((env.state.rcu, "bpf_rcu_read_lock"), (env.state.preempt, "bpf_preempt_disable")):
        if inside:
            raise env.refuse(
                "lock-misuse", f"{what} cannot be used inside {where}-ed region", f"the program ends inside of a section of {where}()"
            )
