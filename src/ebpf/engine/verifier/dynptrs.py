"""Dynptrs and iterators on the stack."""

from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.refusal import Unjudged
from ebpf.engine.verifier.state import ITER_BYTE, MISC, Slot


def destroy(env: Env, frame: int, at: int) -> Slot:
    """A dynptr's or iterator's slot is overwritten: it is none any more."""
    if env.state.frames[frame].stack[at].types[0] == ITER_BYTE:
        return Slot(bytes([MISC]) * 8)
    raise Unjudged("writes over dynptrs", env.slot)
