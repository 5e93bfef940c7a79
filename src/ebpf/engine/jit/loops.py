"""Innermost loops, and how the addresses in them move: so that one test before a loop can stand for those in its rounds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ebpf.engine.jit.flow import Blocks, is_jump, target
from ebpf.isa import Insn
from ebpf.isa.opcodes import BYTES, CALL, CALLX, EXIT, LD_IMM64, MAY_GOTO, Alu, Class, Jmp, Mode, Size
from ebpf.uapi import PseudoSrc

_ALL = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Linear:
    """A constant and multiples of what registers hold when a round begins; all modulo 2^64."""

    const: int
    terms: tuple[tuple[int, int], ...] = ()

    def plus(self, other: "Linear", factor: int = 1) -> "Linear":
        """The sum of this and `factor` times the other."""
        terms = dict(self.terms)
        for register, times in other.terms:
            terms[register] = (terms.get(register, 0) + factor * times) & _ALL
        return Linear((self.const + factor * other.const) & _ALL, tuple(sorted((r, f) for r, f in terms.items() if f)))


@dataclass(frozen=True, slots=True)
class Access:
    """`size` bytes are read or written at `address` in the first round, and each round `stride` further on."""

    address: Linear
    stride: int
    size: int


@dataclass(frozen=True, slots=True)
class Rounds:
    """The loop is left in the round in which `begin`, which moves by `stride` each round, is `end`."""

    begin: Linear
    stride: int
    end: Linear


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop with nothing in it but arithmetic, forward jumps and accesses whose addresses move evenly.

    `blocks` has the first slot and the end of each; `backwards` is the most jumps to a lower slot that a round takes.
    """

    head: int
    blocks: tuple[tuple[int, int], ...]
    accesses: tuple[Access, ...]
    rounds: Rounds | None
    backwards: int

    def has(self, slot: int) -> bool:
        """Whether an instruction is one of the loop's."""
        return any(begin <= slot < end for begin, end in self.blocks)


State = dict[int, Linear | None]


def find_loops(slots: Sequence[Insn | None], leaders: Iterable[int], end: int, *, accesses: bool = True) -> list[Loop]:
    """The loops of a function (its blocks begin at `leaders`) of whose accesses it is known how they move, if those matter."""
    blocks = Blocks(slots, leaders, end)
    found = []
    for head in dict.fromkeys(place for _, place in blocks.back):
        inside = blocks.inside(head)
        loop = _describe(blocks, head, [block for block in blocks.order if block in inside], accesses) if inside is not None else None
        if loop is not None:
            found.append(loop)
    return found


def _describe(blocks: Blocks, head: int, inside: Sequence[int], matter: bool) -> Loop | None:
    """What a loop does in a round, from what registers hold when it begins; None if it does what cannot be followed."""
    states: dict[int, State] = {head: {register: Linear(0, ((register, 1),)) for register in range(11)}}
    accesses: list[tuple[Linear | None, int]] = []
    ends: list[State] = []
    backwards = 0
    for block in inside:
        state = dict(states[block])
        for slot in range(block, blocks.ends[block]):
            insn = blocks.slots[slot]
            if insn is not None and not _step(insn, state, accesses):
                return None
        slot, insn = blocks.last(block)
        backwards += is_jump(insn) and insn.opcode != EXIT and target(slot, insn) <= slot
        for place in blocks.after(block):
            if place == head:
                ends.append(state)
            elif place in inside:
                states[place] = _both(states[place], state) if place in states else state
    moves = _moves(ends)
    found: dict[Access, None] = {}
    for address, size in accesses if matter else ():
        stride = _stride(address, moves) if address is not None else None
        if address is None or stride is None:
            return None
        found[Access(address, stride, size)] = None
    bounds = tuple((block, blocks.ends[block]) for block in sorted(inside))
    latches = [block for block, place in blocks.back if place == head]
    rounds = _rounds(blocks, head, latches[0], ends[0], moves) if len(latches) == 1 else None
    return Loop(head, bounds, tuple(found), rounds, backwards)


def _both(one: State, other: State) -> State:
    return {register: value if other[register] == value else None for register, value in one.items()}


def _moves(ends: Sequence[State]) -> Mapping[int, int]:
    """By how much registers move each round, of those that move evenly."""
    moves: dict[int, int] = {}
    for register in range(11):
        values = {end[register] for end in ends}
        value = values.pop()
        if not values and value is not None and value.terms == ((register, 1),):
            moves[register] = value.const
    return moves


def _stride(value: Linear, moves: Mapping[int, int]) -> int | None:
    """By how much a number moves each round, as a signed one; None if it does not move evenly."""
    if any(register not in moves for register, _ in value.terms):
        return None
    stride = sum(factor * moves[register] for register, factor in value.terms) & _ALL
    return stride - (1 << 64) if stride >> 63 else stride


def _step(insn: Insn, state: State, accesses: list[tuple[Linear | None, int]]) -> bool:
    """Follow one instruction; False where that is not possible."""
    kind = insn.opcode & 7
    if kind in (Class.ALU, Class.ALU64):
        state[insn.dst] = _result(insn, state) if kind == Class.ALU64 else None
        return True
    if kind in (Class.JMP, Class.JMP32):
        return insn.opcode not in (CALL, CALLX, MAY_GOTO)
    if kind == Class.LD:
        if insn.opcode == LD_IMM64:
            plain = insn.src == PseudoSrc.NONE
            state[insn.dst] = Linear((insn.imm & 0xFFFFFFFF) | (insn.imm_hi & 0xFFFFFFFF) << 32) if plain else None
        return insn.opcode == LD_IMM64
    if insn.opcode & 0xE0 not in (Mode.MEM, Mode.MEMSX):
        return False
    base = state[insn.src if kind == Class.LDX else insn.dst]
    accesses.append((base.plus(Linear(insn.off)) if base is not None else None, BYTES[Size(insn.opcode & 0x18)]))
    if kind == Class.LDX:
        state[insn.dst] = None
    return True


def _result(insn: Insn, state: State) -> Linear | None:
    op = insn.opcode & 0xF0
    left = state[insn.dst]
    right = state[insn.src] if insn.opcode & 8 else Linear(insn.imm & _ALL)
    if op == Alu.MOV:
        return right if not insn.off else None
    if left is None or right is None:
        return None
    if op in (Alu.ADD, Alu.SUB):
        return left.plus(right, 1 if op == Alu.ADD else -1)
    if op == Alu.LSH and not insn.opcode & 8:
        return Linear(0).plus(left, 1 << (insn.imm & 63))
    return None


def _rounds(blocks: Blocks, head: int, latch: int, state: State, moves: Mapping[int, int]) -> Rounds | None:
    """When the loop ends, where its last instruction compares something that moves with something that does not."""
    slot, insn = blocks.last(latch)
    # On to the head while two numbers are not equal: by the jump, or by what follows it.
    goes_on = Jmp.JNE if target(slot, insn) == head else Jmp.JEQ
    if insn.opcode & 7 != Class.JMP or insn.opcode & 0xF0 != goes_on or target(slot, insn) == slot + 1:
        return None
    begin, end = state[insn.dst], state[insn.src] if insn.opcode & 8 else Linear(insn.imm & _ALL)
    if begin is None or end is None:
        return None
    stride, still = _stride(begin, moves), _stride(end, moves)
    return Rounds(begin, stride, end) if stride and still == 0 else None
