"""Well-formed programs by chance, deterministic by seed: every verifier accepts them, and every engine must give the same of them.

A program has an element of an array in r7, its packet in r6 (in XDP and tc), and numbers in all other registers, which jumps, loops,
calls, callbacks, atomic operations, helpers and maps change; at its end all of them lie in the array. `words.py` has the single
instructions, `basics.py`, `maps.py`, `packets.py` and `calls.py` the pieces.
"""

import random
from collections.abc import Iterator
from dataclasses import replace

from fuzz import words
from fuzz.calls import CALLBACKS, CallPieces
from fuzz.maps import MapPieces, of_map, pointer
from fuzz.shapes import ARRAY, BY_NAME, CTX, DATA, HIGH, KEY, LAST, LOW, NUMBERS, PACKET, VALUE, Made
from fuzz.words import Code, call, jump, load, mov, mov_reg, store, store_imm

from ebpf.isa import OPCODES, Insn, unused
from ebpf.isa.opcodes import EXIT, FP, LD_IMM64
from ebpf.uapi import ProgType

_TYPES = (ProgType.XDP,) * 6 + (ProgType.SCHED_CLS,) * 2 + (ProgType.SOCKET_FILTER,) * 2


def make(seed: int) -> Made:
    """The program of a seed, and those that it jumps to."""
    rng = random.Random(f"program {seed}")
    type_ = rng.choice(_TYPES)
    tails = rng.choice((0, 0, 0, 1, 2))
    main = tuple(_Writer(rng, type_, tails=tails).program())
    # A program that is jumped to may jump too: Linux ends it at the 34th.
    others = tuple(tuple(_Writer(rng, type_, tails=rng.choice((0, tails))).program()) for _ in range(tails))
    return Made(seed, main, rng.randbytes(PACKET), type_, others)


def make_alone(seed: int) -> Made:
    """An XDP program that jumps to no other."""
    rng = random.Random(f"alone {seed}")
    return Made(seed, tuple(_Writer(rng, ProgType.XDP).program()), rng.randbytes(PACKET))


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


class _Writer(MapPieces, CallPieces):
    """Writes one program."""

    def __init__(self, rng: random.Random, type_: ProgType = ProgType.XDP, *, bare: bool = False, tails: int = 0) -> None:
        super().__init__(rng, type_, bare=bare)
        self.tails = tails

    def program(self) -> Code:
        main = self._main()
        functions = [self._function(number) for number in range(self.functions)]
        # A function is called by those before it alone; one that nobody calls is not part of the program.
        kept = [main]
        places: dict[int, int] = {}
        for number, part in self._numbered(functions):
            if any(words.names_function(insn) and insn.imm == number for each in kept for insn in each):
                places[number] = sum(map(words.slots, kept))
                kept.append(part)
        return self._link(kept, places)

    def _numbered(self, functions: list[Code]) -> Iterator[tuple[int, Code]]:
        yield from enumerate(functions)
        yield from enumerate(self.callbacks, CALLBACKS)

    def _link(self, parts: list[Code], places: dict[int, int]) -> Code:
        """Calls and addresses name their function by number until here."""
        out: Code = []
        here = 0
        for insn in (insn for part in parts for insn in part):
            out.append(replace(insn, imm=places[insn.imm] - here - 1) if words.names_function(insn) else insn)
            here += insn.slots
        return out

    def _main(self) -> Code:
        out = [mov_reg(7, 1), *self._slots()] if self.bare else [store(FP, 1, CTX), *self._slots(), *self._packet(), *self._element()]
        for register in NUMBERS:
            out += self._number(register)
        out += self._blocks(self.rng.randint(2, 9))
        return [*out, *self._fold()]

    def _function(self, number: int) -> Code:
        """r1 is the array's element, r2 the context, the others numbers; it calls only those after it."""
        self.inside, self.least = True, number + 1
        out = [mov_reg(7, 1), *self._slots(), *([] if self.bare else [store(FP, 2, CTX)])]
        for register in (*NUMBERS, 6):
            if register in (0, 1, 2, 6, 9):
                out += self._number(register)
        out += self._blocks(self.rng.randint(1, 3))
        return [*out, mov_reg(0, self.rng.choice(NUMBERS)), Insn(EXIT)]

    def _callback_code(self, kind: str) -> Code:
        """A function for a helper to call: with an element of its own, but without calls and packet."""
        other = _Writer(self.rng, self.type)
        other.inside, other.functions, other.callbacks = True, 0, self.callbacks
        if kind == "elements":
            return [*other._walk_begin(), *other._sum()]
        out = [*(other._loop_begin() if kind == "loop" else other._walk_begin()), *other._slots(), *other._element([mov(0, 0)])]
        for register in NUMBERS:
            out += [load(register, FP, DATA)] if register == 9 else other._number(register)
        for _ in range(self.rng.randint(1, 3)):
            out += self.rng.choice((other._straight, other._branch, other._shared, other._lookup, other._map_helper))()
        return [*out, *other._answer()]

    def _element(self, without: Code | None = None) -> Code:
        lookup = [store_imm(FP, KEY, 0), *pointer(2, KEY), *of_map(ARRAY), call(BY_NAME["map_lookup_elem"])]
        end = [*(without or []), Insn(EXIT)]
        return [*lookup, jump(0x55, 0, 0, len(end)), *end, mov_reg(7, 0)]

    def _fold(self) -> Code:
        """All numbers go into the element; the result is one of them."""
        out = [store(7, register, LAST + 8 * place) for place, register in enumerate(NUMBERS)]
        for at in range(LOW, HIGH, 8):
            out += [load(1, FP, at), Insn(0xAF, 0, 1)]
        out += [store(7, 0, LAST + 56)]
        return [*out, Insn(EXIT)]

    # -- pieces

    def _blocks(self, count: int) -> Code:
        out: Code = []
        for _ in range(count):
            out += self._block()
        return out

    def _block(self) -> Code:
        kinds = [self._straight, self._straight, self._branch, self._branch, self._loop, self._call]
        more = [self._lookup, self._map_helper, self._other, self._other]
        return self.rng.choice(kinds if self.bare else [*kinds, *more])()

    def _map_helper(self) -> Code:
        pieces = (self._update, self._delete, self._queue, self._bloom, self._ring, self._checksum, self._digits)
        return [*self.rng.choice(pieces)(), *self._fresh()]

    def _other(self) -> Code:
        """Of its packet, maps in maps, values by address, callbacks, or other programs."""
        packet = self._nested if self.inside else self._by_packet
        return self.rng.choice((packet, self._nested, self._direct, self._called_back, self._tail_call))()

    def _by_packet(self) -> Code:
        return [*self._about_the_packet(), *self._fresh()]

    def _checksum(self) -> Code:
        if self.type == ProgType.SOCKET_FILTER:
            return self._digits()
        sizes = [self.rng.choice((0, 4, 8, 16)) for _ in range(2)]
        before = [
            mov_reg(5, self.rng.choice((0, 9))),
            *self._data(),
            *pointer(1, DATA),
            mov(2, sizes[0]),
            *pointer(3, LOW),
            mov(4, sizes[1]),
        ]
        return [*before, call(BY_NAME["csum_diff"])]

    def _digits(self) -> Code:
        """A number read from text."""
        text = "".join(self.rng.choice(" -+0x123789abz") for _ in range(8)).encode()
        low, high = (int.from_bytes(text[at : at + 4], "little", signed=True) for at in (0, 4))
        before = [
            words.wide(1, low, 0, high),
            store(FP, 1, DATA),
            store_imm(FP, DATA + 8, 5),
            *pointer(1, DATA),
            mov(2, self.rng.randint(1, 8)),
        ]
        before += [mov(3, self.rng.choice((0, 8, 10, 16, 7))), *pointer(4, DATA + 8), call(BY_NAME[self.rng.choice(("strtol", "strtoul"))])]
        return [*before, load(9, FP, DATA + 8)]
