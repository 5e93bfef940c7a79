"""Arithmetic as IR."""

from typing import Final

from ebpf.engine.jit.writer import Writer, signed
from ebpf.isa import Insn
from ebpf.isa.opcodes import Alu, Class

ADD64_IMM: Final = Class.ALU64 | Alu.ADD
MOV64_REG: Final = Class.ALU64 | Alu.MOV | 8
_BINARY = {
    Alu.ADD: "add",
    Alu.SUB: "sub",
    Alu.MUL: "mul",
    Alu.OR: "or",
    Alu.AND: "and",
    Alu.XOR: "xor",
    Alu.LSH: "shl",
    Alu.RSH: "lshr",
    Alu.ARSH: "ashr",
}


class Arithmetic(Writer):
    """Writes ALU instructions."""

    def _operand(self, insn: Insn, bits: int) -> str:
        if insn.opcode & 8:
            return self._get(insn.src, bits)
        return str(insn.imm if bits == 64 else signed(insn.imm, bits))

    def _alu(self, insn: Insn, slot: int, bits: int) -> None:
        distance = self._distance(insn)
        self._compute(insn, slot, bits)
        if distance is not None:
            self._frame[insn.dst] = distance

    def _distance(self, insn: Insn) -> int | None:
        """How far from r10 this instruction's result lies, if that can be seen."""
        if insn.opcode == ADD64_IMM and insn.dst in self._frame:
            return self._frame[insn.dst] + insn.imm
        if insn.opcode == MOV64_REG and not insn.off:
            return 0 if insn.src == 10 else self._frame.get(insn.src)
        return None

    def _compute(self, insn: Insn, slot: int, bits: int) -> None:
        op = Alu(insn.opcode & 0xF0)
        t = f"i{bits}"
        if op == Alu.END:
            self._swap(insn, bits)
            return
        if op == Alu.NEG:
            self._set(insn.dst, self._new(f"sub {t} 0, {self._get(insn.dst, bits)}"), bits)
            return
        if op == Alu.MOV:
            if insn.opcode & 8 and insn.off in (8, 16, 32):
                small = self._new(f"trunc i64 {self._get(insn.src)} to i{insn.off}")
                self._set(insn.dst, self._new(f"sext i{insn.off} {small} to {t}"), bits)
            else:
                self._set(insn.dst, self._operand(insn, bits), bits)
            return
        left, right = self._get(insn.dst, bits), self._operand(insn, bits)
        if op in (Alu.DIV, Alu.MOD):
            self._set(insn.dst, self._divide(op, left, right, bits, signed=insn.off == 1), bits)
            return
        if op in (Alu.LSH, Alu.RSH, Alu.ARSH):
            right = self._new(f"and {t} {right}, {bits - 1}")
        self._set(insn.dst, self._new(f"{_BINARY[op]} {t} {left}, {right}"), bits)

    def _divide(self, op: Alu, left: str, right: str, bits: int, *, signed: bool) -> str:
        """Division by zero gives 0, modulo by zero leaves the left side; the least number by -1 wraps."""
        t = f"i{bits}"
        zero = self._new(f"icmp eq {t} {right}, 0")
        safe = self._new(f"select i1 {zero}, {t} 1, {t} {right}")
        if signed:
            minus = self._new(f"icmp eq {t} {right}, -1")
            safe = self._new(f"select i1 {minus}, {t} 1, {t} {safe}")
            result = self._new(f"{'sdiv' if op == Alu.DIV else 'srem'} {t} {left}, {safe}")
            other = self._new(f"sub {t} 0, {left}") if op == Alu.DIV else "0"
            result = self._new(f"select i1 {minus}, {t} {other}, {t} {result}")
        else:
            result = self._new(f"{'udiv' if op == Alu.DIV else 'urem'} {t} {left}, {safe}")
        return self._new(f"select i1 {zero}, {t} {'0' if op == Alu.DIV else left}, {t} {result}")

    def _swap(self, insn: Insn, bits: int) -> None:
        width = insn.imm
        value = self._get(insn.dst, width) if width < 64 else self._get(insn.dst)
        if bits == 64 or insn.opcode & 8:
            value = self._new(f"call i{width} @llvm.bswap.i{width}(i{width} {value})")
        self._set(insn.dst, value, width)
