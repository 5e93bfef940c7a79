"""Dynptrs and iterators on the stack."""

from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.refusal import Unjudged
from ebpf.engine.verifier.state import Slot


def destroy(env: Env, frame: int, at: int) -> Slot:
    """A dynptr's slot is overwritten: it is none any more."""
    del frame, at
    raise Unjudged("writes over dynptrs", env.slot)
