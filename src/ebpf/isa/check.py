"""What makes an instruction none whatever its registers hold: fields that its opcode does not allow. Source: RFC 9669."""

from typing import Final

from ebpf.isa.insn import Insn
from ebpf.isa.opcodes import FP, LD_IMM64, Alu, Atomic
from ebpf.isa.table import OPCODES, Form

_WIDTHS: Final = (16, 32, 64)
_MOVES: Final = {32: (0, 8, 16), 64: (0, 8, 16, 32)}
_ORDERED: Final = (Atomic.LOAD_ACQ, Atomic.STORE_REL)
_WRITES: Final = frozenset({Form.DST_IMM, Form.DST_SRC, Form.DST, Form.SWAP, Form.WIDE, Form.LOAD})


def problem(insn: Insn) -> str:
    """What is wrong with an instruction's own fields; "" if nothing is."""
    row = OPCODES.get(insn.opcode)
    if row is None:
        return f"opcode {insn.opcode:#04x} is none"
    if insn.dst > FP or (insn.src > FP and insn.opcode != LD_IMM64):
        return "names a register that there is not: r0 to r10 are"
    if row.form is Form.ATOMIC:
        return _atomic(insn, row.bits)
    if row.form in _WRITES and insn.dst == FP:
        return "writes r10, which is read-only"
    op = insn.opcode & 0xF0
    if row.form is Form.SWAP and insn.imm not in _WIDTHS:
        return f"changes the order of {insn.imm} bits: 16, 32 and 64 there are"
    if row.form is Form.DST_SRC and op == Alu.MOV and insn.off not in _MOVES[row.bits]:
        return f"extends the sign of {insn.off} bits: {', '.join(map(str, _MOVES[row.bits][1:]))} there are"
    if row.form in (Form.DST_IMM, Form.DST_SRC) and op in (Alu.DIV, Alu.MOD) and insn.off not in (0, 1):
        return f"divides with offset {insn.off}: 0 (unsigned) and 1 (signed) there are"
    return ""


def _atomic(insn: Insn, bits: int) -> str:
    try:
        kind = Atomic(insn.imm)
    except ValueError:
        return f"atomic operation {insn.imm:#x} is none"
    if bits < 32 and kind not in _ORDERED:
        return f"atomic operation on {bits // 8} bytes: 4 and 8 there are"
    writes = insn.dst if kind == Atomic.LOAD_ACQ else insn.src if kind & 1 and kind != Atomic.CMPXCHG else 0
    return "writes r10, which is read-only" if writes == FP else ""
