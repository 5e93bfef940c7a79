"""IR as it is written: lines, values with names of their own, the registers, and the table of addresses from outside."""

from dataclasses import dataclass

from ebpf.engine.program import Prepared
from ebpf.errors import NotSupportedError
from ebpf.isa import by_slot


@dataclass(frozen=True, slots=True)
class Slot:
    """What an entry of the image's table holds.

    "helper" (id), "hash" (id: the body of that helper for a map that is known to be a hash), "map" (fd: the header's address),
    "data" (fd: its data's), "runtime" (place in RUNTIME: that function),
    "kfunc" (the number of a function of the kernel's) or "owner" (0: the number that the program is known by).
    """

    kind: str
    number: int


class Writer:
    """Writes the lines of one program."""

    def __init__(self, program: Prepared) -> None:
        self._program = program
        self._slots = by_slot(program.insns)
        self._table: dict[Slot, int] = {}
        self._lines: list[str] = []
        self._count = 0
        # Registers that hold an address in the stack, with their distance from r10: known within a block.
        self._frame: dict[int, int] = {}

    def _emit(self, line: str, indent: str = "  ") -> None:
        self._lines.append(indent + line)

    def _new(self, what: str) -> str:
        self._count += 1
        name = f"%v{self._count}"
        self._emit(f"{name} = {what}")
        return name

    def _get(self, register: int, bits: int = 64) -> str:
        value = "%R10" if register == 10 else self._new(f"load i64, ptr %R{register}")
        return value if bits == 64 else self._new(f"trunc i64 {value} to i{bits}")

    def _set(self, register: int, value: str, bits: int = 64) -> None:
        self._frame.pop(register, None)
        if bits < 64:
            value = self._new(f"zext i{bits} {value} to i64")
        self._emit(f"store i64 {value}, ptr %R{register}")

    def _refuse(self, what: str, slot: int) -> NotSupportedError:
        return NotSupportedError(f"insn {slot} of program {self._program.name!r}", f"{what} is not built yet")

    def _entry(self, kind: str, number: int) -> str:
        """The value of a table entry: the same for the whole life of the image."""
        place = self._table.setdefault(Slot(kind, number), len(self._table))
        at = self._new(f"getelementptr [{1 << 16} x i64], ptr @table, i64 0, i64 {place}")
        # The data of a map lies somewhere in user space: where it is added to, the sum is known not to be null.
        somewhere = ", !range !2" if kind == "data" else ""
        return self._new(f"load i64, ptr {at}, !invariant.load !0{somewhere}")


def signed(value: int, bits: int) -> int:
    """The low bits of a number as LLVM writes them."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value
