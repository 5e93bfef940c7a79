"""LD_ABS and LD_IND: loads of a word of the packet that end the function where the packet is too short."""

from ebpf.engine.verifier import memory
from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.reg import CTX, NOTHING
from ebpf.engine.verifier.sections import nothing_left
from ebpf.isa import Insn
from ebpf.isa.opcodes import Mode
from ebpf.uapi import ProgType


def allowed(env: Env) -> None:
    """Check that programs of this type load from packets so. Raises Refusal."""
    if env.code.prog_type not in (ProgType.SOCKET_FILTER, ProgType.SCHED_CLS, ProgType.SCHED_ACT):
        raise env.refuse(
            "helper-not-allowed",
            "BPF_LD_[ABS|IND] instructions not allowed for this program type",
            "programs of this type cannot load from packets this way",
        )


def load(env: Env, insn: Insn) -> bool:
    """Check LD_ABS or LD_IND, which load a word of the packet; whether the function may also end here, with 0. Raises Refusal."""
    state = env.state
    allowed(env)
    nothing_left(env, "BPF_LD_[ABS|IND]", "the load may end the program")
    context = env.readable(6)
    if context.kind != CTX:
        raise env.refuse(
            "argument-type",
            "at the time of BPF_LD_ABS|IND R6 != pointer to skb",
            "r6 must be the context where a packet is loaded from",
        )
    if insn.opcode & 0xE0 == Mode.IND:
        env.readable(insn.src)
    memory.fixed_offset(env, context, 6)
    regs = env.regs
    for at in range(1, 6):
        regs[at] = NOTHING
    # Where the packet is too short, a function returns 0 at once.
    return len(state.frames) > 1 and not state.frames[-1].callback
