"""Which numbers matter exactly: walking a path backwards from where a number decided something to where it came from.

Two states may stand for each other although their numbers differ, when nothing that was proved depends on those numbers.
What depends on them is noted here, in the checkpoints that the path went through.
"""

from typing import Final

from ebpf.engine.verifier.log_precision import PrecisionText
from ebpf.engine.verifier.reg import SCALAR
from ebpf.engine.verifier.state import Checkpoint, History, State
from ebpf.engine.verifier.structure import ALWAYS, STORES, Structure
from ebpf.isa import Insn
from ebpf.isa.opcodes import CALL, EXIT, LD_IMM64, Alu, Atomic, Class, Mode
from ebpf.uapi import CallSrc

_TAIL_CALL: Final = 12
_ARGUMENTS: Final = 0b111110
_ALL: Final = 0x3FF
_ALL_SLOTS: Final = (1 << 64) - 1
_MOV: Final = int(Alu.MOV)
_END: Final = int(Alu.END)
_NEG: Final = int(Alu.NEG)
_ATOMIC: Final = int(Mode.ATOMIC)
_LOAD_ACQ: Final = int(Atomic.LOAD_ACQ)
_CMPXCHG: Final = int(Atomic.CMPXCHG)

#: A register or stack slot whose number is linked to others': (frame, register?, index).
Place = tuple[int, bool, int]


class _Lost(Exception):
    """The walk met something that it cannot follow."""


class Trace:
    """What is searched for on the way back: per frame a bit for each register and stack slot."""

    __slots__ = ("frame", "regs", "slots")

    def __init__(self, frame: int) -> None:
        self.frame = frame
        self.regs = [0] * 10
        self.slots = [0] * 10

    @property
    def empty(self) -> bool:
        """Whether nothing is searched for any more."""
        return not any(self.regs) and not any(self.slots)


def stack_note(frame: int, index: int) -> int:
    """What history keeps of an access to the stack."""
    return frame << 8 | index


def trace_back(structure: Structure, state: State, slot: int, trace: Trace, tell: PrecisionText | None = None) -> bool:
    """Mark what `trace` searches for in every checkpoint on the path to instruction `slot`; `tell` says each step.

    Whether anything was marked that was not.
    """
    try:
        if tell is None:
            return _walk(structure, state.history, slot, trace)
        return _walk_aloud(structure, state, slot, trace, tell)
    except _Lost:
        if tell is not None:
            tell.lost(len(state.frames) - 1)
        return everything(state, tell)


def everything(state: State, tell: PrecisionText | None = None) -> bool:
    """Mark all numbers in all checkpoints of the path: what to do where the way back is lost. Whether they were not marked yet."""
    at = state.parent
    changed = False
    while at is not None:
        for frame in range(len(at.precise)):
            if tell is not None:
                tell.forced(at, frame)
            changed = changed or at.precise[frame] != _ALL or at.precise_slots[frame] != _ALL_SLOTS
            at.precise[frame] = _ALL
            at.precise_slots[frame] = _ALL_SLOTS
        at = at.parent
    return changed


def _walk(structure: Structure, history: History | None, after: int, trace: Trace) -> bool:
    slots, concerns = structure.slots, structure.concerns
    regs = trace.regs
    wanted = regs[trace.frame] | (ALWAYS | STORES if any(trace.slots) else ALWAYS)
    changed = False
    while history is not None:
        history, slot, note = history
        if slot < 0:
            assert isinstance(note, Checkpoint)
            if _mark(note, trace):
                return changed
            changed = True
            wanted = regs[trace.frame] | (ALWAYS | STORES if any(trace.slots) else ALWAYS)
            continue
        linked = type(note) is list
        if not linked and not concerns[slot] & wanted:
            # Most instructions say nothing of what is searched for.
            after = slot
            continue
        insn = slots[slot]
        assert insn is not None
        if linked:
            _link(note, trace)  # type: ignore[arg-type]
        _step(structure, insn, slot, after, note, trace)
        if linked:
            _link(note, trace)  # type: ignore[arg-type]
        after = slot
        if trace.frame < 0:
            raise _Lost
        wanted = regs[trace.frame] | ALWAYS
        if any(trace.slots):
            wanted |= STORES
        elif wanted == ALWAYS and not any(regs):
            return changed
    return changed


def _walk_aloud(structure: Structure, state: State, after: int, trace: Trace, tell: PrecisionText) -> bool:
    """The same, saying each step."""
    history, point, start = state.history, state.parent, state.frames[0].start
    tell.begins(trace.frame, after, point.slot if point is not None else start, -1)
    changed = False
    while history is not None:
        history, slot, note = history
        if slot < 0:
            assert isinstance(note, Checkpoint)
            done = _mark(note, trace)
            for depth in range(trace.frame, -1, -1):
                tell.point(note, depth, trace.regs[depth], trace.slots[depth])
            if done:
                return changed
            changed = True
            point = note.parent
            tell.begins(trace.frame, history[1] if history is not None else -1, point.slot if point is not None else start, note.slot)
            continue
        tell.step(trace.frame, trace.regs[trace.frame], trace.slots[trace.frame], slot)
        insn = structure.slots[slot]
        assert insn is not None
        if isinstance(note, list):
            _link(note, trace)
        _step(structure, insn, slot, after, note, trace)
        if isinstance(note, list):
            _link(note, trace)
        after = slot
        if trace.frame < 0:
            raise _Lost
        if trace.empty:
            return changed
    return changed


def _mark(point: Checkpoint, trace: Trace) -> bool:
    """Mark what is searched for in a checkpoint; whether all of it was marked before."""
    left = 0
    for depth, frame in enumerate(point.state.frames):
        regs, slots = trace.regs[depth] & ~point.precise[depth], trace.slots[depth] & ~point.precise_slots[depth]
        if regs:
            for at in range(10):
                if regs >> at & 1 and frame.regs[at].kind != SCALAR:
                    regs &= ~(1 << at)
            point.precise[depth] |= regs
        if slots:
            for at in range(slots.bit_length()):
                if slots >> at & 1:
                    held = frame.stack.get(at)
                    if held is None or not held.spilled or held.reg.kind != SCALAR:
                        slots &= ~(1 << at)
            point.precise_slots[depth] |= slots
        trace.regs[depth], trace.slots[depth] = regs, slots
        left |= regs | slots
    return not left


def _link(places: list[Place], trace: Trace) -> None:
    """Numbers that were learnt of together are searched for together."""
    for depth, register, index in places:
        if (trace.regs if register else trace.slots)[depth] >> index & 1:
            break
    else:
        return
    for depth, register, index in places:
        if register:
            trace.regs[depth] |= 1 << index
        else:
            trace.slots[depth] |= 1 << index


def _step(structure: Structure, insn: Insn, slot: int, after: int, note: object, trace: Trace) -> None:
    opcode = insn.opcode
    kind = opcode & 7
    depth = trace.frame
    regs = trace.regs
    wanted = regs[depth]
    dst = 1 << insn.dst
    if kind in (4, 7):
        if not wanted & dst:
            return
        op = opcode & 0xF0
        if op in (_END, _NEG):
            return
        if op == _MOV:
            wanted &= ~dst
        if opcode & 8 and insn.src != 10:
            wanted |= 1 << insn.src
        regs[depth] = wanted
        return
    if kind == Class.LDX or (kind == Class.STX and opcode & 0xE0 == _ATOMIC and insn.imm == _LOAD_ACQ):
        if wanted & dst:
            regs[depth] = wanted & ~dst
            if isinstance(note, int):
                trace.slots[note >> 8] |= 1 << (note & 0xFF)
        return
    if kind in (Class.ST, Class.STX):
        if kind == Class.STX and opcode & 0xE0 == _ATOMIC:
            # What was fetched is a number of its own.
            fetched = 1 if insn.imm == _CMPXCHG else 1 << insn.src if insn.imm & 1 else 0
            if wanted & fetched:
                regs[depth] = wanted & ~fetched
                if isinstance(note, int):
                    trace.slots[note >> 8] |= 1 << (note & 0xFF)
                return
        if wanted & dst:
            raise _Lost
        if isinstance(note, int):
            bit = 1 << (note & 0xFF)
            if trace.slots[note >> 8] & bit:
                trace.slots[note >> 8] &= ~bit
                if kind == Class.STX:
                    regs[depth] |= 1 << insn.src
        return
    if kind == Class.LD:
        if opcode != LD_IMM64 and after != slot + 1:
            _into_callee(trace)
            return
        if wanted & dst:
            regs[depth] = wanted & ~dst
            if opcode != LD_IMM64:
                raise _Lost
        elif opcode != LD_IMM64 and wanted & 1:
            regs[depth] = wanted & ~1
        return
    if opcode == CALL:
        _call(structure, insn, slot, after, trace)
        return
    if opcode == EXIT:
        calls_back = after in structure.calls_back
        if wanted & _ARGUMENTS:
            if not calls_back:
                raise _Lost
            wanted &= ~_ARGUMENTS
        called = structure.slots[after - 1] if after >= 1 else None
        result = called is not None and called.opcode == CALL and called.src == CallSrc.PSEUDO_CALL and wanted & 1
        regs[depth] = wanted & ~1
        trace.frame = depth + 1
        if trace.frame >= len(regs):
            raise _Lost
        regs[depth + 1] = 1 if result else 0
        trace.slots[depth + 1] = 0
        return
    if opcode & 8 and opcode & 0xF0 not in (0x00, 0xE0):
        src = 1 << insn.src
        if wanted & (dst | src):
            regs[depth] = wanted | dst | src


def _into_callee(trace: Trace) -> None:
    """The function ended in the middle: its result is a number of its own."""
    depth = trace.frame
    trace.regs[depth] &= ~1
    if trace.regs[depth] & _ARGUMENTS or depth + 1 >= len(trace.regs):
        raise _Lost
    trace.frame = depth + 1
    trace.regs[depth + 1] = trace.slots[depth + 1] = 0


def _call(structure: Structure, insn: Insn, slot: int, after: int, trace: Trace) -> None:
    depth = trace.frame
    wanted = trace.regs[depth]
    if insn.src == CallSrc.PSEUDO_CALL:
        if after == slot + 1 and structure.is_global(slot + 1 + insn.imm):
            trace.regs[depth] = wanted & ~1
            if wanted & _ARGUMENTS:
                raise _Lost
            return
        # The way back leaves the function that was called.
        if wanted & ~_ARGUMENTS or depth == 0:
            raise _Lost
        trace.regs[depth] = 0
        trace.slots[depth] = 0
        trace.regs[depth - 1] |= wanted & _ARGUMENTS
        trace.frame = depth - 1
        return
    if slot in structure.calls_back and after != slot + 1:
        if wanted & ~_ARGUMENTS or depth == 0:
            raise _Lost
        trace.regs[depth] = 0
        trace.slots[depth] = 0
        trace.frame = depth - 1
        return
    if insn.src == CallSrc.HELPER and insn.imm == _TAIL_CALL and after != slot + 1:
        _into_callee(trace)
        return
    wanted &= ~1
    trace.regs[depth] = wanted
    if wanted & _ARGUMENTS:
        raise _Lost
