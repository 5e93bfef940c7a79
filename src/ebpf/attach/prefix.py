"""Code put before a program's own: it runs first, and decides whether and with what context the program goes on."""

import struct
from collections.abc import Sequence
from dataclasses import replace

from ebpf.isa import Insn, decode, encode
from ebpf.isa.opcodes import CALL, EXIT, LD_IMM64
from ebpf.object import Program, load_program
from ebpf.sys.kernel import Scope
from ebpf.uapi import HELPERS_BY_NAME, ProgType, PseudoSrc

_MOV, _MOV_IMM, _LDX, _STX, _ADD_IMM, _ST_W = 0xBF, 0xB7, 0x79, 0x7B, 0x07, 0x62


def mov(dst: int, src: int) -> Insn:
    """dst = src."""
    return Insn(_MOV, dst, src)


def mov_imm(dst: int, value: int) -> Insn:
    """dst = value (32 bits, signed)."""
    return Insn(_MOV_IMM, dst, imm=value)


def add(dst: int, value: int) -> Insn:
    """dst += value."""
    return Insn(_ADD_IMM, dst, imm=value)


def load(dst: int, src: int, offset: int) -> Insn:
    """dst = *(u64 *)(src + offset)."""
    return Insn(_LDX, dst, src, offset)


def store(dst: int, offset: int, src: int) -> Insn:
    """*(u64 *)(dst + offset) = src."""
    return Insn(_STX, dst, src, offset)


def store_word(dst: int, offset: int, value: int) -> Insn:
    """*(u32 *)(dst + offset) = value."""
    return Insn(_ST_W, dst, off=offset, imm=value)


def wide(dst: int, value: int, kind: int = 0) -> Insn:
    """dst = a 64-bit number (or, with `kind` 1, a map by descriptor)."""
    low, high = struct.unpack("<ii", struct.pack("<Q", value & (1 << 64) - 1))
    return Insn(LD_IMM64, dst, kind, 0, low, high)


def call(helper: str) -> Insn:
    """Call a helper by name."""
    return Insn(CALL, imm=HELPERS_BY_NAME[helper].id)


def leave_unless_equal(left: int, right: int) -> list[Insn]:
    """Go on if two registers are equal, else return 0."""
    # The jump is over what follows it when they are equal.
    return [Insn(0x1D, left, right, 2), mov_imm(0, 0), Insn(EXIT)]


def leave_if_zero(register: int) -> list[Insn]:
    """Go on unless a register is zero, else return 0."""
    return [Insn(0x55, register, off=2), mov_imm(0, 0), Insn(EXIT)]


def leave_unless_zero(register: int) -> list[Insn]:
    """Go on if a register is zero, else return 0."""
    return [Insn(0x15, register, off=2), mov_imm(0, 0), Insn(EXIT)]


def in_scope(scope: Scope) -> list[Insn]:
    """Go on only for tasks of a cgroup. Clobbers r0 to r5."""
    return [
        mov_imm(1, scope.level),
        call("get_current_ancestor_cgroup_id"),
        wide(1, scope.cgroup_id),
        *leave_unless_equal(0, 1),
    ]


def load_prefixed(program: Program, prefix: Sequence[Insn], type_: ProgType) -> int:
    """Load `prefix` and the program's own instructions as one program; the prefix leaves the context in r1."""
    shift = sum(insn.slots for insn in prefix)
    spec = program.spec
    # A global function with a type must be given a real context, which emulation has not; without types it is like a static one.
    # Callbacks need types.
    typed = type_ == spec.type or any(insn.opcode == LD_IMM64 and insn.src == PseudoSrc.FUNC for insn in decode(program.insns))
    # Linux wants a line and a function at slot 0: what begins the author's code begins ours.
    lines = tuple(line._replace(slot=line.slot + shift) for line in spec.line_infos)
    if lines:
        lines = (lines[0]._replace(slot=0), *lines)
    moved = replace(
        spec,
        type=int(type_),
        attach_type=None,
        func_infos=tuple(func._replace(slot=func.slot + shift if func.slot else 0) for func in spec.func_infos),
        line_infos=lines,
    )
    return load_program(program.kernel, moved, encode(prefix) + program.insns, program.btf_fd if typed else 0).fd
