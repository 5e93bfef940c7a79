"""One or more instructions for every opcode, all of their fields used."""

from ebpf.isa import OPCODES, Form, Insn, Opcode
from ebpf.isa.opcodes import JA, Alu, Atomic

_RMW = [int(a) for a in Atomic if a not in (Atomic.LOAD_ACQ, Atomic.STORE_REL)]


def samples(row: Opcode) -> list[Insn]:
    """Instructions of this opcode that mean something."""
    op, code = row.code & 0xF0, row.code
    match row.form:
        case Form.DST_IMM:
            signed = [Insn(code, 3, 0, 1, -7)] if op in (Alu.DIV, Alu.MOD) else []
            return [Insn(code, 2, imm=imm) for imm in ([5] if op in (Alu.LSH, Alu.RSH, Alu.ARSH) else [5, -5])] + signed
        case Form.DST_SRC:
            widths = {Alu.DIV: [1], Alu.MOD: [1], Alu.MOV: [8, 16] + [32] * (row.bits == 64)}.get(Alu(op), [])
            return [Insn(code, 2, 3, off) for off in [0, *widths]]
        case Form.DST:
            return [Insn(code, 4)]
        case Form.SWAP:
            return [Insn(code, 5, imm=bits) for bits in (16, 32, 64)]
        case Form.WIDE:
            return [Insn(code, 1, imm=-1, imm_hi=7), Insn(code, 1, imm=5), Insn(code, 1, imm=0, imm_hi=-(1 << 31))]
        case Form.LOAD:
            return [Insn(code, 2, 10, -8), Insn(code, 2, 3, 16)]
        case Form.STORE_IMM:
            return [Insn(code, 10, 0, -8, -3), Insn(code, 10, 0, -16, 77)]
        case Form.STORE:
            return [Insn(code, 10, 2, -8), Insn(code, 3, 4, 0)]
        case Form.ATOMIC:
            plain = [Insn(code, 10, 2, -8, imm) for imm in _RMW] if row.bits >= 32 else []
            return [*plain, Insn(code, 2, 10, -8, int(Atomic.LOAD_ACQ)), Insn(code, 10, 2, -8, int(Atomic.STORE_REL))]
        case Form.PACKET:
            return [Insn(code, imm=14)]
        case Form.PACKET_SRC:
            return [Insn(code, 0, 3, 0, 4), Insn(code, 0, 3)]
        case Form.JUMP:
            return [Insn(code, off=off) for off in ((3, -3) if code == JA else (3,))]
        case Form.JUMP_WIDE:
            return [Insn(code, imm=70000), Insn(code, imm=-3)]
        case Form.BRANCH_IMM:
            return [Insn(code, 1, 0, 2, imm) for imm in (0, 9, -9)]
        case Form.BRANCH:
            return [Insn(code, 1, 2, -4)]
        case Form.CALL:
            return [Insn(code, imm=7), Insn(code, 0, 1, 0, -4), Insn(code, 0, 2, 0, 1234)]
        case Form.CALL_REG:
            return [Insn(code, 3)]
        case _:
            return [Insn(code)]


EVERY = [insn for row in OPCODES.values() for insn in samples(row)]


def name(insn: Insn) -> str:
    """An id for pytest."""
    return f"{OPCODES[insn.opcode].mnemonic}-{insn.opcode:02x}-{insn.src}-{insn.off}-{insn.imm}"
