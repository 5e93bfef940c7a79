"""The plain pieces of a generated program: numbers, arithmetic, memory, branches and loops."""

import random

from fuzz import words
from fuzz.shapes import COUNTER, DATA, HIGH, KEY, LAST, LOW, NUMBERS, PACKET
from fuzz.words import Code, jump, load, mov, mov_reg, store, store_imm, wide

from ebpf.isa import Insn
from ebpf.isa.opcodes import FP, Size
from ebpf.uapi import ProgType


class Basics:
    """Pieces over r7 (an element), the stack and numbers. `inside` a subprogram there is no packet: r6 is a number too."""

    def __init__(self, rng: random.Random, type_: ProgType, *, bare: bool = False) -> None:
        self.rng = rng
        self.type = type_
        self.bare = bare
        self.inside = bare
        self.loops = 0

    def _slots(self) -> Code:
        return [store_imm(FP, at, words.imm(self.rng)) for at in range(LOW, HIGH, 8)]

    def _number(self, register: int) -> Code:
        if self.rng.random() < 0.3:
            return [wide(register, words.imm(self.rng), 0, words.imm(self.rng))]
        return [mov(register, words.imm(self.rng))]

    def _scalar(self) -> int:
        return self.rng.choice(NUMBERS)

    def _fresh(self) -> Code:
        """Numbers in the registers that a call leaves without a value."""
        out: Code = []
        for register in range(1, 6):
            out += [load(register, FP, self.rng.randrange(LOW, HIGH, 8))] if self.rng.random() < 0.5 else self._number(register)
        return out

    def _key(self, most: int) -> Code:
        """A key on the stack: a number below `most`, or by chance one of the program's."""
        if self.rng.random() < 0.5:
            return [store_imm(FP, KEY, self.rng.randrange(most), Size.W)]
        register = self._scalar()
        return [words.mask(register, 15), store(FP, register, KEY, Size.W)]

    def _data(self) -> Code:
        return [store(FP, self._scalar(), DATA), store(FP, self._scalar(), DATA + 8)]

    def _straight(self) -> Code:
        out: Code = []
        for _ in range(self.rng.randint(1, 8)):
            out += self._single()
        return out

    def _single(self) -> Code:
        choice = self.rng.random()
        if choice < 0.55:
            return [words.alu(self.rng, self._scalar(), self._scalar())]
        if choice < 0.9:
            return self._access()
        return self._somewhere()

    def _packet_here(self) -> bool:
        """Whether r6 is the packet."""
        return not self.inside and self.type != ProgType.SOCKET_FILTER

    def _access(self) -> Code:
        """One access of the stack, the element or the packet at a fixed place."""
        base = self.rng.choice((FP, FP, 7, 7, 6) if self._packet_here() else (FP, 7))
        low, high = {FP: (LOW, HIGH), 7: (0, LAST), 6: (0, PACKET - 32)}[base]
        one = words.access(self.rng, base, low, high, self._scalar(), self._scalar())
        # Linux 6.18 leaves the high half of r0 behind a compare-and-exchange of 4 bytes that succeeds, where its verifier stops at a
        # state that was proved before r0 is read (seed 23591).
        return [one, words.low_half(0)] if words.is_cmpxchg(one, Size.W) else [one]

    def _somewhere(self) -> Code:
        """An access of the element at a place that the program computes."""
        index, base = self.rng.sample((1, 2, 3, 4, 5, 9), 2)
        into, source = (self.rng.choice([n for n in NUMBERS if n != base]) for _ in range(2))
        one = words.access(self.rng, base, 0, 8, into, source, atomic=False)
        moved = words.mask(index, self.rng.choice((7, 31, LAST - 16)))
        return [moved, mov_reg(base, 7), Insn(0x0F, base, index), one, mov(base, words.imm(self.rng))]

    def _branch(self) -> Code:
        """A condition, what follows if it does not hold, and sometimes what follows if it does."""
        then = self._straight()
        size = words.slots(then)
        if self.rng.random() < 0.4:
            other = self._straight()
            skip = words.ahead(self.rng, words.slots(other))
            return [words.branch(self.rng, self._scalar(), self._scalar(), size + 1), *then, skip, *other]
        return [words.branch(self.rng, self._scalar(), self._scalar(), size), *then]

    def _loop(self) -> Code:
        """A loop of a few rounds, by its counter or by may_goto."""
        if self.loops:
            return self._straight()
        self.loops += 1
        body = self._straight() + (self._branch() if self.rng.random() < 0.3 else [])
        self.loops -= 1
        size = words.slots(body)
        rounds = mov(COUNTER, self.rng.randint(1, 6))
        if self.rng.random() < 0.3:
            return [rounds, Insn(0xE5, off=size + 3), *body, words.add(COUNTER, -1), jump(0x15, COUNTER, 0, 1), Insn(0x05, off=-(size + 4))]
        back = jump(self.rng.choice((0x55, 0x56)), COUNTER, 0, -(size + 2))
        return [rounds, *body, words.add(COUNTER, -1), back]
