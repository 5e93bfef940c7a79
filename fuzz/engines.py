"""A generated program in the interpreter, as machine code and in Linux: what came of it, to be compared."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from fuzz.programs import MAPS, Made, MapShape

from ebpf.errors import KernelError
from ebpf.isa import Insn, encode
from ebpf.isa.opcodes import LD_IMM64
from ebpf.kernels.user.kernel import UserKernel
from ebpf.sys.calls import MapCreate, MapLookup, MapLookupAndDelete, MapNextKey, MapUpdate, ProgLoad, ProgTestRun
from ebpf.sys.kernel import Kernel
from ebpf.uapi import MapType, ProgType, PseudoSrc


@dataclass(frozen=True)
class Outcome:
    """The result, the packet and the maps after a run; or that the program was refused, and why."""

    retval: int = 0
    packet: bytes = b""
    maps: tuple[tuple[object, ...], ...] = ()
    refused: str = ""


class Session:
    """A kernel with fresh maps for one program."""

    def __init__(self, kernel: Kernel, made: Made, *, cpus: int) -> None:
        self.kernel, self.made, self._cpus = kernel, made, cpus
        self.fds = [self._create(shape) for shape in MAPS]
        self.prog = -1
        self.refused = ""
        try:
            code = encode(placed(made.insns, self.fds))
            self.prog = kernel.bpf(ProgLoad(prog_type=ProgType.XDP, insns=code, license="GPL", name="fuzz")).fd
        except KernelError as error:
            self.refused = str(error)

    def _create(self, shape: MapShape) -> int:
        call = MapCreate(shape.type, shape.key, shape.value, shape.entries, name=shape.name)
        return self.kernel.bpf(call)

    def run(self) -> Outcome:
        """One run, from maps as they are to what is in them then."""
        if self.refused:
            return Outcome(refused=self.refused)
        self.fill()
        done = self.kernel.bpf(ProgTestRun(self.prog, self.made.packet, repeat=1, data_size_out=512))
        return Outcome(done.retval, done.data, tuple(self._take(fd, shape) for fd, shape in zip(self.fds, MAPS, strict=True)))

    def fill(self) -> None:
        """The same elements before each run: of the array, and two in the hash."""
        packet = self.made.packet
        for key in range(MAPS[0].entries):
            self.kernel.bpf(MapUpdate(self.fds[0], key.to_bytes(4, "little"), (packet * 2)[key : key + MAPS[0].value]))
        for key in (1, 4):
            self.kernel.bpf(MapUpdate(self.fds[1], key.to_bytes(4, "little"), packet[key : key + MAPS[1].value]))
        for key in range(MAPS[2].entries):
            self.kernel.bpf(MapUpdate(self.fds[2], key.to_bytes(4, "little"), bytes(MAPS[2].value * self._cpus)))

    def _take(self, fd: int, shape: MapShape) -> tuple[object, ...]:
        """What is in a map; queues, stacks and hashes are empty afterwards."""
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
        if shape.type == MapType.HASH:
            return tuple(sorted((key, self.kernel.bpf(MapLookupAndDelete(fd, key, shape.value))) for key in keys))
        if shape.type == MapType.PERCPU_ARRAY:
            return tuple(self._sums(self.kernel.bpf(MapLookup(fd, key, shape.value * self._cpus)), shape.value) for key in sorted(keys))
        return tuple((key, self.kernel.bpf(MapLookup(fd, key, shape.value))) for key in sorted(keys))

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
        for fd in (self.prog, *self.fds):
            if fd >= 0:
                self.kernel.close(fd)


def placed(insns: Sequence[Insn], fds: Sequence[int]) -> list[Insn]:
    """The program with descriptors for its maps."""
    named = (PseudoSrc.MAP_FD, PseudoSrc.MAP_VALUE)
    return [replace(insn, imm=fds[insn.imm]) if insn.opcode == LD_IMM64 and insn.src in named else insn for insn in insns]


def possible_cpus() -> int:
    """How many CPUs per-CPU maps of Linux have values for."""
    with open("/sys/devices/system/cpu/possible", encoding="ascii") as file:
        return int(file.read().strip().split(",")[-1].split("-")[-1]) + 1


def stay() -> None:
    """Keep this thread on one CPU, so that per-CPU values are those of one."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
