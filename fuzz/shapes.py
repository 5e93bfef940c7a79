"""What generated programs are made of: their maps, and where they keep what on the stack."""

from dataclasses import dataclass
from typing import Final

from fuzz import words

from ebpf.isa import Insn
from ebpf.uapi import MapType, ProgType

PACKET: Final = 96
VALUE: Final = 128
#: What of the array's element the program's last words are written to.
LAST: Final = 64
#: The stack: the context, the numbers' slots, and room for what helpers are given.
CTX, LOW, HIGH, KEY, DATA = -8, -80, -16, -88, -104
NUMBERS: Final = (0, 1, 2, 3, 4, 5, 9)
COUNTER: Final = 8
BY_NAME: Final = words.helper_numbers()

_NO_PREALLOC: Final = 1


@dataclass(frozen=True)
class MapShape:
    """A map of a generated program; programs name it by its place among `MAPS`. `inner` are the maps in a map of maps, by key."""

    name: str
    type: MapType
    key: int
    value: int
    entries: int
    flags: int = 0
    inner: tuple[tuple[int, int], ...] = ()


ARRAY, HASH, PER_CPU, QUEUE, STACK, TRIE, LRU, PER_CPU_HASH, BLOOM, RING, ONE, FIRST, SECOND, OUTER, OUTER_HASH, PROGRAMS = range(16)
MAPS: Final = (
    MapShape("array", MapType.ARRAY, 4, VALUE, 4),
    MapShape("hash", MapType.HASH, 4, 16, 8),
    MapShape("per_cpu", MapType.PERCPU_ARRAY, 4, 16, 2),
    MapShape("queue", MapType.QUEUE, 0, 8, 4),
    MapShape("stack", MapType.STACK, 0, 8, 4),
    MapShape("trie", MapType.LPM_TRIE, 8, 16, 6, _NO_PREALLOC),
    # Large enough for all keys that there are: what goes under pressure is each kernel's own affair.
    MapShape("lru", MapType.LRU_HASH, 4, 16, 1024),
    MapShape("per_cpu_hash", MapType.PERCPU_HASH, 4, 16, 8),
    MapShape("bloom", MapType.BLOOM_FILTER, 0, 8, 4096),
    MapShape("ring", MapType.RINGBUF, 0, 0, 4096),
    MapShape("one", MapType.ARRAY, 4, VALUE, 1),
    MapShape("first", MapType.ARRAY, 4, 16, 4),
    MapShape("second", MapType.ARRAY, 4, 16, 4),
    MapShape("outer", MapType.ARRAY_OF_MAPS, 4, 4, 4, inner=((0, FIRST), (2, SECOND))),
    MapShape("outer_hash", MapType.HASH_OF_MAPS, 4, 4, 4, inner=((1, SECOND), (4, FIRST))),
    MapShape("programs", MapType.PROG_ARRAY, 4, 4, 5),
)


@dataclass(frozen=True)
class Made:
    """A generated program: where it names map number n, its ld_imm64 has n as descriptor.

    `tails` are programs of the same kind in the map of programs, from its key 1 on; at key 0 is this one.
    """

    seed: int
    insns: tuple[Insn, ...]
    packet: bytes
    type: ProgType = ProgType.XDP
    tails: tuple[tuple[Insn, ...], ...] = ()
