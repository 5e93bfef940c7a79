"""The pieces of a generated program that use maps by helpers."""

from fuzz import words
from fuzz.basics import Basics
from fuzz.shapes import (
    ARRAY,
    BLOOM,
    BY_NAME,
    DATA,
    HASH,
    KEY,
    LAST,
    LRU,
    MAPS,
    ONE,
    OUTER,
    OUTER_HASH,
    PER_CPU,
    PER_CPU_HASH,
    QUEUE,
    RING,
    STACK,
    TRIE,
    VALUE,
)
from fuzz.words import Code, call, jump, load, mov, mov_reg, store, store_imm, wide

from ebpf.isa.opcodes import FP, Size
from ebpf.uapi import PseudoSrc


def pointer(register: int, at: int) -> Code:
    """An address in the stack."""
    return [mov_reg(register, FP), words.add(register, at)]


def of_map(number: int) -> Code:
    """The map in r1."""
    return [wide(1, number, PseudoSrc.MAP_FD)]


class MapPieces(Basics):
    """Lookups, updates, deletions, queues, filters, ring buffers and maps in maps."""

    def _key_of(self, number: int) -> Code:
        if number != TRIE:
            return self._key(10)
        # Few bits of the address differ, so that prefixes nest; more than 32 are none.
        bits = self.rng.choice((0, 4, 8, 8, 12, 16, 24, 31, 32, 32, 33))
        length = store_imm(FP, KEY, bits, Size.W)
        if self.rng.random() < 0.5:
            return [length, store_imm(FP, KEY + 4, self.rng.choice((0, 1, 0x0100, 0x0101, -0x7FFFFFFF, 0x01010101)), Size.W)]
        register = self._scalar()
        return [length, words.mask(register, 0x10101), store(FP, register, KEY + 4, Size.W)]

    def _inside_value(self, size: int) -> Code:
        """What is done with the value at r0; r0 is a number then."""
        inside = [words.access(self.rng, 0, 0, size, self.rng.choice((3, 4, 9)), self.rng.choice((9, 3, 4)), cmpxchg=False)]
        return [mov_reg(3, 9), mov_reg(4, 9), *inside, load(0, 0, 0)]

    def _lookup(self) -> Code:
        """An element that may not be there, read and written."""
        number = self.rng.choice((ARRAY, HASH, HASH, PER_CPU, TRIE, LRU, PER_CPU_HASH))
        inside = self._inside_value(min(MAPS[number].value, LAST))
        before = [*self._key_of(number), *pointer(2, KEY), *of_map(number)]
        return [*before, call(BY_NAME["map_lookup_elem"]), jump(0x15, 0, 0, words.slots(inside)), *inside, *self._fresh()]

    def _nested(self) -> Code:
        """An element of a map that is in a map."""
        inside = self._inside_value(16)
        lookup = call(BY_NAME["map_lookup_elem"])
        middle = [mov_reg(1, 0), *self._constant_key(4), *pointer(2, KEY), lookup, jump(0x15, 0, 0, words.slots(inside)), *inside]
        before = [*self._key(6), *pointer(2, KEY), *of_map(self.rng.choice((OUTER, OUTER_HASH)))]
        return [*before, lookup, jump(0x15, 0, 0, words.slots(middle)), *middle, *self._fresh()]

    def _constant_key(self, most: int) -> Code:
        return [store_imm(FP, KEY, self.rng.randrange(most + 1), Size.W)]

    def _direct(self) -> Code:
        """A map's only value by its address."""
        base = self.rng.choice((1, 2, 3, 4, 5))
        into = self.rng.choice([n for n in (0, 1, 2, 3, 4, 5, 9) if n != base])
        at = self.rng.randrange(0, VALUE, 8)
        one = words.access(self.rng, base, 0, 8, into, 9, cmpxchg=False)
        return [wide(base, ONE, PseudoSrc.MAP_VALUE, at), one, *self._number(base)]

    def _update(self) -> Code:
        flags = self.rng.choice((0, 0, 1, 2, 3))
        number = self.rng.choice((HASH, HASH, HASH, PER_CPU, TRIE, TRIE, LRU, PER_CPU_HASH))
        before = [*self._key_of(number), *self._data(), *pointer(2, KEY), *pointer(3, DATA), mov(4, flags)]
        return [*before, *of_map(number), call(BY_NAME["map_update_elem"])]

    def _delete(self) -> Code:
        number = self.rng.choice((HASH, HASH, TRIE, LRU, PER_CPU_HASH, ARRAY))
        return [*self._key_of(number), *pointer(2, KEY), *of_map(number), call(BY_NAME["map_delete_elem"])]

    def _queue(self) -> Code:
        number, what = self.rng.choice((QUEUE, STACK)), self.rng.choice(("push", "push", "pop", "peek"))
        before = [*self._data(), *pointer(2, DATA), *of_map(number)]
        after = [load(9, FP, DATA)]
        return [*before, *([mov(3, self.rng.choice((0, 0, 2)))] if what == "push" else []), call(BY_NAME[f"map_{what}_elem"]), *after]

    def _bloom(self) -> Code:
        what = self.rng.choice(("push", "peek"))
        register = self._scalar()
        before = [words.mask(register, 7), store(FP, register, DATA), *pointer(2, DATA), *of_map(BLOOM)]
        return [*before, *([mov(3, 0)] if what == "push" else []), call(BY_NAME[f"map_{what}_elem"])]

    def _ring(self) -> Code:
        return self.rng.choice((self._ring_output, self._ring_reserve, self._ring_query))()

    def _ring_output(self) -> Code:
        size, flags = self.rng.choice((0, 1, 8, 13, 16)), self.rng.choice((0, 1, 2, 3, 4))
        return [*self._data(), *pointer(2, DATA), mov(3, size), mov(4, flags), *of_map(RING), call(BY_NAME["ringbuf_output"])]

    def _ring_reserve(self) -> Code:
        """A record that is reserved, written and given or taken back; no room is met with some."""
        size = self.rng.choice((8, 24, 1000))
        written = [store(0, 9, 8 * place) for place in range(size // 8)] if size < 1000 else []
        if not written:
            written = [store(0, 9, at) for at in range(0, 1000, 8)] if self.rng.random() < 0.5 else []
        end = call(BY_NAME["ringbuf_submit" if written and self.rng.random() < 0.7 else "ringbuf_discard"])
        inside = [*written, mov_reg(1, 0), mov(2, self.rng.choice((0, 1, 2))), end, mov(0, 7)]
        before = [mov(2, size), mov(3, 0), *of_map(RING), call(BY_NAME["ringbuf_reserve"])]
        return [*before, jump(0x15, 0, 0, words.slots(inside)), *inside]

    def _ring_query(self) -> Code:
        # The positions go on from run to run; what is there, and the size, do not.
        return [mov(2, self.rng.choice((0, 1, 4, 99))), *of_map(RING), call(BY_NAME["ringbuf_query"])]
