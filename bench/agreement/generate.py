"""Programs by chance, deterministic by seed: six kinds, each a function of a random source that gives a case."""

import random
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from bench.agreement.case import Case, MapCase

_XDP, _TC, _SOCKET = 6, 3, 1
_MAP = MapCase(2, 4, 48, 4, name="values")
_ALU = (0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x90, 0xA0, 0xB0, 0xC0)
_JUMPS = (0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0xA0, 0xB0, 0xC0, 0xD0)
_NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    8,
    15,
    16,
    31,
    32,
    33,
    47,
    48,
    63,
    64,
    127,
    128,
    255,
    256,
    0x7FFF,
    0xFFFF,
    0x10000,
    0x7FFFFFFF,
    -1,
    -2,
    -8,
    -16,
    -64,
)
_NUMBERS += (-256, -0x80000000)
_SIZES: Final = {1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18}


def insn(opcode: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    return struct.pack("<BBhi", opcode, dst | src << 4, off, imm)


def _lookup(out: list[bytes], key: int = 0) -> list[int]:
    """A lookup in map 0, not checked for null: the places of its wide instruction."""
    out += [insn(0x62, 10, 0, -4, key), insn(0xBF, 2, 10), insn(0x07, 2, 0, 0, -4)]
    slot = len(out)
    out += [insn(0x18, 1, 1, 0, 0), insn(0), insn(0x85, 0, 0, 0, 1)]
    return [slot]


def _unknowns(rng: random.Random, out: list[bytes], base: int) -> None:
    """Numbers nothing is known of, from the map value in `base`, of several widths, in r6 to r9."""
    for reg in range(6, 10):
        size = rng.choice((1, 2, 4, 8, 8))
        out.append(insn(0x61 | _SIZES[size], reg, base, 8 * (reg - 6)))


def _alu(rng: random.Random) -> bytes:
    wide = rng.choice((0x07, 0x07, 0x04))
    op = rng.choice(_ALU)
    dst = rng.randint(6, 9)
    off = rng.choice((0, 0, 0, 1)) if op in (0x30, 0x90) else 0
    if op == 0xB0 and rng.random() < 0.4:
        off = rng.choice((8, 16, 32) if wide == 0x07 else (8, 16))
        return insn(wide | 8 | op, dst, rng.randint(6, 9), off)
    if rng.random() < 0.5:
        return insn(wide | 8 | op, dst, rng.randint(6, 9), off)
    imm = rng.choice(_NUMBERS)
    if op in (0x60, 0x70, 0xC0):
        imm = rng.randrange(64 if wide == 0x07 else 32)
    if op in (0x30, 0x90) and not imm:
        imm = 3
    return insn(wide | op, dst, 0, off, imm)


def _jump(rng: random.Random, off: int) -> bytes:
    kind = rng.choice((0x05, 0x05, 0x06))
    op = rng.choice(_JUMPS)
    if rng.random() < 0.4:
        return insn(kind | 8 | op, rng.randint(6, 9), rng.randint(6, 9), off)
    return insn(kind | op, rng.randint(6, 9), 0, off, rng.choice(_NUMBERS))


def _body(rng: random.Random, out: list[bytes], count: int, more: Callable[[random.Random], bytes] | None = None) -> None:
    """Arithmetic and jumps forward, which never leave the body."""
    for left in range(count, 0, -1):
        choice = rng.random()
        if choice < 0.3 and left > 2:
            out.append(_jump(rng, rng.randint(1, min(6, left - 1))))
        elif choice < 0.4:
            out.append(insn(0x7B, 10, rng.randint(6, 9), -8 * rng.randint(1, 4) - 8))
        elif choice < 0.6 and more is not None:
            out.append(more(rng))
        else:
            out.append(_alu(rng))


def _case(kind: str, seed: int, out: list[bytes], maps: list[int], prog_type: int = _XDP) -> Case:
    used = (_MAP,) if maps else ()
    return Case(f"generated/{kind}:{seed}", "generated", kind, str(seed), b"".join(out), prog_type, maps=used, map_slots=tuple(maps))


def scalar(seed: int) -> Case:
    """Numbers alone; an access at the end whose offset is one of them."""
    rng = random.Random(f"scalar {seed}")
    out: list[bytes] = []
    maps = _lookup(out)
    out += [insn(0x55, 0, 0, 2, 0), insn(0xB7), insn(0x95)]
    _unknowns(rng, out, 0)
    for slot in range(2, 6):
        out.append(insn(0x7A, 10, 0, -8 * slot, 0))
    out.append(insn(0xBF, 5, 0))
    _body(rng, out, rng.randint(4, 40))
    used = rng.randint(6, 9)
    out += [insn(0x57, used, 0, 0, rng.choice((15, 31, 47, 63)))] if rng.random() < 0.7 else []
    out += [insn(0x25, used, 0, 2, rng.choice((40, 47, 48)))] if rng.random() < 0.6 else []
    out += [insn(0x0F, 5, used), insn(0x71, 1, 5, rng.choice((0, 0, 1, 8))), insn(0xB7), insn(0x95)]
    return _case("scalar", seed, out, maps)


def access(seed: int) -> Case:
    """Packet, map and stack: pointers moved by numbers, checks that may be wrong, spills."""
    rng = random.Random(f"access {seed}")
    out: list[bytes] = [insn(0xBF, 4, 1)]
    out += [insn(0x61, 7, 1, 0), insn(0x61, 8, 1, 4)]
    out.append(insn(0x7B, 10, 7, -16))
    maps = _lookup(out)
    if rng.random() < 0.9:
        out += [insn(0x55, 0, 0, 2, 0), insn(0xB7), insn(0x95)]
    out.append(insn(0xBF, 9, 0))
    out.append(insn(0x71, 6, 9, 0) if rng.random() < 0.5 else insn(0xB7, 6, 0, 0, rng.choice((0, 4, 14, 40))))
    out.append(insn(0xBF, 2, 7))
    if rng.random() < 0.5:
        out.append(insn(0x0F, 2, 6))
    out += [insn(0xBF, 3, 2), insn(0x07, 3, 0, 0, rng.choice((1, 8, 14, 34)))]
    out += [insn(rng.choice((0xBD, 0xBD, 0xAD, 0x2D, 0x3D)), *rng.choice(((3, 8), (3, 8), (8, 3))), 2), insn(0xB7), insn(0x95)]
    for _ in range(rng.randint(1, 6)):
        base = rng.choice((2, 2, 7, 9, 9, 10))
        if rng.random() < 0.15 and base in (7, 9):
            out.append(insn(0x0F, base, 6))
            continue
        size = rng.choice((1, 2, 4, 8))
        off = -rng.randint(1, 72) if base == 10 else rng.choice((0, 1, 8, 13, 14, 33, 40, 44, 47))
        kind = rng.choice((0x61, 0x61, 0x62, 0x63))
        out.append(insn(kind | _SIZES[size], *((1, base) if kind == 0x61 else (base, 0 if kind == 0x62 else 6)), off, 0))
    out += [insn(0xB7, 0, 0, 0, 2), insn(0x95)]
    return _case("access", seed, out, maps)


_HELPERS = (
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    14,
    15,
    16,
    23,
    25,
    26,
    28,
    44,
    51,
    54,
    65,
    87,
    88,
    89,
    100,
    112,
    113,
    114,
    115,
    125,
    130,
    131,
    158,
    160,
)


def calls(seed: int) -> Case:
    """A helper called with arguments by chance."""
    rng = random.Random(f"calls {seed}")
    out: list[bytes] = [insn(0xBF, 6, 1)]
    out += [insn(0x7A, 10, 0, -8 * each, 1) for each in range(1, rng.choice((3, 5)))]
    maps = _lookup(out)
    if rng.random() < 0.8:
        out += [insn(0x55, 0, 0, 2, 0), insn(0xB7), insn(0x95)]
    out += [insn(0xBF, 7, 0), insn(0x71, 8, 7, 0)]
    for _ in range(rng.randint(1, 2)):
        for reg in range(1, 6):
            what = rng.random()
            if what < 0.2:
                maps.append(len(out))
                out += [insn(0x18, reg, 1, 0, 0), insn(0)]
            elif what < 0.4:
                out += [insn(0xBF, reg, 10), insn(0x07, reg, 0, 0, -rng.choice((4, 8, 16, 24, 32)))]
            elif what < 0.9:
                held = [insn(0xBF, reg, other) for other in (6, 7, 8)]
                out.append(rng.choice((*held, insn(0xB7, reg, 0, 0, rng.choice(_NUMBERS[:14])))))
        out.append(insn(0x85, 0, 0, 0, rng.choice(_HELPERS)))
        if rng.random() < 0.3:
            out += [insn(0x15, 0, 0, 1, 0), insn(0x71, 1, 0, 0)]
    out += [insn(0xB7, 0, 0, 0, 0), insn(0x95)]
    return _case("calls", seed, out, maps, rng.choice((_XDP, _TC, _SOCKET)))


def loop(seed: int) -> Case:
    """A loop with a counter that may or may not end, and numbers that change in it."""
    rng = random.Random(f"loop {seed}")
    out: list[bytes] = []
    maps = _lookup(out)
    out += [insn(0x55, 0, 0, 2, 0), insn(0xB7), insn(0x95)]
    _unknowns(rng, out, 0)
    for slot in range(2, 6):
        out.append(insn(0x7A, 10, 0, -8 * slot, 0))
    out.append(insn(0xB7, rng.choice((2, 6)), 0, 0, 0))
    out.append(insn(0xB7, 2))
    head = len(out)
    _body(rng, out, rng.randint(1, 8))
    out.append(insn(0x07, 2, 0, 0, rng.choice((1, 1, 1, 2, 0, -1))))
    jump = rng.choice((0xA5, 0xA5, 0x55, 0xC5, 0xAD))
    out.append(insn(jump, 2, 6 if jump == 0xAD else 0, head - len(out) - 1, rng.choice((3, 8, 16, 40))))
    out += [insn(0xB7), insn(0x95)]
    return _case("loop", seed, out, maps)


def one(seed: int) -> Case:
    """One instruction, every opcode in turn, on registers of every kind: context, stack, map, value, packet, number."""
    rng = random.Random(f"one {seed}")
    out: list[bytes] = [insn(0xBF, 6, 1)]
    maps = _lookup(out)
    if seed // 256 % 4:
        out += [insn(0x55, 0, 0, 2, 0), insn(0xB7), insn(0x95)]
    out += [insn(0xBF, 7, 0), insn(0x61, 8, 6, 0), insn(0x61, 9, 6, 4)]
    maps.append(len(out))
    out += [insn(0x18, 3, 1, 0, 0), insn(0), insn(0xB7, 4, 0, 0, 5), insn(0x61, 5, 6, 12)]
    off = rng.choice((0, 0, 0, 1, 2, 8, -8, -16, 3))
    out.append(insn(seed % 256, rng.randint(0, 11) % 11, rng.randint(0, 11) % 11, off, rng.choice((0, *_NUMBERS))))
    out += [insn(0xB7, 0), insn(0xB7, 0), insn(0xB7, 0), insn(0x95)]
    return _case("one", seed, out, maps)


def mutated(case: Case, seed: int) -> Case:
    """A real program with one thing changed: an instruction that does nothing now, another constant, a branch turned."""
    rng = random.Random(f"mutated {seed} {case.id}")
    code = bytearray(case.code)
    wide = {at for at in range(0, len(code), 8) if code[at] == 0x18}
    places = [at for at in range(0, len(code) - 8, 8) if at not in wide and at - 8 not in wide and code[at] not in (0x85, 0x95)]
    if places:
        at = rng.choice(places)
        jump = code[at] & 7 in (5, 6)
        choice = rng.random()
        if choice < 0.4:
            code[at : at + 8] = insn(0x05)
        elif choice < 0.7 or not jump:
            code[at + 4 : at + 8] = struct.pack("<i", rng.choice(_NUMBERS))
        else:
            code[at] = code[at] & 0x0F | rng.choice(_JUMPS)
    return replace(case, id=f"generated/mutated:{seed}", set="generated", file="mutated", name=f"{case.id} {seed}", code=bytes(code))


KINDS: Final[dict[str, Callable[[int], Case]]] = {"scalar": scalar, "access": access, "calls": calls, "loop": loop, "one": one}
