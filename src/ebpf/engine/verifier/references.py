"""References: what was acquired and must be given back, and pointers that are void."""

from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.reg import ANY, MEM, NOTHING, PACKET, PACKET_END, PACKET_META, PIECE, VOID_PACKET, Reg
from ebpf.engine.verifier.state import Held, Slot


def acquire(env: Env, kind: str = "ref") -> int:
    """A new reference, held from now on."""
    id = env.new_id()
    env.state.held = (*env.state.held, Held(id, env.slot, kind))
    return id


def require_unmoved(env: Env, at: int, reg: Reg) -> None:
    """Insist that an argument is what was acquired, and not a place beside it. Raises Refusal."""
    if reg.off or reg.num.mask or reg.num.value:
        raise env.refuse(
            "reference-misuse",
            f"R{at} must have zero offset when passed to release func or trusted arg to kfunc",
            "what is given back must be what was acquired, not moved",
            register=at,
        )


def release(env: Env, ref: int) -> None:
    """Give a reference back: what points to it cannot be used any more, wherever it was copied to."""
    state = env.state
    if not any(held.id == ref for held in state.held):
        raise env.refuse("reference-misuse", "reference has not been acquired before", "what is given back was not acquired")
    state.held = tuple(held for held in state.held if held.id != ref)
    for frame in state.frames:
        for at, reg in enumerate(frame.regs):
            if reg.ref == ref:
                frame.regs[at] = void(env, reg)
        for at, held_ in frame.stack.items():
            if held_.reg.ref == ref:
                frame.stack[at] = Slot(held_.types, void(env, held_.reg)) if env.privileged else Slot(b"\x02" * 8)


def void(env: Env, reg: Reg) -> Reg:
    """What is left of a pointer that is void: a number for those who may see addresses."""
    if not env.privileged:
        return NOTHING
    return VOID_PACKET if _in_packet(reg) else ANY


def _in_packet(reg: Reg) -> bool:
    return reg.kind in (PACKET, PACKET_META, PACKET_END) or (reg.kind == MEM and reg.flags & PIECE != 0)


def forget_packets(env: Env) -> None:
    """The packet moved: all pointers into it are void."""
    for frame in env.state.frames:
        for at, reg in enumerate(frame.regs):
            if _in_packet(reg):
                frame.regs[at] = void(env, reg)
        for at, held in frame.stack.items():
            if _in_packet(held.reg):
                frame.stack[at] = Slot(held.types, void(env, held.reg))
