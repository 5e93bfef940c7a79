"""The ends of functions and programs: what may be returned, and that nothing is left behind."""

from ebpf.engine.verifier import loops, targets
from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.helper_tables import FIXED_ONE
from ebpf.engine.verifier.num import S64_MAX, S64_MIN, U64, Num
from ebpf.engine.verifier.reg import ANY, SCALAR, STACK, Reg
from ebpf.engine.verifier.sections import nothing_left
from ebpf.engine.verifier.state import State
from ebpf.uapi import PROGRAM_TYPES, AttachType, ProgType


def leave(env: Env, state: State) -> int:
    """The end of a function or of the program; where to go on, or -1. Raises Refusal."""
    if not env.rules.locked_calls and any(held.kind == "lock" for held in state.held):
        raise env.refuse("lock-misuse", "bpf_spin_unlock is missing", "a function ends with a lock held")
    if len(state.frames) > 1:
        return _return(env, state)
    frame = state.frames[0]
    nothing_left(env, "BPF_EXIT instruction in main prog", "the program ends")
    if frame.asynchronous:
        _in_range(env, env.readable(0), frame.callback_range or (0, 0), "At async callback return")
        return -1
    code = env.code
    reg = ANY if code.returns_nothing or targets.needs_no_result(env) else env.readable(0)
    if reg.is_pointer and not env.privileged:
        raise env.refuse("pointer-leak", "R0 leaks addr as return value", "the program would return an address")
    if frame.start and frame.start != env.on_exception:
        if reg.kind != SCALAR:
            raise env.refuse(
                "return-value",
                f"At subprogram exit the register R0 is not a scalar value ({reg.name})",
                "a global function must return a number",
            )
        return -1
    allowed = _allowed(env)
    if allowed is not None:
        _in_range(env, reg, allowed, "At program exit", half=code.prog_type == ProgType.LSM)
    return -1


def thrown(env: Env) -> None:
    """An exception ends the program: nothing may be left behind, in no function. Raises Refusal."""
    allowed = _allowed(env)
    if env.on_exception < 0 and allowed is not None:
        # Then what is thrown is what the program returns.
        _in_range(env, env.readable(1), allowed, "At program exit", at=1)
    nothing_left(env, "bpf_throw", "an exception ends the program")


def at_once(env: Env, result: Reg, after: Reg) -> tuple[int, State]:
    """The running function returns `result` in the middle: where that goes on, and the state in which it does not, with `after` in r0."""
    state = env.state
    other = state.copy()
    other.history = (state.history, env.slot, None)
    other.frames[-1].regs[0] = after
    env.leave()
    back = state.frames.pop().back
    state.frames[-1].regs[0] = result
    return back + 1, other


def _in_range(env: Env, reg: Reg, allowed: tuple[int, int], where: str, *, at: int = 0, half: bool = False) -> None:
    """Check what is returned; of `half` a number the low 32 bits matter."""
    if reg.kind != SCALAR:
        raise env.refuse("return-value", f"{where} the register R{at} is not a known value ({reg.name})", "the program returns a pointer")
    if not env.rules.old_bounds:
        env.precise(at)
    num = reg.num
    low, high = (num.smin32, num.smax32) if half and env.rules.hook_ranges else (num.smin, num.smax)
    if allowed[0] <= low and high <= allowed[1]:
        return
    note = "\nNote, BPF_LSM_CGROUP that attach to void LSM hooks can't modify return value!" if half and targets.lets_hook_be(env) else ""
    raise env.refuse(
        "return-value",
        f"{where} the register R{at} has {_outside(env, num, *allowed)}{note}",
        f"the program may return {num.smin} to {num.smax}; only {allowed[0]} to {allowed[1]} mean something",
        low=num.smin,
        high=num.smax,
        allowed=allowed,
    )


def _outside(env: Env, num: Num, low: int, high: int) -> str:
    """What a number is and what it should have been; 6.1 shows both by their bits."""
    if env.rules.old_bounds:
        unknown = (1 << (low ^ high).bit_length()) - 1
        what = f"value ({num.value:#x}; {num.mask:#x})" if num.mask < U64 else "unknown scalar value"
        return f"{what} should have been in ({low & ~unknown:#x}; {unknown:#x})"
    known = (f" smin={num.smin}" if num.smin > S64_MIN else "") + (f" smax={num.smax}" if num.smax < S64_MAX else "")
    return f"{known[1:] or 'unknown scalar value'} should have been in [{low}, {high}]"


def _return(env: Env, state: State) -> int:
    env.leave()
    frame = state.frames[-1]
    result = frame.regs[0]
    if result.kind == STACK:
        raise env.refuse("pointer-leak", "cannot return stack pointer to the caller", "a function returns a pointer to its own stack")
    if frame.callback:
        result = env.readable(0)
        if result.kind != SCALAR:
            raise env.refuse("return-value", "R0 not a scalar value", "a callback must return a number")
        env.precise(0)
        low, high = frame.callback_range or (0, 1)
        if not (low <= result.num.smin and result.num.smax <= high):
            num = result.num
            raise env.refuse(
                "return-value",
                f"At callback return the register R0 has {_outside(env, num, low, high)}",
                f"a callback may return {num.smin} to {num.smax}; only {low} to {high} mean something",
            )
        state.frames.pop()
        loops.widen(frame.back, state, state.parent)
        return frame.back
    state.frames.pop()
    state.frames[-1].regs[0] = result
    return frame.back + 1


def _allowed(env: Env) -> tuple[int, int] | None:
    """What a program may return; None if anything."""
    kind, attach = ProgType(env.code.prog_type), env.code.attach_type
    if kind == ProgType.LSM:
        return targets.hook_returns(env)
    if kind == ProgType.CGROUP_SOCK_ADDR:
        if attach in FIXED_ONE:
            return (1, 1)
        if attach in (AttachType.CGROUP_INET4_BIND, AttachType.CGROUP_INET6_BIND):
            return (0, 3)
        return (0, 1)
    if kind == ProgType.CGROUP_SKB:
        return (0, 3) if attach == AttachType.CGROUP_INET_EGRESS else (0, 1)
    if kind == ProgType.KPROBE and env.rules.has("6.13"):
        return (0, 1) if attach in (AttachType.TRACE_KPROBE_SESSION, AttachType.TRACE_UPROBE_SESSION) else None
    if kind == ProgType.TRACING:
        if attach in (AttachType.TRACE_FENTRY, AttachType.TRACE_FEXIT):
            return (0, 0)
        return (0, 1) if attach == AttachType.TRACE_ITER else None
    if kind == ProgType.SOCK_OPS:
        return (0, 1)
    if kind == ProgType.NETFILTER:
        return (0, 1)
    return PROGRAM_TYPES[kind].returns
