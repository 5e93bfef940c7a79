"""One decoded instruction."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Insn:
    """A decoded instruction: `opcode` byte, registers, signed 16-bit `off`, signed 32-bit `imm`.

    ld_imm64 (opcode 0x18) is one Insn of two slots whose `imm` is the first and `imm_hi` the second word's immediate,
    both as signed 32-bit numbers.
    """

    opcode: int
    dst: int = 0
    src: int = 0
    off: int = 0
    imm: int = 0
    imm_hi: int = 0

    @property
    def slots(self) -> int:
        """How many 8-byte slots it takes."""
        return 2 if self.opcode == 0x18 else 1


def called_register(insn: Insn) -> int:
    """The register that a call by register names: RFC 9669 puts it into dst; compilers before it into imm, some into src."""
    return insn.dst or insn.src or (insn.imm if 0 < insn.imm < 10 else 0)
