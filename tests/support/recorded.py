"""What Linux said of programs by chance, kept as lines of text: kind, seed, digest of the code, verdict, instructions walked, last line."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bench.agreement.case import Case
from bench.agreement.generate import KINDS

from ebpf.engine.program import Code, MapDesc
from ebpf.isa import decode

_MAP = 1


def file_of(linux: str) -> Path:
    """Where that is kept which a version of Linux ("6.12") said."""
    return Path(__file__).parents[1] / "verifier" / f"recorded-{linux}.txt"


@dataclass(frozen=True, slots=True)
class Recorded:
    """One program's verdict. `digest` tells whether the generator still makes the same program of the seed."""

    kind: str
    seed: int
    digest: str
    verdict: str
    processed: int
    message: str

    @classmethod
    def of(cls, line: str) -> Self:
        kind, seed, digest, verdict, processed, message = line.split(" ", 5)
        return cls(kind, int(seed), digest, verdict, int(processed), message)

    @property
    def line(self) -> str:
        """As the file has it."""
        return f"{self.kind} {self.seed} {self.digest} {self.verdict} {self.processed} {self.message}"

    @property
    def case(self) -> Case:
        """The program."""
        return KINDS[self.kind](self.seed)


def digest_of(case: Case) -> str:
    """A short name for a program's code."""
    return hashlib.sha256(case.code).hexdigest()[:8]


def read(linux: str) -> tuple[int, list[Recorded]]:
    """How many CPUs the machine had, and all lines."""
    first, *lines = file_of(linux).read_text().splitlines()
    return int(first.removeprefix("cpus ")), [Recorded.of(line) for line in lines]


def code_of(case: Case, cpus: int, *, privileged: bool = True) -> Code:
    """A program by chance as the verifier takes it; it has one map at most. Not `privileged`: with CAP_BPF and CAP_NET_ADMIN alone."""
    maps = [MapDesc(_MAP, row.type, row.key_size, row.value_size, row.max_entries, name=row.name) for row in case.maps]
    return Code(
        decode(case.with_maps([_MAP] * len(case.maps))),
        case.prog_type,
        dict(zip([_MAP], maps, strict=False)),
        case.name,
        privileged=privileged,
        bypass_spectre=privileged,
        cpus=cpus,
    )
