"""Atomic instructions: what they reach, what they fetch, loads that acquire and stores that release."""

from typing import Final

from ebpf.engine.verifier import memory
from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.refusal import Refusal
from ebpf.engine.verifier.reg import CTX, FLOW_KEYS, PACKET, PACKET_META, SOCK_COMMON, SOCKET, TCP_SOCK, XDP_SOCK, Reg
from ebpf.isa import Insn
from ebpf.isa.opcodes import FETCH, Atomic

#: Memory that cannot be changed atomically.
_FORBIDDEN: Final = frozenset((CTX, PACKET, PACKET_META, FLOW_KEYS, SOCKET, SOCK_COMMON, TCP_SOCK, XDP_SOCK))


def execute(env: Env, insn: Insn, size: int) -> None:
    """Carry out an atomic instruction on `size` bytes. Raises Refusal."""
    regs = env.regs
    if insn.imm in (Atomic.LOAD_ACQ, Atomic.STORE_REL):
        _ordered(env, insn, regs, size)
        return
    source = env.readable(insn.src)
    dst = env.readable(insn.dst)
    if insn.imm == Atomic.CMPXCHG:
        old = env.readable(0)
        if old.is_pointer and not env.privileged:
            raise env.refuse("pointer-leak", "R0 leaks addr into mem", "an address would be stored where others can read it")
    if source.is_pointer and not env.privileged:
        raise env.refuse("pointer-leak", f"R{insn.src} leaks addr into mem", "an address would be stored where others can read it")
    _place(env, insn.dst, dst)
    fetched = -1
    if insn.imm == Atomic.CMPXCHG:
        fetched = 0
    elif insn.imm & FETCH:
        fetched = insn.src
    value = memory.access(env, insn.dst, insn.off, size, write=False, value=None, atomic=True)
    note = env.note
    if fetched < 0:
        pass
    elif fetched == 10:
        raise _frame_pointer(env)
    else:
        # Before the store is looked at: an address that is fetched into is none any more.
        regs[fetched] = value
    memory.access(env, insn.dst, insn.off, size, write=True, value=None, atomic=True)
    memory.same_kind(env, dst.kind)
    if fetched >= 0:
        env.note = note


def _frame_pointer(env: Env) -> Refusal:
    return env.refuse("invalid-instruction", "frame pointer is read only", "r10, the frame pointer, cannot be written")


def _ordered(env: Env, insn: Insn, regs: list[Reg], size: int) -> None:
    if not env.rules.load_acquire:
        raise env.refuse("invalid-instruction", f"BPF_ATOMIC uses invalid atomic opcode {insn.imm:02x}", "this Linux has no load-acquire")
    if insn.imm == Atomic.LOAD_ACQ:
        src = env.readable(insn.src)
        if insn.dst == 10:
            raise _frame_pointer(env)
        value = memory.access(env, insn.src, insn.off, size, write=False, value=None, atomic=True)
        _place(env, insn.src, src, "loads from")
        memory.same_kind(env, src.kind)
        regs[insn.dst] = value
        return
    value = env.readable(insn.src)
    dst = env.readable(insn.dst)
    memory.access(env, insn.dst, insn.off, size, write=True, value=value, source=insn.src, atomic=True)
    _place(env, insn.dst, dst)
    memory.same_kind(env, dst.kind)


def _place(env: Env, at: int, reg: Reg, what: str = "stores into") -> None:
    if reg.kind in _FORBIDDEN:
        raise env.refuse(
            "read-only", f"BPF_ATOMIC {what} R{at} {reg.name} is not allowed", f"a {reg.name} cannot be read or changed atomically"
        )
