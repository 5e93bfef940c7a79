"""What an ALU instruction makes of registers: numbers, and pointers that move."""

from ebpf.engine.verifier import scalar
from ebpf.engine.verifier.refusal import Refusal
from ebpf.engine.verifier.scalar import UNKNOWN, Scalar, known, signed, truncate
from ebpf.engine.verifier.state import ANY_SCALAR, Kind, Reg
from ebpf.isa import Insn
from ebpf.isa.opcodes import Alu, Class

_FAR = 1 << 29
_PACKET_FAR = 0xFFFF
_BINARY = {
    Alu.ADD: scalar.add,
    Alu.SUB: scalar.sub,
    Alu.MUL: scalar.mul,
    Alu.AND: scalar.bit_and,
    Alu.OR: scalar.bit_or,
    Alu.XOR: scalar.bit_xor,
    Alu.DIV: scalar.divide,
    Alu.MOD: scalar.modulo,
}


def alu(insn: Insn, dst: Reg, src: Reg | None, slot: int, new_id: int) -> Reg:
    """The result of an ALU instruction; `src` is None for an immediate, `new_id` an id that is not used yet."""
    op = Alu(insn.opcode & 0xF0)
    wide = insn.opcode & 7 == Class.ALU64
    right = src if src is not None else Reg(Kind.SCALAR, known(insn.imm))
    if op == Alu.MOV:
        return _move(insn, right, slot, wide=wide, immediate=src is None)
    if op in (Alu.NEG, Alu.END):
        if dst.is_pointer:
            raise _prohibited(insn, dst, slot)
        if op == Alu.NEG:
            return _narrow(Reg(Kind.SCALAR, scalar.sub(known(0), dst.num)), wide=wide)
        return _swap(insn, dst, wide=wide)
    if dst.is_pointer or right.is_pointer:
        return _pointer(insn, op, dst, right, slot, new_id, wide=wide)
    return Reg(Kind.SCALAR, _number(insn, op, dst.num, right.num, wide=wide))


def _narrow(reg: Reg, *, wide: bool) -> Reg:
    return reg if wide else Reg(Kind.SCALAR, truncate(reg.num, 32))


def _move(insn: Insn, right: Reg, slot: int, *, wide: bool, immediate: bool) -> Reg:
    if insn.off and not immediate:
        if right.is_pointer:
            raise Refusal("a pointer cannot be sign-extended", f"R{insn.src} sign-extension part of pointer", slot)
        return _narrow(Reg(Kind.SCALAR, scalar.sign_extend(right.num, insn.off)), wide=wide)
    if wide:
        return right
    if right.is_pointer:
        # Linux too lets a privileged program see it, as a number.
        return Reg(Kind.SCALAR, truncate(ANY_SCALAR.num, 32))
    return Reg(Kind.SCALAR, truncate(right.num, 32))


def _swap(insn: Insn, dst: Reg, *, wide: bool) -> Reg:
    value = dst.num.const
    if value is not None:
        low = value & ((1 << insn.imm) - 1)
        if wide or insn.opcode & 8:
            low = int.from_bytes(low.to_bytes(insn.imm // 8, "little"), "big")
        return Reg(Kind.SCALAR, known(low))
    return ANY_SCALAR if insn.imm == 64 else Reg(Kind.SCALAR, scalar.unsigned_range(0, (1 << insn.imm) - 1))


def _number(insn: Insn, op: Alu, left: Scalar, right: Scalar, *, wide: bool) -> Scalar:
    bits = 64 if wide else 32
    if not wide:
        left, right = truncate(left, 32), truncate(right, 32)
    if op in (Alu.LSH, Alu.RSH, Alu.ARSH):
        count = right.const
        if count is None:
            return UNKNOWN if wide else truncate(UNKNOWN, 32)
        count &= bits - 1
        if op == Alu.LSH:
            return truncate(scalar.shift_left(left, count), bits) if not wide else scalar.shift_left(left, count)
        if op == Alu.RSH:
            return scalar.shift_right(left, count)
        if wide:
            return scalar.shift_arithmetic(left, count)
        return truncate(scalar.shift_arithmetic(scalar.sign_extend(left, 32), count), 32)
    if op in (Alu.DIV, Alu.MOD) and insn.off == 1:
        return _signed_division(op, left, right, bits)
    result = _BINARY[op](left, right)
    return result if wide else truncate(result, 32)


def _signed_division(op: Alu, left: Scalar, right: Scalar, bits: int) -> Scalar:
    a, b = left.const, right.const
    if a is not None and b is not None:
        shift = 64 - bits
        x, y = signed(a << shift) >> shift, signed(b << shift) >> shift
        if y == 0:
            result = 0 if op == Alu.DIV else x
        else:
            quotient = abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)
            result = quotient if op == Alu.DIV else x - quotient * y
        return truncate(known(result), bits)
    return UNKNOWN if bits == 64 else truncate(UNKNOWN, 32)


def _prohibited(insn: Insn, reg: Reg, slot: int) -> Refusal:
    return Refusal(
        f"arithmetic of this kind on a {reg.name} pointer is not allowed",
        f"R{insn.dst} pointer arithmetic on {reg.name} prohibited",
        slot,
    )


def _pointer(insn: Insn, op: Alu, dst: Reg, right: Reg, slot: int, new_id: int, *, wide: bool) -> Reg:
    """A pointer plus or minus a number (or pointer minus pointer, which is a number)."""
    if not wide and op == Alu.SUB:
        # `u32 size = end - data`: the low half of a distance.
        return Reg(Kind.SCALAR, truncate(ANY_SCALAR.num, 32))
    if not wide:
        raise Refusal("pointers need 64-bit arithmetic", f"R{insn.dst} 32-bit pointer arithmetic prohibited", slot)
    if dst.is_pointer and right.is_pointer:
        if op == Alu.SUB and not dst.null and not right.null:
            return ANY_SCALAR
        raise Refusal("two pointers can only be subtracted", f"R{insn.dst} pointer {_SIGNS.get(op, 'op')} pointer prohibited", slot)
    if op not in (Alu.ADD, Alu.SUB) or (op == Alu.SUB and right.is_pointer):
        raise Refusal(
            "a pointer can only be moved by adding and subtracting numbers",
            f"R{insn.dst} pointer arithmetic with {_SIGNS.get(op, 'this')} operator prohibited",
            slot,
        )
    pointer, number = (dst, right.num) if dst.is_pointer else (right, dst.num)
    if pointer.null:
        raise Refusal(
            f"r{insn.dst} may be null here: test it before moving it",
            f"R{insn.dst} pointer arithmetic on {pointer.name} prohibited, null-check it first",
            slot,
        )
    if pointer.kind in (Kind.PACKET_END, Kind.MAP_PTR):
        if number.const == 0:
            return pointer
        raise _prohibited(insn, pointer, slot)
    constant = number.const
    if constant is not None:
        step = signed(constant) if op == Alu.ADD else -signed(constant)
        if abs(pointer.off + step) >= _FAR:
            raise Refusal(
                "a pointer moves further than any memory reaches",
                f"value {step} makes {pointer.name} pointer be out of bounds",
                slot,
            )
        return pointer.copy(off=pointer.off + step)
    if pointer.kind == Kind.CTX:
        raise Refusal("the context pointer can only be moved by a constant", "variable ctx access", slot)
    if number.smin < -_FAR or number.smax > _FAR:
        raise Refusal(
            f"a pointer is moved by a number without bounds (from {number.smin} to {number.smax}): compare it first",
            f"math between {pointer.name} pointer and register with unbounded min value is not allowed",
            slot,
        )
    moved = scalar.add(pointer.num, number) if op == Alu.ADD else scalar.sub(pointer.num, number)
    if moved.smin < -_FAR or moved.smax > _FAR:
        raise Refusal("a pointer moves further than any memory reaches", f"R{insn.dst} unbounded memory access", slot)
    if pointer.kind in (Kind.PACKET, Kind.PACKET_META):
        # What was proved of the old place says nothing of the new one.
        return pointer.copy(num=moved, id=new_id, rng=0)
    return pointer.copy(num=moved)


_SIGNS = {
    Alu.ADD: "+=",
    Alu.SUB: "-=",
    Alu.MUL: "*=",
    Alu.DIV: "/=",
    Alu.OR: "|=",
    Alu.AND: "&=",
    Alu.LSH: "<<=",
    Alu.RSH: ">>=",
    Alu.MOD: "%=",
    Alu.XOR: "^=",
    Alu.ARSH: "s>>=",
}


def packet_limit(reg: Reg) -> bool:
    """Whether a packet pointer is near enough to its beginning that a comparison with the end proves anything."""
    return reg.num.umax <= _PACKET_FAR and 0 <= reg.off <= _PACKET_FAR
