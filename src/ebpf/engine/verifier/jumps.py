"""Conditional jumps: which sides there are, and what each learns."""

from typing import Final

from ebpf.engine.verifier import alu, branch
from ebpf.engine.verifier.comparisons import JEQ, JGE, JGT, JLE, JLT, JNE
from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.locks import LOCKS
from ebpf.engine.verifier.num import Num, known, zero_extend
from ebpf.engine.verifier.precision import Place
from ebpf.engine.verifier.reg import (
    ANY_LINK,
    AT_END,
    BEYOND_END,
    BTF_ID,
    LINKED,
    LINKED32,
    MAP_KEY,
    MAP_PTR,
    MAP_VALUE,
    MAYBE_NULL,
    MEM,
    NULL,
    PACKET,
    PACKET_END,
    PACKET_META,
    RCU,
    SCALAR,
    SOCK_COMMON,
    SOCKET,
    TCP_SOCK,
    TRUSTED,
    UNTRUSTED,
    XDP_SOCK,
    Reg,
    constant,
)
from ebpf.engine.verifier.state import Slot, State
from ebpf.isa import Insn
from ebpf.isa.opcodes import Alu, Class
from ebpf.uapi import MapType

_ADD: Final = int(Alu.ADD)
_ORDER: Final = (JGT, JGE, JLT, JLE)
_PACKETS: Final = (PACKET, PACKET_META, PACKET_END)
_NOT_NULL: Final = frozenset((SOCKET, TCP_SOCK, MAP_VALUE, MAP_KEY, SOCK_COMMON))
_MOST_LINKED: Final = 6
_FAR: Final = 0xFFFF


def decide(env: Env, insn: Insn) -> bool | None:
    """Check a conditional jump's operands; whether it is always taken, never, or depends. Raises Refusal."""
    op = insn.opcode & 0xF0
    wide = insn.opcode & 7 == Class.JMP
    left = env.readable(insn.dst)
    if insn.opcode & 8:
        right = env.readable(insn.src)
        if not (left.kind in _PACKETS and right.kind in _PACKETS) and right.is_pointer and not env.privileged:
            raise _prohibited(env, insn.src)
    else:
        right = constant(insn.imm)
    taken: bool | None
    if left.kind in _PACKETS and right.kind in _PACKETS and wide:
        taken = _packet_decided(op, left, right)
    elif left.is_pointer or right.is_pointer:
        taken = _pointer_decided(env, op, left, right) if wide else None
    else:
        taken = branch.decided(op, left.num, right.num, env.rules, wide=wide)
    if taken is not None:
        if insn.opcode & 8:
            env.precise(insn.dst, insn.src)
        else:
            env.precise(insn.dst)
    return taken


def _prohibited(env: Env, at: int) -> Exception:
    return env.refuse("pointer-leak", f"R{at} pointer comparison prohibited", "without CAP_PERFMON pointers are not compared with numbers")


def _pointer_decided(env: Env, op: int, left: Reg, right: Reg) -> bool | None:
    if right.const is None:
        left, right = right, left
        op = branch.SWAPPED[op]
    if right.const != 0 or not _not_null(env, left):
        return None
    if op == JEQ:
        return False
    return True if op == JNE else None


def _not_null(env: Env, reg: Reg) -> bool:
    if reg.flags & MAYBE_NULL:
        return False
    if reg.kind in _NOT_NULL:
        return True
    if reg.kind == BTF_ID:
        return bool(reg.flags & TRUSTED or reg.ref)
    if reg.kind == MEM:
        return not reg.flags & UNTRUSTED
    return reg.kind == MAP_PTR and env.rules.nonnull_array


def _packet_decided(op: int, left: Reg, right: Reg) -> bool | None:
    if right.kind == PACKET_END:
        pointer = left
    elif left.kind == PACKET_END:
        pointer, op = right, branch.SWAPPED[op]
    else:
        return None
    if pointer.rng >= 0 or pointer.kind == PACKET_END:
        return None
    if op in (JLE, JGT):
        return op == JGT if pointer.rng == BEYOND_END else None
    if op in (JLT, JGE):
        return op == JGE
    return None


def linked(env: Env, insn: Insn) -> list[Place] | None:
    """The places that hold numbers linked to those compared, if there is more than one. What is not read any more is left out.

    There is room for a few. Linux looks once for each side of the comparison, and so do we: a number that is compared with
    itself takes twice the room, and those that come too late are linked no more.
    """
    regs = env.regs
    places: list[Place] = []
    if insn.opcode & 8:
        right = regs[insn.src]
        if right.kind == SCALAR and right.id:
            _collect(env, right.id, places)
    left = regs[insn.dst]
    if left.kind == SCALAR and left.id:
        _collect(env, left.id, places)
    return places if len(places) > 1 else None


def _collect(env: Env, id: int, places: list[Place]) -> None:
    frames = env.state.frames
    live = 0x3FF
    for depth, frame in enumerate(frames):
        if env.rules.links_live:
            live = env.structure.live[frames[depth + 1].back if depth + 1 < len(frames) else env.slot]
        for at in range(10):
            reg = frame.regs[at]
            if reg.id == id and reg.kind == SCALAR and live >> at & 1:
                if len(places) < _MOST_LINKED:
                    places.append((depth, True, at))
                else:
                    frame.regs[at] = Reg(SCALAR, reg.num)
        for at, held in frame.stack.items():
            reg = held.reg
            if reg.id == id and reg.kind == SCALAR and held.spilled:
                if len(places) < _MOST_LINKED:
                    places.append((depth, False, at))
                else:
                    frame.stack[at] = Slot(held.types, Reg(SCALAR, reg.num), held.special)


def learn(env: Env, insn: Insn, state: State, places: list[Place] | None, *, taken: bool) -> None:
    """What one side of the jump knows, put into its state. `places` are those of linked()."""
    op = insn.opcode & 0xF0
    wide = insn.opcode & 7 == Class.JMP
    regs = state.frames[-1].regs
    left = regs[insn.dst]
    right = regs[insn.src] if insn.opcode & 8 else constant(insn.imm)
    if left.kind == SCALAR and right.kind == SCALAR:
        if insn.opcode & 8 and insn.dst == insn.src:
            _with_itself(env, state, insn, left, places, op if taken else branch.OPPOSITE[op], wide=wide)
            return
        x, y = branch.refine(op if taken else branch.OPPOSITE[op], left.num, right.num, env.rules, wide=wide)
        if x is not left.num:
            regs[insn.dst] = left = Reg(SCALAR, x, left.off, left.id, left.flags)
        if insn.opcode & 8:
            right = regs[insn.src]
            if y is not right.num:
                regs[insn.src] = right = Reg(SCALAR, y, right.off, right.id, right.flags)
            if right.id and places:
                _spread(env, state, right, insn.src, places)
                left = regs[insn.dst]
        if left.id and places:
            _spread(env, state, left, insn.dst, places)
        return
    if insn.opcode & 8:
        if wide and left.is_pointer and right.is_pointer and op in (JEQ, JNE) and env.rules.equal_pointers:
            _equal_pointers(env, state, insn, left, right, equal=(op == JEQ) == taken)
        if wide and _packets(state, op, left, right, insn, taken=taken):
            return
    elif wide and not insn.imm and op in (JEQ, JNE) and left.flags & MAYBE_NULL:
        settle_null(env, state, left, is_null=(op == JEQ) == taken)
        return
    if left.is_pointer and not env.privileged:
        raise _prohibited(env, insn.dst)


def _with_itself(env: Env, state: State, insn: Insn, reg: Reg, places: list[Place] | None, op: int, *, wide: bool) -> None:
    """A number compared with itself: Linux lets both sides learn, though one of the ways on cannot be."""
    num = branch.refine_itself(op, reg.num, env.rules, wide=wide)
    if num is not reg.num:
        state.frames[-1].regs[insn.dst] = reg = Reg(SCALAR, num, reg.off, reg.id, reg.flags)
    if reg.id and places:
        _spread(env, state, reg, insn.dst, places)


def _spread(env: Env, state: State, source: Reg, at: int, places: list[Place]) -> None:
    """Tell the numbers that are linked to one what was learnt of it."""
    top = len(state.frames) - 1
    for depth, register, index in places:
        frame = state.frames[depth]
        if register:
            if depth == top and index == at:
                continue
            reg = frame.regs[index]
        else:
            held = frame.stack.get(index)
            if held is None:
                continue
            reg = held.reg
        if reg.kind != SCALAR or reg.id != source.id:
            continue
        new = _as_linked(env, source, reg)
        if register:
            frame.regs[index] = new
        else:
            assert held is not None
            frame.stack[index] = Slot(held.types, new, held.special)


def _as_linked(env: Env, source: Reg, reg: Reg) -> Reg:
    mine, its = reg.off if reg.flags & ANY_LINK else 0, source.off if source.flags & ANY_LINK else 0
    if not (reg.flags | source.flags) & ANY_LINK or mine == its:
        return Reg(SCALAR, source.num, source.off, source.id, source.flags)
    num: Num = alu.binary(_ADD, source.num, known(mine - its), env.rules, wide=True)
    if (reg.flags | source.flags) & LINKED32:
        num = zero_extend(num, env.rules)
    flags = reg.flags if env.rules.links_apart else reg.flags | source.flags & LINKED
    return Reg(SCALAR, num, reg.off, reg.id, flags)


def settle_null(env: Env, state: State, pointer: Reg, *, is_null: bool) -> None:
    """Every copy of a maybe-pointer is known to be one, or to be zero."""
    id = pointer.id
    for frame in state.frames:
        for at, reg in enumerate(frame.regs):
            if reg.flags & MAYBE_NULL and reg.id == id:
                frame.regs[at] = NULL if is_null else not_null(env, reg)
        for at, held in frame.stack.items():
            reg = held.reg
            if reg.flags & MAYBE_NULL and reg.id == id:
                frame.stack[at] = Slot(held.types, NULL if is_null else not_null(env, reg))
    if is_null and pointer.ref and pointer.ref == id:
        state.held = tuple(held for held in state.held if held.id != id)


def not_null(env: Env, reg: Reg) -> Reg:
    """A maybe-pointer that turned out to be one."""
    flags = reg.flags & ~MAYBE_NULL
    if reg.kind == MAP_VALUE:
        desc = env.map_of(reg)
        if desc.inner is not None and reg.fd >= 0:
            return Reg(MAP_PTR, fd=~reg.fd, uid=reg.id)
        if desc.type == MapType.XSKMAP:
            return Reg(XDP_SOCK)
        if desc.type in (MapType.SOCKMAP, MapType.SOCKHASH):
            return Reg(SOCKET, id=reg.id, ref=reg.ref)
        keeps = any(what in LOCKS for _, what, _ in desc.special)
        return reg.same(reg.num, reg.off, reg.id if keeps else 0, flags, reg.rng)
    if reg.kind == BTF_ID and flags & RCU:
        return reg.same(reg.num, reg.off, 0, flags, reg.rng)
    return reg.same(reg.num, reg.off, 0, flags, reg.rng)


def _equal_pointers(env: Env, state: State, insn: Insn, left: Reg, right: Reg, *, equal: bool) -> None:
    """A maybe-pointer that equals one that is not null, is not null."""
    if not equal or left.maybe_null == right.maybe_null or BTF_ID in (left.kind, right.kind):
        return
    if right.maybe_null:
        settle_null(env, state, right, is_null=False)
    else:
        settle_null(env, state, left, is_null=False)
    del insn


def _start(reg: Reg) -> bool:
    return reg.kind == PACKET and not reg.off and not reg.num.mask and not reg.num.value and not reg.id


def _packets(state: State, op: int, left: Reg, right: Reg, insn: Insn, *, taken: bool) -> bool:
    """`packet + n <= end` proves n bytes; of the data_meta area the packet's beginning is the end."""
    if op not in _ORDER:
        return False
    if (left.kind == PACKET and right.kind == PACKET_END) or (left.kind == PACKET_META and _start(right)):
        pointer, at = left, insn.dst
    elif (left.kind == PACKET_END and right.kind == PACKET) or (_start(left) and right.kind == PACKET_META):
        pointer, at, op = right, insn.src, branch.SWAPPED[op]
    else:
        return False
    if not taken:
        op = branch.OPPOSITE[op]
    if op in (JLE, JLT):
        _proved(state, pointer, 1 if op == JLT else 0)
    elif pointer.kind == PACKET:
        regs = state.frames[-1].regs
        regs[at] = pointer.same(pointer.num, pointer.off, pointer.id, pointer.flags, BEYOND_END if op == JGT else AT_END)
    return True


def _proved(state: State, pointer: Reg, more: int) -> None:
    """So many bytes from its base on, and all that moved with it, are known to be there."""
    if pointer.off < 0 or (pointer.off == 0 and more):
        return
    if pointer.num.umax > _FAR or pointer.num.umax + pointer.off > _FAR:
        return
    rng = pointer.off + more
    for frame in state.frames:
        for at, reg in enumerate(frame.regs):
            if reg.kind == pointer.kind and reg.id == pointer.id and reg.rng < rng:
                frame.regs[at] = reg.same(reg.num, reg.off, reg.id, reg.flags, rng)
        for at, held in frame.stack.items():
            reg = held.reg
            if reg.kind == pointer.kind and reg.id == pointer.id and reg.rng < rng:
                frame.stack[at] = Slot(held.types, reg.same(reg.num, reg.off, reg.id, reg.flags, rng))
