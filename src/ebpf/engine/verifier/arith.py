"""What an ALU instruction makes of registers: numbers, and pointers that move."""

from typing import Final

from ebpf.engine.verifier import alu, bits, guards
from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.num import (
    S32_MAX,
    S32_MIN,
    S64_MAX,
    S64_MIN,
    U32,
    U64,
    UNKNOWN,
    Num,
    s32,
    s64,
    settle,
    sign_extend,
    sign_extend32,
    sized,
    zero_extend,
)
from ebpf.engine.verifier.old_bounds import contradicts
from ebpf.engine.verifier.refusal import Refusal
from ebpf.engine.verifier.reg import (
    ANY,
    ANY_LINK,
    ARENA,
    BTF_ID,
    BUF,
    CTX,
    DYNPTR,
    FLOW_KEYS,
    FUNC,
    LINKED,
    LINKED32,
    MAP_KEY,
    MAP_PTR,
    MAP_VALUE,
    MAYBE_NULL,
    MEM,
    PACKET,
    PACKET_META,
    SCALAR,
    STACK,
    TP_BUFFER,
    UNTRUSTED,
    Reg,
    constant,
    number,
)
from ebpf.engine.verifier.stack import link, width
from ebpf.isa import Insn
from ebpf.isa.opcodes import Alu, Class

_FAR: Final = 1 << 29
_MOVABLE: Final = frozenset((CTX, MAP_VALUE, MAP_KEY, STACK, PACKET_META, PACKET, TP_BUFFER, BTF_ID, MEM, BUF, FUNC, DYNPTR, ARENA))
_ADD: Final = int(Alu.ADD)
_SUB: Final = int(Alu.SUB)
_MOV: Final = int(Alu.MOV)
_NEG: Final = int(Alu.NEG)
_END: Final = int(Alu.END)
_BITWISE: Final = (int(Alu.AND), int(Alu.OR), int(Alu.XOR))
_SIGNS: Final = {
    0x00: "+=",
    0x10: "-=",
    0x20: "*=",
    0x30: "/=",
    0x40: "|=",
    0x50: "&=",
    0x60: "<<=",
    0x70: ">>=",
    0x80: "neg",
    0x90: "%=",
    0xA0: "^=",
    0xC0: "s>>=",
}


def execute(env: Env, insn: Insn) -> None:
    """Carry out an ALU instruction on the running function's registers. Raises Refusal."""
    op = insn.opcode & 0xF0
    wide = insn.opcode & 7 == Class.ALU64
    regs = env.regs
    dst = insn.dst
    if op == _MOV:
        if insn.opcode & 8:
            env.readable(insn.src)
        _writable(env, dst)
        if insn.opcode & 8:
            regs[dst] = _move(env, insn, wide=wide)
        else:
            regs[dst] = constant(insn.imm if wide else insn.imm & U32)
        return
    if op in (_NEG, _END):
        reg = env.readable(dst)
        if reg.is_pointer and not env.privileged:
            raise env.refuse("pointer-arithmetic", f"R{dst} pointer arithmetic prohibited", "arithmetic on a pointer")
        _writable(env, dst)
        if op == _NEG and reg.kind == SCALAR:
            regs[dst] = number(alu.negate(reg.num, env.rules, wide=wide))
        elif op == _END and reg.kind == SCALAR:
            regs[dst] = number(alu.swap(reg.num, insn.imm, env.rules, reverse=wide or bool(insn.opcode & 8)))
        else:
            regs[dst] = ANY
        return
    if insn.opcode & 8:
        env.readable(insn.src)
    left = env.readable(dst)
    _writable(env, dst)
    if left.kind == ARENA or (insn.opcode & 8 and regs[insn.src].kind == ARENA):
        regs[dst] = Reg(ARENA)
        return
    if insn.opcode & 8:
        right = regs[insn.src]
        if right.kind != SCALAR:
            if left.kind != SCALAR:
                if op == _SUB and env.privileged:
                    regs[dst] = ANY
                    return
                raise env.refuse(
                    "pointer-arithmetic", f"R{dst} pointer {_SIGNS[op]} pointer prohibited", "two pointers can only be subtracted"
                )
            env.precise(dst)
            regs[dst] = _pointer(env, insn, op, right, left, wide=wide, swapped=True)
            return
        if left.kind != SCALAR:
            env.precise(insn.src)
            regs[dst] = _pointer(env, insn, op, left, right, wide=wide, swapped=False)
            return
    else:
        right = constant(insn.imm)
        if left.kind != SCALAR:
            regs[dst] = _pointer(env, insn, op, left, right, wide=wide, swapped=False)
            return
    num = alu.binary(op, left.num, right.num, env.rules, wide=wide) if not (insn.off and op not in (_ADD, _SUB)) else UNKNOWN
    if left.id and op in (_ADD, _SUB):
        by = _difference(env, insn, op, left, right, wide=wide)
        if by is not None:
            regs[dst] = Reg(SCALAR, num, by, left.id, LINKED if wide else LINKED32)
            return
    regs[dst] = number(num)


def _difference(env: Env, insn: Insn, op: int, left: Reg, right: Reg, *, wide: bool) -> int | None:
    """By how much the result differs from the numbers that `left` is linked to, if that is kept."""
    rules = env.rules
    if not rules.linked_offsets or left.flags & ANY_LINK or (insn.opcode & 8 and insn.src == insn.dst):
        return None
    if not rules.linked_differences:
        return right.num.value if op == _ADD and wide and not right.num.mask and right.num.value <= S32_MAX else None
    if right.num.mask & (U64 if wide else U32) or (not wide and left.num.umax > U32):
        return None
    by = s64(right.num.value) if wide else s32(right.num.value)
    if not S32_MIN <= by <= S32_MAX or (op == _SUB and by == S32_MIN):
        return None
    return by if op == _ADD else -by


def _writable(env: Env, at: int) -> None:
    if at == 10:
        raise env.refuse("invalid-instruction", "frame pointer is read only", "r10, the frame pointer, cannot be written")


def _move(env: Env, insn: Insn, *, wide: bool) -> Reg:
    src = env.regs[insn.src]
    if wide and insn.off == 1:
        if env.arena < 0:
            raise env.refuse(
                "invalid-instruction",
                "addr_space_cast insn can only be used in a program that has an associated arena",
                "the program names no arena that an address could be in",
            )
        return Reg(ARENA) if insn.imm == 1 else ANY
    if wide and not insn.off:
        return link(env, insn.src)
    if src.kind != SCALAR:
        if not env.privileged:
            what = "sign-extension part of pointer" if wide else "partial copy of pointer"
            raise env.refuse("pointer-leak", f"R{insn.src} {what}", "part of an address would become a number")
        return ANY if wide else number(sized(4))
    if not insn.off:
        fits = width(src) <= 32
        if fits:
            src = link(env, insn.src)
        num = zero_extend(src.num, env.rules)
        return Reg(SCALAR, num, src.off, src.id, src.flags) if fits and src.id else number(num)
    small = src.num.umax < 1 << insn.off - 1
    if small:
        src = link(env, insn.src)
    num = sign_extend(src.num, insn.off // 8, env.rules) if wide else sign_extend32(src.num, insn.off // 8, env.rules)
    return Reg(SCALAR, num, src.off, src.id, src.flags) if small and src.id else number(num)


def _pointer(env: Env, insn: Insn, op: int, base: Reg, offset: Reg, *, wide: bool, swapped: bool) -> Reg:
    """A pointer plus or minus a number; `swapped`: the number stood on the left."""
    by, linked = offset.num, offset.off
    dst = insn.dst
    if contradicts(by, wide=True):
        # Bits and bounds contradict each other: this path cannot be.
        return ANY
    if not wide:
        if op == _SUB and env.privileged:
            return ANY
        raise env.refuse("pointer-arithmetic", f"R{dst} 32-bit pointer arithmetic prohibited", "pointers need 64-bit arithmetic")
    if base.flags & MAYBE_NULL:
        raise env.refuse(
            "moved-maybe-null",
            f"R{dst} pointer arithmetic on {base.name} prohibited, null-check it first",
            f"r{dst} may be null here: test it before moving it",
            register=dst,
        )
    if base.kind == MEM and base.flags & UNTRUSTED:
        # Where in such memory it points is not followed. Linux takes a number to which it is added for a number still.
        return ANY if swapped else base
    constant_ = not by.mask
    still = base.kind == MAP_PTR and constant_ and not by.value and op == _ADD
    if base.kind not in _MOVABLE and not (base.kind == FLOW_KEYS and constant_) and not still:
        raise env.refuse(
            "pointer-arithmetic",
            f"R{dst} pointer arithmetic on {base.name} prohibited",
            f"a {base.name} pointer cannot be moved",
        )
    _sane(env, by, base, off=linked)
    _sane(env, base.num, base, off=base.off)
    guarded = not env.code.bypass_spectre and insn.opcode & 8 and op in (_ADD, _SUB)
    guard = guards.before(env, insn, op, base, by, swapped=swapped) if guarded else None
    num = base.num
    packet = base.kind in (PACKET, PACKET_META)
    if op == _ADD:
        moved = base.off + by.smin
        if constant_ and S32_MIN <= moved <= S32_MAX:
            result = base.same(_plain(num), moved, base.id, base.flags, base.rng)
        else:
            v, m = bits.add(num.value, num.mask, by.value, by.mask)
            smin, smax = num.smin + by.smin, num.smax + by.smax
            umin, umax = num.umin + by.umin, num.umax + by.umax
            if not (S64_MIN <= smin <= S64_MAX and S64_MIN <= smax <= S64_MAX):
                smin, smax = S64_MIN, S64_MAX
            if umin > U64 or umax > U64:
                umin, umax = 0, U64
            new = settle(v, m, smin, smax, umin, umax, S32_MIN, S32_MAX, 0, U32, env.rules)
            result = base.same(new, base.off, env.new_id() if packet else base.id, base.flags, 0 if packet else base.rng)
    elif op == _SUB:
        if swapped:
            raise env.refuse(
                "pointer-arithmetic", f"R{dst} tried to subtract pointer from scalar", "a pointer cannot be subtracted from a number"
            )
        if base.kind == STACK:
            raise env.refuse(
                "pointer-arithmetic", f"R{dst} subtraction from stack pointer prohibited", "a pointer to the stack moves by additions alone"
            )
        moved = base.off - by.smin
        if constant_ and S32_MIN <= moved <= S32_MAX:
            result = base.same(_plain(num), moved, base.id, base.flags, base.rng)
        else:
            v, m = bits.sub(num.value, num.mask, by.value, by.mask)
            smin, smax = num.smin - by.smax, num.smax - by.smin
            if not (S64_MIN <= smin <= S64_MAX and S64_MIN <= smax <= S64_MAX):
                smin, smax = S64_MIN, S64_MAX
            umin, umax = (0, U64) if num.umin < by.umax else (num.umin - by.umax, num.umax - by.umin)
            new = settle(v, m, smin, smax, umin, umax, S32_MIN, S32_MAX, 0, U32, env.rules)
            keeps = not packet or by.smin >= 0
            result = base.same(new, base.off, env.new_id() if packet else base.id, base.flags, base.rng if keeps else 0)
    elif op in _BITWISE:
        raise env.refuse(
            "pointer-arithmetic",
            f"R{dst} bitwise operator {_SIGNS[op]} on pointer prohibited",
            "a pointer can only be moved by adding and subtracting numbers",
        )
    else:
        raise env.refuse(
            "pointer-arithmetic",
            f"R{dst} pointer arithmetic with {_SIGNS[op]} operator prohibited",
            "a pointer can only be moved by adding and subtracting numbers",
        )
    _sane(env, result.num, base, off=result.off)
    if not env.code.bypass_spectre:
        _bounded(env, dst, result)
    if guard is not None:
        guards.after(env, insn, result, guard)
    return result


def _bounded(env: Env, dst: int, reg: Reg) -> None:
    """Without CAP_PERFMON a pointer must stay where it points, even before it is used."""
    from ebpf.engine.verifier.memory import region

    if reg.kind == STACK:
        at = reg.off + reg.num.value
        if reg.num.mask or not -512 <= at < 0:
            says = (
                f"R{dst} variable stack access prohibited for !root, var_off="
                if reg.num.mask
                else f"R{dst} stack pointer arithmetic goes out of range, prohibited for !root; off={at}"
            )
            raise env.refuse("capability", says, "without CAP_PERFMON a pointer may not leave the stack")
    elif reg.kind == MAP_VALUE:
        try:
            region(env, reg, dst, 0, 1, env.map_of(reg).value_size)
        except Refusal as refusal:
            refusal.says += f"\nR{dst} pointer arithmetic of map value goes out of range, prohibited for !root"
            raise


def _plain(num: Num) -> Num:
    """The variable part of a pointer, of which no 32-bit bounds are kept."""
    if not num.mask:
        return num
    return settle(num.value, num.mask, num.smin, num.smax, num.umin, num.umax, S32_MIN, S32_MAX, 0, U32)


def _sane(env: Env, num: Num, base: Reg, *, off: int) -> None:
    """Check that a pointer stays where offsets can be counted without overflow."""
    if not num.mask and not -_FAR < s64(num.value) < _FAR:
        raise env.refuse(
            "unbounded-offset",
            f"math between {base.name} pointer and {s64(num.value)} is not allowed",
            "a pointer moves further than any memory reaches",
        )
    if not -_FAR < off < _FAR:
        raise env.refuse(
            "unbounded-offset", f"{base.name} pointer offset {off} is not allowed", "a pointer moves further than any memory reaches"
        )
    if num.smin == S64_MIN:
        raise env.refuse(
            "unbounded-offset",
            f"math between {base.name} pointer and register with unbounded min value is not allowed",
            "a pointer is moved by a number that may be any: give it bounds by comparing it, as an unsigned number",
        )
    if not -_FAR < num.smin < _FAR:
        raise env.refuse(
            "unbounded-offset",
            f"value {num.smin} makes {base.name} pointer be out of bounds",
            f"a pointer is moved by a number that may be as low as {num.smin}",
        )
