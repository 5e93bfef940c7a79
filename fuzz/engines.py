"""A generated program in the interpreter, as machine code and in Linux: what came of it, to be compared."""

import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from fuzz.shapes import ARRAY, BY_NAME, FIRST, HASH, LRU, MAPS, ONE, OUTER, PER_CPU, PER_CPU_HASH, PROGRAMS, SECOND, TRIE, Made, MapShape
from fuzz.words import call, names_function

from ebpf.btf.build import Builder
from ebpf.errors import KernelError
from ebpf.events.ring import RingBuffer
from ebpf.isa import Insn, encode
from ebpf.isa.opcodes import LD_IMM64
from ebpf.kernels.user.kernel import UserKernel
from ebpf.spec import MapSpec
from ebpf.sys.calls import BtfLoad, MapCreate, MapDelete, MapLookup, MapLookupAndDelete, MapNextKey, MapUpdate, ProgLoad, ProgTestRun
from ebpf.sys.kernel import Kernel
from ebpf.uapi import MapType, PseudoSrc

_HASHES = (MapType.HASH, MapType.LRU_HASH, MapType.LPM_TRIE)
_PER_CPU = (MapType.PERCPU_ARRAY, MapType.PERCPU_HASH)
_NAMED = (PseudoSrc.MAP_FD, PseudoSrc.MAP_VALUE)
_UNREAD = (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS, MapType.PROG_ARRAY, MapType.BLOOM_FILTER)


@dataclass(frozen=True)
class Outcome:
    """The result, the packet and the maps after a run; or that the program was refused, and why."""

    retval: int = 0
    packet: bytes = b""
    maps: tuple[tuple[object, ...], ...] = ()
    refused: str = ""


@dataclass(frozen=True)
class _Ring:
    """What a reader wants of a map; the descriptor stays the session's."""

    kernel: Kernel
    fd: int
    spec: MapSpec


class Session:
    """A kernel with fresh maps for one program."""

    def __init__(self, kernel: Kernel, made: Made, *, cpus: int) -> None:
        self.kernel, self.made, self._cpus = kernel, made, cpus
        self.fds = [-1] * len(MAPS)
        for number in _used((made.insns, *made.tails)):
            self.fds[number] = self._create(MAPS[number])
        self.types = -1
        self.progs: list[int] = []
        self.refused = ""
        try:
            for place, insns in enumerate((made.insns, *made.tails)):
                self.progs.append(self._load(insns))
                self._put(PROGRAMS, place.to_bytes(4, "little"), self.progs[-1].to_bytes(4, "little"))
        except KernelError as error:
            self.refused = str(error)

    @property
    def prog(self) -> int:
        """The first program's descriptor."""
        return self.progs[0]

    def _load(self, insns: Sequence[Insn]) -> int:
        code = encode(placed(insns, self.fds))
        info = b""
        if any(names_function(insn) for insn in insns) and any(_wants_types(insn) for insn in insns):
            # Callbacks need types, and functions that jump into other programs: all have the one.
            self.types = self.types if self.types >= 0 else self.kernel.bpf(BtfLoad(_types()))
            info = b"".join(struct.pack("<II", start, 3) for start in _starts(insns))
        call = ProgLoad(
            prog_type=self.made.type,
            insns=code,
            license="GPL",
            name="fuzz",
            btf_fd=max(self.types, 0) if info else 0,
            func_info=info,
            func_info_rec_size=8 if info else 0,
        )
        return self.kernel.bpf(call).fd

    def _create(self, shape: MapShape) -> int:
        inner = self.fds[shape.inner[0][1]] if shape.inner else 0
        return self.kernel.bpf(
            MapCreate(shape.type, shape.key, shape.value, shape.entries, shape.flags, name=shape.name, inner_map_fd=inner)
        )

    def run(self) -> Outcome:
        """One run, from maps as they are to what is in them then."""
        if self.refused:
            return Outcome(refused=self.refused)
        self.fill()
        done = self.kernel.bpf(ProgTestRun(self.prog, self.made.packet, repeat=1, data_size_out=1024))
        return Outcome(done.retval, done.data, tuple(self._take(fd, shape) for fd, shape in zip(self.fds, MAPS, strict=True)))

    def fill(self) -> None:
        """The same elements before each run."""
        packet = self.made.packet
        for number in (ARRAY, ONE, FIRST, SECOND):
            for key in range(MAPS[number].entries):
                self._put(number, key.to_bytes(4, "little"), (packet * 2)[key + number : key + number + MAPS[number].value])
        for number, keys in ((HASH, (1, 4)), (LRU, (2, 3))):
            for key in keys:
                self._put(number, key.to_bytes(4, "little"), packet[key : key + MAPS[number].value])
        for bits, address in ((0, 0), (8, 1), (24, 0x010101)):
            self._put(TRIE, struct.pack("<II", bits, address), packet[bits : bits + MAPS[TRIE].value])
        for key in range(MAPS[PER_CPU].entries):
            self._put(PER_CPU, key.to_bytes(4, "little"), bytes(MAPS[PER_CPU].value * self._cpus))
        self._put(PER_CPU_HASH, (3).to_bytes(4, "little"), bytes(MAPS[PER_CPU_HASH].value * self._cpus))
        for number, shape in enumerate(MAPS[OUTER:], OUTER):
            for key, inner in shape.inner if self.fds[number] >= 0 else ():
                self._put(number, key.to_bytes(4, "little"), self.fds[inner].to_bytes(4, "little"))

    def _put(self, number: int, key: bytes, value: bytes) -> None:
        if self.fds[number] >= 0:
            self.kernel.bpf(MapUpdate(self.fds[number], key, value))

    def _take(self, fd: int, shape: MapShape) -> tuple[object, ...]:
        """What is in a map, if there is one; queues, stacks, rings and hashes are empty afterwards."""
        if fd < 0 or shape.type in _UNREAD:
            return ()
        if shape.type == MapType.RINGBUF:
            with RingBuffer(_Ring(self.kernel, fd, MapSpec(shape.name, shape.type, 0, 0, shape.entries))) as ring:  # type: ignore[arg-type]
                return tuple(ring.records())
        if shape.type in (MapType.QUEUE, MapType.STACK):
            out: list[object] = []
            with suppress(KernelError):
                while True:
                    out.append(self.kernel.bpf(MapLookupAndDelete(fd, b"", shape.value)))
            return tuple(out)
        keys: list[bytes] = []
        with suppress(KernelError):
            while True:
                keys.append(self.kernel.bpf(MapNextKey(fd, keys[-1] if keys else None, shape.key)))
        size = shape.value * self._cpus if shape.type in _PER_CPU else shape.value
        found = [(key, self.kernel.bpf(MapLookup(fd, key, size))) for key in keys]
        if shape.type in (*_HASHES, MapType.PERCPU_HASH):
            for key in keys:
                self.kernel.bpf(MapDelete(fd, key))
        if shape.type in _PER_CPU:
            return tuple((key, self._sums(value, shape.value)) for key, value in sorted(found))
        # A trie is walked in an order of its own, which is the same everywhere.
        return tuple(found if shape.type == MapType.LPM_TRIE else sorted(found))

    def _sums(self, values: bytes, size: int) -> object:
        """A per-CPU value whichever CPU it was that ran."""
        parts = [values[at : at + size] for at in range(0, len(values), size)]
        return tuple(sorted(part for part in parts if any(part)))

    def interpreted(self) -> Outcome:
        """A run of the same program by the interpreter (of the user kernel)."""
        if self.refused:
            return Outcome(refused=self.refused)
        assert isinstance(self.kernel, UserKernel)
        program = self.kernel.program_at(self.prog, "fuzz").program
        entry, program.entry = program.entry, 0
        try:
            return self.run()
        finally:
            program.entry = entry

    def close(self) -> None:
        for fd in (*self.progs, *self.fds, self.types):
            if fd >= 0:
                self.kernel.close(fd)


def _used(programs: Sequence[Sequence[Insn]]) -> list[int]:
    """The maps that programs name, and those in them, in order."""
    named = {insn.imm for insns in programs for insn in insns if insn.opcode == LD_IMM64 and insn.src in _NAMED}
    return sorted(named | {inner for number in named for _, inner in MAPS[number].inner})


def placed(insns: Sequence[Insn], fds: Sequence[int]) -> list[Insn]:
    """The program with descriptors for its maps."""
    return [replace(insn, imm=fds[insn.imm]) if insn.opcode == LD_IMM64 and insn.src in _NAMED else insn for insn in insns]


def _wants_types(insn: Insn) -> bool:
    return (insn.opcode == LD_IMM64 and insn.src == PseudoSrc.FUNC) or insn == call(BY_NAME["tail_call"])


def _starts(insns: Sequence[Insn]) -> list[int]:
    """Where functions begin."""
    starts, here = {0}, 0
    for insn in insns:
        if names_function(insn):
            starts.add(here + 1 + insn.imm)
        here += insn.slots
    return sorted(starts)


def _types() -> bytes:
    """A number (1), a function's type (2) and a static function (3)."""
    builder = Builder()
    builder.func("piece", builder.func_proto(builder.integer("int", 4, signed=True), []))
    return builder.raw()


def possible_cpus() -> int:
    """How many CPUs per-CPU maps of Linux have values for."""
    with open("/sys/devices/system/cpu/possible", encoding="ascii") as file:
        return int(file.read().strip().split(",")[-1].split("-")[-1]) + 1


def stay() -> None:
    """Keep this thread on one CPU, so that per-CPU values are those of one."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
