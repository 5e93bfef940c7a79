"""What makes an instruction none whatever its registers hold: fields that its opcode does not allow. Source: RFC 9669."""

from collections.abc import Mapping
from typing import Final

from ebpf.isa.insn import Insn
from ebpf.isa.opcodes import FP, LD_IMM64, Alu, Atomic
from ebpf.isa.table import OPCODES, Form

_WIDTHS: Final = (16, 32, 64)
_MOVES: Final = {32: (0, 8, 16), 64: (0, 8, 16, 32)}
_ORDERED: Final = (Atomic.LOAD_ACQ, Atomic.STORE_REL)
_WRITES: Final = frozenset({Form.DST_IMM, Form.DST_SRC, Form.DST, Form.SWAP, Form.WIDE, Form.LOAD})
#: The fields that each form leaves unused: RFC 9669 wants them zero. A call by register names it in any of three.
_UNUSED: Final[Mapping[Form, tuple[str, ...]]] = {
    Form.DST_IMM: ("src", "off"),
    Form.DST_SRC: ("off", "imm"),
    Form.DST: ("src", "off", "imm"),
    Form.SWAP: ("src", "off"),
    Form.WIDE: ("off",),
    Form.LOAD: ("imm",),
    Form.STORE_IMM: ("src",),
    Form.STORE: ("imm",),
    Form.ATOMIC: (),
    Form.PACKET: ("dst", "src", "off"),
    Form.PACKET_SRC: ("dst", "off"),
    Form.JUMP: ("dst", "src", "imm"),
    Form.JUMP_WIDE: ("dst", "src", "off"),
    Form.BRANCH_IMM: ("src",),
    Form.BRANCH: ("imm",),
    Form.CALL: ("dst", "off"),
    Form.CALL_REG: ("off",),
    Form.EXIT: ("dst", "src", "off", "imm"),
}
#: Arithmetic that has a second meaning by its offset.
_BY_OFF: Final = {Form.DST_IMM: (Alu.DIV, Alu.MOD), Form.DST_SRC: (Alu.DIV, Alu.MOD, Alu.MOV)}


def unused(insn: Insn) -> tuple[str, ...]:
    """The fields of an instruction that mean nothing in it."""
    form = OPCODES[insn.opcode].form
    names = _UNUSED[form]
    if insn.opcode & 0xF0 in _BY_OFF.get(form, ()):
        return tuple(name for name in names if name != "off")
    # A call of the kernel's own (src 2) says by its offset which table its number is of.
    return ("dst",) if form is Form.CALL and insn.src == 2 else names


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
    wrong = [name for name in unused(insn) if getattr(insn, name)]
    return f"has {getattr(insn, wrong[0])} in {wrong[0]}, which it does not use: 0 belongs there" if wrong else ""


def _atomic(insn: Insn, bits: int) -> str:
    try:
        kind = Atomic(insn.imm)
    except ValueError:
        return f"atomic operation {insn.imm:#x} is none"
    if bits < 32 and kind not in _ORDERED:
        return f"atomic operation on {bits // 8} bytes: 4 and 8 there are"
    writes = insn.dst if kind == Atomic.LOAD_ACQ else insn.src if kind & 1 and kind != Atomic.CMPXCHG else 0
    return "writes r10, which is read-only" if writes == FP else ""
