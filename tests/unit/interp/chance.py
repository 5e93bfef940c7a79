"""Straight programs of arithmetic made by chance: five registers with any values, up to forty operations, all folded into r0."""

from hypothesis import strategies as st

from ebpf.isa import OPCODES, Form, Insn, asm
from ebpf.isa.opcodes import EXIT, LD_IMM64, Alu

_ARITHMETIC = sorted(code for code, row in OPCODES.items() if row.form in (Form.DST_IMM, Form.DST_SRC, Form.DST, Form.SWAP))
_words = st.integers(-(1 << 31), (1 << 31) - 1) | st.sampled_from([0, 1, -1, 31, 32, 63, 64, -(1 << 31), (1 << 31) - 1])
_registers = st.integers(0, 4)


@st.composite
def operation(draw: st.DrawFn) -> Insn:
    code = draw(st.sampled_from(_ARITHMETIC))
    row, op = OPCODES[code], code & 0xF0
    if row.form is Form.SWAP:
        return Insn(code, draw(_registers), imm=draw(st.sampled_from([16, 32, 64])))
    if row.form is Form.DST:
        return Insn(code, draw(_registers))
    off = draw(st.sampled_from([0, 1])) if op in (Alu.DIV, Alu.MOD) else 0
    if row.form is Form.DST_SRC:
        if op == Alu.MOV:
            off = draw(st.sampled_from([0, 8, 16, 32] if row.bits == 64 else [0, 8, 16]))
        return Insn(code, draw(_registers), draw(_registers), off)
    imm = draw(_words)
    if op in (Alu.LSH, Alu.RSH, Alu.ARSH):
        imm &= row.bits - 1
    elif op in (Alu.DIV, Alu.MOD):
        imm = imm or 1
    return Insn(code, draw(_registers), 0, off, imm)


@st.composite
def programs(draw: st.DrawFn) -> tuple[Insn, ...]:
    """A whole program, from the values of its registers to its exit."""
    start = draw(st.lists(st.tuples(_words, _words), min_size=5, max_size=5))
    begin = [Insn(LD_IMM64, register, imm=low, imm_hi=high) for register, (low, high) in enumerate(start)]
    body = draw(st.lists(operation(), min_size=1, max_size=40))
    return (*begin, *body, *asm("r0 ^= r1\nr0 ^= r2\nr0 ^= r3\nr0 ^= r4"), Insn(EXIT))
