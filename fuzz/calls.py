"""The pieces of a generated program that leave it: functions, callbacks and tail calls."""

from fuzz import words
from fuzz.maps import of_map, pointer
from fuzz.packets import PacketPieces
from fuzz.shapes import ARRAY, BY_NAME, CTX, DATA, HASH, LAST, LOW, LRU, NUMBERS, PER_CPU, PER_CPU_HASH, PROGRAMS
from fuzz.words import Code, call, load, mov, mov_reg, store, wide

from ebpf.isa import Insn
from ebpf.isa.opcodes import EXIT, FP
from ebpf.uapi import PseudoSrc

#: Callbacks are numbered from here, ordinary functions from 0.
CALLBACKS = 100
#: Which of the caller's numbers callbacks change, from LOW on.
_SHARED = (0, 8, 16)


class CallPieces(PacketPieces):
    """Calls of functions with the element, the context and numbers; loops and walks with a callback; jumps into other programs."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self.functions = self.rng.choice((0, 0, 1, 2, 3))
        self.least = 0
        self.tails = 0
        self.callbacks: list[Code] = []

    def _callback_code(self, kind: str) -> Code:
        raise NotImplementedError

    def _call(self) -> Code:
        """A call of a function; where it may jump into another program the packet may have moved."""
        if self.least >= self.functions:
            return self._branch()
        arguments = [mov_reg(1, 7), *([] if self.bare else [load(2, FP, CTX)])]
        return [*arguments, words.call_function(self.rng.randrange(self.least, self.functions)), *self._moved(), *self._fresh()]

    def _tail_call(self) -> Code:
        """To another program of the map, to none, or to this one again; behind it nothing is known of r0."""
        if not self.tails or self.least > 2:
            return self._branch()
        register = self._scalar()
        index = [mov(3, self.rng.randrange(6))] if self.rng.random() < 0.6 else [words.mask(register, 7), mov_reg(3, register)]
        jump = [*index, load(1, FP, CTX), wide(2, PROGRAMS, PseudoSrc.MAP_FD), call(BY_NAME["tail_call"])]
        return [*jump, *self._number(0), *self._moved(), *self._fresh()]

    def _called_back(self) -> Code:
        return self.rng.choice((self._bpf_loop, self._walk))()

    def _function_address(self, kind: str) -> Code:
        self.callbacks.append(self._callback_code(kind))
        return [wide(2, CALLBACKS + len(self.callbacks) - 1, PseudoSrc.FUNC)]

    def _bpf_loop(self) -> Code:
        """Some rounds of a callback that has the numbers on this stack."""
        # Linux 6.18 fails with EFAULT where its verifier knows that there are no rounds: it drops the callback and then looks for it.
        some = [load(1, 7, self.rng.randrange(0, LAST, 8)), words.mask(1, 7)]
        rounds = [mov(1, self.rng.choice((1, 2, 5, 9)))] if self.rng.random() < 0.6 else some
        address = self._function_address("loop")
        return [*self._unknown(), *rounds, *address, *pointer(3, LOW), mov(4, 0), call(BY_NAME["loop"]), *self._fresh()]

    def _unknown(self) -> Code:
        """Numbers that no verifier knows in what callbacks change: with known ones each round would be walked for itself."""
        return [each for at in _SHARED for each in (load(1, 7, self.rng.randrange(0, LAST, 8)), store(FP, 1, LOW + at))]

    def _walk(self) -> Code:
        """A callback for each element of a map."""
        number = self.rng.choice((ARRAY, HASH, HASH, LRU, PER_CPU, PER_CPU_HASH))
        address = self._function_address("array" if number == ARRAY else "elements")
        walk = [*of_map(number), *pointer(3, LOW), mov(4, 0), call(BY_NAME["for_each_map_elem"])]
        return [*self._unknown(), *address, *walk, *self._fresh()]

    # -- what callbacks do: r6 is the caller's stack from LOW on

    def _loop_begin(self) -> Code:
        return [mov_reg(6, 2), store(FP, 1, DATA)]

    def _walk_begin(self) -> Code:
        return [mov_reg(6, 4), words.ctx(1, 2, 0), store(FP, 1, DATA), load(1, 3, 0), store(FP, 1, DATA + 8), store(FP, 3, CTX)]

    def _shared(self) -> Code:
        """A number of the caller's changed."""
        at = self.rng.choice(_SHARED)
        register = self.rng.choice((1, 2, 3, 4, 5))
        return [load(register, 6, at), Insn(0x0F, register, self.rng.choice((0, 9))), store(6, register, at)]

    def _sum(self) -> Code:
        """What the order of elements does not matter for: a number of key and value is added to one of the caller's, and written."""
        out: Code = [load(1, FP, DATA), load(2, FP, DATA + 8), *self._number(0), *self._number(9)]
        registers = (0, 1, 2, 9)
        for _ in range(self.rng.randint(1, 8)):
            out += [words.alu(self.rng, self.rng.choice(registers), self.rng.choice(registers))]
        out += [load(3, 6, 8), Insn(0x0F, 3, 1), store(6, 3, 8), load(4, FP, CTX), store(4, 2, 0)]
        return [*out, mov(0, 0), Insn(EXIT)]

    def _answer(self) -> Code:
        """0 to go on, 1 to end."""
        if self.rng.random() < 0.5:
            return [mov(0, 0), Insn(EXIT)]
        return [mov_reg(0, self.rng.choice(NUMBERS)), words.mask(0, 1), Insn(EXIT)]
