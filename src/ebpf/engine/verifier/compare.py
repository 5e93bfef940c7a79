"""Whether a state was proved already: everything that may happen from it may happen from one that was walked."""

from typing import Final

from ebpf.engine.verifier.num import UNKNOWN
from ebpf.engine.verifier.reg import (
    ANY_LINK,
    ARENA,
    BUF,
    MAP_KEY,
    MAP_VALUE,
    MEM,
    NOT_INIT,
    PACKET,
    PACKET_META,
    SCALAR,
    STACK,
    TP_BUFFER,
    Reg,
    equal,
)
from ebpf.engine.verifier.state import EMPTY, INVALID, MISC, SPECIAL, SPILL, ZERO_BYTE, Checkpoint, Frame, Slot, State

#: How alike states must be: one walked before covers this one; this one lies within it with all its numbers; they are the same.
COVERS: Final = 0
WITHIN: Final = 1
SAME: Final = 2
#: The registers of a mask, by mask.
_BITS: Final = tuple(tuple(at for at in range(10) if mask >> at & 1) for mask in range(1 << 10))
_RANGED: Final = frozenset((MAP_KEY, MAP_VALUE, MEM, BUF, TP_BUFFER))
_ANY: Final = Reg(SCALAR, UNKNOWN)


class Ids:
    """Which id of one state stands for which of the other: what was one thing must be one thing."""

    __slots__ = ("back", "forgets", "forth", "fresh", "strict")

    def __init__(self, *, strict: bool = False, forgets: bool = False) -> None:
        self.strict = strict
        self.forgets = forgets
        self.forth: dict[int, int] = {}
        self.back: dict[int, int] = {}
        self.fresh = -1

    def pair(self, old: int, new: int) -> bool:
        """Whether the two may stand for each other; then they do from now on."""
        if not old or not new:
            return old == new
        found = self.forth.get(old)
        if found is not None:
            return found == new
        if new in self.back and not self.forgets:
            return False
        self.forth[old] = new
        self.back[new] = old
        return True

    def pair_numbers(self, old: int, new: int) -> bool:
        """The same for numbers: one that was linked to none says nothing of the other's links."""
        if not old:
            return True
        if not new:
            new = self.fresh
            self.fresh -= 1
        return self.pair(old, new)


def covers_reg(old: Reg, new: Reg, ids: Ids, how: int, *, precise: bool) -> bool:
    """Whether what was proved with `old` in a register holds with `new` in it."""
    if how == SAME:
        return equal(old, new) and ids.pair(old.id, new.id) and ids.pair(old.ref, new.ref)
    kind = old.kind
    if kind == NOT_INIT:
        return how == COVERS or new.kind == NOT_INIT
    if kind != new.kind:
        return False
    if ids.forgets:
        return _covers_old(old, new, ids, precise=precise)
    if kind == SCALAR:
        if ids.strict:
            return old.off == new.off and old.num == new.num and ids.pair_numbers(old.id, new.id)
        if not precise and how == COVERS:
            return True
        if old.id:
            if (old.flags ^ new.flags) & ANY_LINK and (old.flags & ANY_LINK or new.id):
                return False
            if old.flags & ANY_LINK and old.off != new.off:
                return False
            if not ids.pair_numbers(old.id, new.id):
                return False
        return old.num.contains(new.num)
    if old.flags != new.flags:
        return False
    if kind in _RANGED:
        return (
            old.off == new.off
            and old.fd == new.fd
            and old.uid == new.uid
            and old.size == new.size
            and old.num.contains(new.num)
            and ids.pair(old.id, new.id)
            and ids.pair(old.ref, new.ref)
        )
    if kind in (PACKET, PACKET_META):
        if old.rng < 0 or new.rng < 0:
            if old.rng != new.rng:
                return False
        elif old.rng > new.rng:
            return False
        return old.off == new.off and ids.pair(old.id, new.id) and old.num.contains(new.num)
    if kind == ARENA:
        return True
    if kind == STACK and old.frame != new.frame:
        return False
    return equal(old, new) and ids.pair(old.id, new.id) and ids.pair(old.ref, new.ref)


def _covers_old(old: Reg, new: Reg, ids: Ids, *, precise: bool) -> bool:
    """The same as 6.1 sees it, which looks at few ids."""
    kind = old.kind
    if kind == SCALAR:
        return old.num == new.num if ids.strict else not precise or old.num.contains(new.num)
    if old.flags != new.flags or old.off != new.off:
        return False
    if kind in (MAP_KEY, MAP_VALUE):
        if old.fd != new.fd or old.uid != new.uid:
            return False
        return ids.pair(old.id, new.id) if old.maybe_null else old.num.contains(new.num)
    if kind in (PACKET, PACKET_META):
        known = old.rng <= new.rng if old.rng >= 0 and new.rng >= 0 else old.rng == new.rng
        return known and (not old.id or ids.pair(old.id, new.id)) and old.num.contains(new.num)
    return equal(old, new) and old.id == new.id and old.ref == new.ref and (kind != STACK or old.frame == new.frame)


def _scalar_of(slot: Slot, *, lenient: bool) -> Reg | None:
    """A slot as the number it is, if it is one whole."""
    types = slot.types
    if types[0] == SPILL and types[7] == SPILL:
        return slot.reg if slot.reg.kind == SCALAR else None
    for byte in types:
        if byte != MISC and (byte != INVALID or not lenient):
            return None
    return _ANY


def _covers_slot(old: Slot, new: Slot, ids: Ids, how: int, *, precise: bool, lenient: bool) -> bool:
    if old is new and how != SAME and (old.reg.kind == NOT_INIT or (not old.reg.id and not old.reg.ref)) and old.special is None:
        return True
    a, b = old.types, new.types
    if (a[0] != SPILL or b[0] != SPILL) and how == COVERS and not ids.forgets:
        x, y = _scalar_of(old, lenient=lenient), _scalar_of(new, lenient=lenient)
        if x is not None and y is not None:
            return covers_reg(x, y, ids, how, precise=precise)
    for at in range(8):
        was, is_ = a[at], b[at]
        if was in (INVALID, is_):
            continue
        if was == MISC and (lenient or is_ == ZERO_BYTE):
            continue
        return False
    if a[0] == SPILL:
        return covers_reg(old.reg, new.reg, ids, how, precise=precise)
    if (a[0] in SPECIAL or b[0] in SPECIAL) and not ids.forgets:
        x_, y_ = old.special, new.special
        if x_ is None:
            return y_ is None
        return (
            y_ is not None
            and x_.kind == y_.kind
            and x_.first == y_.first
            and x_.state == y_.state
            and x_.what == y_.what
            and x_.trust == y_.trust
            and ids.pair(x_.ref, y_.ref)
        )
    return True


def _differs(old: Reg, new: Reg, how: int, *, precise: bool) -> bool:
    """Whether it is plain, without looking at ids, that what was proved with `old` need not hold with `new`."""
    if old is new:
        return False
    if how == SAME:
        return not equal(old, new)
    return old.kind == SCALAR and precise and (new.kind != SCALAR or not old.num.contains(new.num))


def covers(point: Checkpoint, new: State, live: list[int], how: int, *, lenient: bool, strict: bool = False, forgets: bool = False) -> bool:
    """Whether a checkpoint covers a state; `live` has, per frame, a bit for each register that is still read; empty: all count.

    `strict`: numbers must be the same to be covered; `forgets`: ids pair within a function alone.
    """
    old = point.state
    if (old.guessed and not new.guessed) or old.sleepable != new.sleepable:
        return False
    if len(old.frames) != len(new.frames) or len(old.held) != len(new.held) or old.rcu != new.rcu or old.preempt != new.preempt:
        return False
    hint = point.differed
    if hint >= 0:
        depth, at = hint >> 4, hint & 15
        if depth < len(old.frames) and (not live or live[depth] >> at & 1):
            exact = how != COVERS or point.precise[depth] >> at & 1 != 0
            if _differs(old.frames[depth].regs[at], new.frames[depth].regs[at], how, precise=exact):
                return False
    hint = point.slot_differed
    if hint >= 0 and hint >> 6 < len(old.frames):
        depth, at = hint >> 6, hint & 63
        held = old.frames[depth].stack.get(at)
        if held is not None and (point.read[depth] >> at & 1 or (how != COVERS and not point.cleaned)):
            exact = point.precise_slots[depth] >> at & 1 != 0
            fresh = Ids(forgets=forgets)
            if not _covers_slot(held, new.frames[depth].stack.get(at, EMPTY), fresh, how, precise=exact, lenient=lenient):
                return False
    ids = Ids(strict=strict, forgets=forgets)
    for a, b in zip(old.frames, new.frames, strict=True):
        if a.back != b.back or a.start != b.start or a.asynchronous != b.asynchronous or a.called_back > b.called_back:
            return False
    for depth, a in enumerate(old.frames):
        if forgets:
            ids = Ids(strict=strict, forgets=True)
        b = new.frames[depth]
        wanted = live[depth] if live else 0x3FF
        precise = point.precise[depth]
        a_regs, b_regs = a.regs, b.regs
        for at in _BITS[wanted & 0x3FF]:
            x, y = a_regs[at], b_regs[at]
            if x is y:
                if not x.id and not x.ref:
                    continue
            elif how == COVERS and x.kind == SCALAR and y.kind == SCALAR and not precise >> at & 1 and not strict:
                # Nothing that was proved depends on this number.
                continue
            if not covers_reg(x, y, ids, how, precise=precise >> at & 1 != 0):
                point.differed = depth << 4 | at
                return False
        if not _covers_stack(point, depth, a, b, ids, how, lenient=lenient):
            return False
    for x_, y_ in zip(old.held, new.held, strict=True):
        if x_.kind != y_.kind or x_.what != y_.what or not (x_.id == y_.id if forgets else ids.pair(x_.id, y_.id)):
            return False
    return True


def _covers_stack(point: Checkpoint, depth: int, a: Frame, b: Frame, ids: Ids, how: int, *, lenient: bool) -> bool:
    read = point.read[depth] if how == COVERS or point.cleaned else -1
    slots = point.precise_slots[depth]
    if how != COVERS and not _same_shape(a, b, read):
        return False
    for at, x in a.stack.items():
        if not read >> at & 1:
            continue
        y = b.stack.get(at, EMPTY)
        if x is y and how != SAME and x.special is None:
            reg = x.reg
            if not reg.id and not reg.ref:
                continue
        if not _covers_slot(x, y, ids, how, precise=slots >> at & 1 != 0, lenient=lenient):
            point.slot_differed = depth << 6 | at
            return False
    return True


def _same_shape(a: Frame, b: Frame, read: int) -> bool:
    """Whether the new state has as much stack, with the same things in it as far as the old one reaches."""
    top = max(a.stack, default=-1)
    if top > max(b.stack, default=-1):
        return False
    for at in {*a.stack, *b.stack}:
        if at <= top:
            old = a.stack.get(at, EMPTY) if read >> at & 1 else EMPTY
            if old.types != b.stack.get(at, EMPTY).types:
                return False
    return True
