"""Well-formed programs by chance, deterministic by seed: every verifier accepts them, and every engine must give the same of them.

A program is XDP: it has the packet in r6, an element of an array in r7, and numbers in all other registers, which jumps, loops,
calls, atomic operations, helpers and maps change; at its end all of them lie in the array. `words.py` has the single instructions.
"""

import random
from dataclasses import dataclass, replace
from typing import Final

from fuzz import words
from fuzz.words import Code, call, jump, load, mov, mov_reg, store, store_imm, wide

from ebpf.isa import OPCODES, Insn, unused
from ebpf.isa.opcodes import EXIT, FP, LD_IMM64, Size
from ebpf.uapi import MapType, PseudoSrc

PACKET: Final = 96
VALUE: Final = 128
#: What of the array's element the program's last words are written to.
LAST: Final = 64
#: The stack: the context, the numbers' slots, and room for what helpers are given.
CTX, LOW, HIGH, KEY, DATA = -8, -80, -16, -88, -104
NUMBERS: Final = (0, 1, 2, 3, 4, 5, 9)
COUNTER: Final = 8
BY_NAME: Final = words.helper_numbers()


@dataclass(frozen=True)
class MapShape:
    """A map of a generated program; programs name it by its place among `MAPS`."""

    name: str
    type: MapType
    key: int
    value: int
    entries: int


ARRAY, HASH, PER_CPU, QUEUE, STACK = range(5)
MAPS: Final = (
    MapShape("array", MapType.ARRAY, 4, VALUE, 4),
    MapShape("hash", MapType.HASH, 4, 16, 8),
    MapShape("per_cpu", MapType.PERCPU_ARRAY, 4, 16, 2),
    MapShape("queue", MapType.QUEUE, 0, 8, 4),
    MapShape("stack", MapType.STACK, 0, 8, 4),
)


@dataclass(frozen=True)
class Made:
    """A generated program: where it names map number n, its ld_imm64 has n as descriptor."""

    seed: int
    insns: tuple[Insn, ...]
    packet: bytes


def make(seed: int) -> Made:
    """The program of a seed."""
    rng = random.Random(f"program {seed}")
    writer = _Writer(rng)
    return Made(seed, tuple(writer.program()), rng.randbytes(PACKET))


def make_bare(seed: int) -> Made:
    """A program for a virtual machine alone: VALUE bytes of memory in r1, neither context nor maps nor helpers."""
    rng = random.Random(f"bare {seed}")
    return Made(seed, tuple(_Writer(rng, bare=True).program()), rng.randbytes(VALUE))


def make_wild(seed: int) -> Made:
    """The same with up to three instructions changed by chance into others, so that it may do anything."""
    rng = random.Random(f"wild {seed}")
    made = make_bare(seed)
    insns = list(made.insns)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(insns))
        row = rng.choice(list(OPCODES))
        if insns[place].slots == 1 and row != LD_IMM64:
            changed = Insn(row, rng.randrange(10), rng.randrange(11), rng.choice((0, 1, -8, 8, rng.randint(-20, 20))), words.imm(rng))
            changed = rng.choice((changed, replace(insns[place], off=changed.off), replace(insns[place], imm=changed.imm)))
            insns[place] = replace(changed, **dict.fromkeys(unused(changed), 0))
    return Made(seed, tuple(insns), made.packet)


class _Writer:
    """Writes one program. In a subprogram and in a `bare` program r6 is a number too: there is no packet."""

    def __init__(self, rng: random.Random, *, bare: bool = False) -> None:
        self.rng = rng
        self.bare = bare
        self.functions = rng.choice((0, 0, 1, 2, 3))
        self.inside = bare
        self.loops = 0
        self.least = 0

    def program(self) -> Code:
        parts = [self._main(), *(self._function(number) for number in range(self.functions))]
        # A function is called by those before it alone; one that nobody calls is not part of the program.
        kept = [parts[0]]
        places: dict[int, int] = {}
        for number, part in enumerate(parts[1:]):
            if any(words.is_call(insn) and insn.imm == number for each in kept for insn in each):
                places[number] = sum(map(words.slots, kept))
                kept.append(part)
        return self._link(kept, places)

    def _link(self, parts: list[Code], places: dict[int, int]) -> Code:
        """Calls name their function by number until here."""
        out: Code = []
        here = 0
        for insn in (insn for part in parts for insn in part):
            out.append(words.to_function(places[insn.imm] - here - 1) if words.is_call(insn) else insn)
            here += insn.slots
        return out

    def _main(self) -> Code:
        out = [mov_reg(7, 1), *self._slots()] if self.bare else [store(FP, 1, CTX), *self._slots(), *self._packet(), *self._element()]
        for register in NUMBERS:
            out += self._number(register)
        out += self._blocks(self.rng.randint(2, 9))
        return [*out, *self._fold()]

    def _function(self, number: int) -> Code:
        """r1 is the array's element, the others numbers; it calls only those after it."""
        self.inside, self.least = True, number + 1
        out = [mov_reg(7, 1), *self._slots()]
        for register in (*NUMBERS, 6):
            if register in (0, 1, 6, 9):
                out += self._number(register)
        out += self._blocks(self.rng.randint(1, 3))
        return [*out, mov_reg(0, self.rng.choice(NUMBERS)), Insn(EXIT)]

    def _slots(self) -> Code:
        out: Code = []
        for at in range(LOW, HIGH, 8):
            out += [store_imm(FP, at, words.imm(self.rng))]
        return out

    def _packet(self) -> Code:
        """r6 is the packet, or the program ends: r2 to r4 are used."""
        check = [mov_reg(3, 6), words.add(3, PACKET - 32), jump(0xBD, 3, 4, 2), mov(0, 1), Insn(EXIT)]
        return [load(2, FP, CTX), words.ctx(6, 2, 0), words.ctx(4, 2, 4), *check, mov(2, 0), mov(3, 0), mov(4, 0)]

    def _element(self) -> Code:
        lookup = [
            store_imm(FP, KEY, 0),
            mov_reg(2, FP),
            words.add(2, KEY),
            wide(1, ARRAY, PseudoSrc.MAP_FD),
            call(BY_NAME["map_lookup_elem"]),
        ]
        return [*lookup, jump(0x55, 0, 0, 1), Insn(EXIT), mov_reg(7, 0)]

    def _fold(self) -> Code:
        """All numbers go into the element; the result is one of them."""
        out = [store(7, register, LAST + 8 * place) for place, register in enumerate(NUMBERS)]
        for at in range(LOW, HIGH, 8):
            out += [load(1, FP, at), Insn(0xAF, 0, 1)]
        out += [store(7, 0, LAST + 56)]
        return [*out, Insn(EXIT)]

    # -- pieces

    def _number(self, register: int) -> Code:
        if self.rng.random() < 0.3:
            return [wide(register, words.imm(self.rng), 0, words.imm(self.rng))]
        return [mov(register, words.imm(self.rng))]

    def _scalar(self) -> int:
        return self.rng.choice(NUMBERS)

    def _blocks(self, count: int) -> Code:
        out: Code = []
        for _ in range(count):
            out += self._block()
        return out

    def _block(self) -> Code:
        kinds = [self._straight, self._straight, self._branch, self._branch, self._loop, self._call]
        return self.rng.choice(kinds if self.bare else [*kinds, self._lookup, self._helper])()

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

    def _access(self) -> Code:
        """One access of the stack, the element or the packet at a fixed place."""
        base = self.rng.choice((FP, 7) if self.inside else (FP, FP, 7, 7, 6))
        low, high = {FP: (LOW, HIGH), 7: (0, LAST), 6: (0, PACKET - 32)}[base]
        one = words.access(self.rng, base, low, high, self._scalar(), self._scalar())
        # Linux 6.18 sometimes leaves the high half of r0 behind a compare-and-exchange of 4 bytes that succeeds (seed 23591).
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

    def _lookup(self) -> Code:
        """An element that may not be there, read and written."""
        number = self.rng.choice((ARRAY, HASH, HASH, PER_CPU))
        size = min(MAPS[number].value, LAST)
        inside = [words.access(self.rng, 0, 0, size, self.rng.choice((3, 4, 9)), self.rng.choice((9, 3, 4)), cmpxchg=False)]
        inside = [mov_reg(3, 9), mov_reg(4, 9), *inside, load(0, 0, 0)]
        before = [*self._key(10), mov_reg(2, FP), words.add(2, KEY), wide(1, number, PseudoSrc.MAP_FD)]
        return [*before, call(BY_NAME["map_lookup_elem"]), jump(0x15, 0, 0, words.slots(inside)), *inside, *self._fresh()]

    def _helper(self) -> Code:
        return [*self.rng.choice((self._update, self._delete, self._queue, self._checksum, self._bytes))(), *self._fresh()]

    def _data(self) -> Code:
        return [store(FP, self._scalar(), DATA), store(FP, self._scalar(), DATA + 8)]

    def _update(self) -> Code:
        flags = self.rng.choice((0, 0, 1, 2, 3))
        number = self.rng.choice((HASH, HASH, HASH, PER_CPU))
        before = [*self._key(10), *self._data(), mov_reg(2, FP), words.add(2, KEY), mov_reg(3, FP), words.add(3, DATA), mov(4, flags)]
        return [*before, wide(1, number, PseudoSrc.MAP_FD), call(BY_NAME["map_update_elem"])]

    def _delete(self) -> Code:
        return [*self._key(10), mov_reg(2, FP), words.add(2, KEY), wide(1, HASH, PseudoSrc.MAP_FD), call(BY_NAME["map_delete_elem"])]

    def _queue(self) -> Code:
        number, what = self.rng.choice((QUEUE, STACK)), self.rng.choice(("push", "push", "pop", "peek"))
        before = [*self._data(), mov_reg(2, FP), words.add(2, DATA), wide(1, number, PseudoSrc.MAP_FD)]
        after = [load(9, FP, DATA)]
        return [*before, *([mov(3, self.rng.choice((0, 0, 2)))] if what == "push" else []), call(BY_NAME[f"map_{what}_elem"]), *after]

    def _checksum(self) -> Code:
        sizes = [self.rng.choice((0, 4, 8, 16)) for _ in range(2)]
        seed = [mov_reg(5, self.rng.choice((0, 9)))]
        before = [
            *seed,
            *self._data(),
            mov_reg(1, FP),
            words.add(1, DATA),
            mov(2, sizes[0]),
            mov_reg(3, FP),
            words.add(3, LOW),
            mov(4, sizes[1]),
        ]
        return [*before, call(BY_NAME["csum_diff"])]

    def _bytes(self) -> Code:
        if self.inside:
            return self._checksum()
        name = self.rng.choice(("xdp_load_bytes", "xdp_store_bytes"))
        size, register = self.rng.choice((1, 2, 4, 8, 16)), self._scalar()
        before = [*self._data(), words.mask(register, self.rng.choice((63, 127))), mov_reg(2, register), load(1, FP, CTX)]
        before += [mov_reg(3, FP), words.add(3, DATA), mov(4, size), call(BY_NAME[name])]
        return [*before, load(9, FP, DATA), *(self._moved() if name == "xdp_store_bytes" else [])]

    def _moved(self) -> Code:
        """After a helper that may move the packet: find it again. r0 is kept in r8."""
        return [mov_reg(COUNTER, 0), *self._packet(), mov_reg(0, COUNTER)]

    def _call(self) -> Code:
        """A call of a function with the element and four numbers."""
        if self.least >= self.functions:
            return self._branch()
        return [mov_reg(1, 7), words.call_function(self.rng.randrange(self.least, self.functions)), *self._fresh()]
