"""Functions of the program that a helper runs: so many times, or not at all, or later."""

from ebpf.engine.verifier.call import Call
from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.functions import FRAMES
from ebpf.engine.verifier.kernel_types import named, object_of
from ebpf.engine.verifier.refusal import Unjudged
from ebpf.engine.verifier.reg import ANY, DYNPTR, MAP_KEY, MAP_PTR, MAP_VALUE, NOTHING, STACK, Reg
from ebpf.engine.verifier.state import Frame, State


def run(env: Env, call: Call, before: list[Reg]) -> tuple[int, State] | None:
    """The way on into the function that a helper runs, if it runs it once more. `before` are the registers of the call."""
    name, state = call.row.name, env.state
    if name == "timer_set_callback":
        assert call.the_map is not None
        # A timer's function must not sleep, whatever runs it; older Linux lets it where the program may.
        return later(env, call.function, call.the_map, sleepable=env.state.sleepable and not env.rules.timers_stay_awake)
    caller = state.frames[-1]
    if name == "for_each_map_elem" and not env.rules.any_map and env.call_map.get(env.slot, 0) == -1:
        raise env.refuse("argument-type", "tail_call abusing map_ptr", "one call goes through the elements of different maps")
    if name == "loop":
        after = caller.regs
        caller.regs = before
        if before[4].is_null:
            # Linux makes a plain loop of it then.
            env.precise(4)
        env.precise(1)
        caller.regs = after
        if caller.called_back >= before[1].num.umax:
            caller.called_back = 0
            return None
    other = state.copy()
    other.history = (state.history, env.slot, None)
    other.unrolled += 1
    frame = other.frames[-1]
    frame.regs = before
    inner = _frame(env, name, call.function, frame, call.the_map)
    frame.called_back += 1
    env.enter(inner)
    other.frames.append(inner)
    caller.called_back = 0
    return call.function, other


def later(env: Env, function: int, the_map: Reg, *, sleepable: bool, returns: tuple[int, int] = (0, 0)) -> tuple[int, State]:
    """The way on into a function that is run later, apart from the program: it has the map, a key and the value.

    What is proved of the way here does not wait for it, so that it may have itself run again.
    """
    env.structure.called_later.add(function)
    frame = Frame(function, [NOTHING, *_element(the_map), *[NOTHING] * 6, Reg(STACK)], {}, -1)
    frame.callback = True
    frame.asynchronous = True
    frame.callback_range = returns
    env.begin(frame)
    other = State([frame], sleepable=sleepable)
    other.history = (env.state.history, env.slot, None)
    other.unrolled = env.state.unrolled + 1
    return function, other


def _element(the_map: Reg) -> list[Reg]:
    """The registers of a function that is given an element of a map."""
    return [Reg(kind, fd=the_map.fd, uid=the_map.uid) for kind in (MAP_PTR, MAP_KEY, MAP_VALUE)]


def _frame(env: Env, name: str, target: int, caller: Frame, the_map: Reg | None) -> Frame:
    """The frame in which a helper runs a function of the program."""
    if len(env.state.frames) >= FRAMES:
        raise env.refuse(
            "stack-total",
            f"the call stack of {len(env.state.frames) + 1} frames is too deep",
            f"functions call each other more than {FRAMES} deep",
        )
    regs = [NOTHING] * 10 + [Reg(STACK, frame=len(env.state.frames))]
    if name == "loop":
        regs[1], regs[2] = ANY, caller.regs[3]
    elif name == "for_each_map_elem":
        if the_map is None:
            raise Unjudged(f"callbacks of bpf_{name}", env.slot)
        regs[1:4] = _element(the_map)
        regs[4] = caller.regs[3]
    elif name == "user_ringbuf_drain":
        regs[1] = Reg(DYNPTR, id=env.new_id())
        regs[2] = caller.regs[3]
    elif name == "find_vma":
        regs[1] = caller.regs[1]
        regs[2] = object_of(env, named(env, "vm_area_struct"), 0)
        regs[3] = caller.regs[4]
    else:
        raise Unjudged(f"callbacks of bpf_{name}", env.slot)
    frame = Frame(target, regs, {}, env.slot)
    frame.callback = True
    frame.callback_range = (0, 1)
    return frame
