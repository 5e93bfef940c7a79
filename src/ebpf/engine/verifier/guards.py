"""What pointer arithmetic must be for Linux to guard it against a processor that guesses: programs without CAP_PERFMON.

Linux masks the number that is added, so that not even a guess leads out of the memory. That takes one mask for each instruction:
the memory's limit that the pointer is at, and the direction, must be the same on all paths.
"""

from typing import Final, NoReturn

from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.num import Num
from ebpf.engine.verifier.reg import MAP_VALUE, STACK, Reg
from ebpf.isa import Insn
from ebpf.isa.opcodes import Alu

_ADD: Final = int(Alu.ADD)
_STACK: Final = 512
_NEGATIVE: Final = 1
_CONSTANT: Final = 2
_POINTER_RIGHT: Final = 4


class Guard:
    """The mask that an instruction needs: how, from which limit, towards lower addresses or higher."""

    __slots__ = ("kind", "left", "limit", "op")

    def __init__(self, kind: int, limit: int, op: int, *, left: bool) -> None:
        self.kind = kind
        self.limit = limit
        self.op = op
        self.left = left


def before(env: Env, insn: Insn, op: int, base: Reg, by: Num, *, swapped: bool) -> Guard | None:
    """The guard of `base op by`, before it is carried out; None where none is needed. Raises Refusal where there can be none."""
    if env.slot in env.barriers:
        return None
    guard = None if env.state.guessed else _made(env, insn, op, base, by, swapped=swapped)
    if by.mask and env.guess is not None:
        # A processor that takes another number to be added finds the mask, and adds nothing.
        state = env.state.copy()
        state.frames[-1].regs[insn.dst] = base
        env.guess(env.slot + 1, state)
    return guard


def _made(env: Env, insn: Insn, op: int, base: Reg, by: Num, *, swapped: bool) -> Guard:
    if by.mask and (by.smin < 0) != (by.smax < 0):
        offset = insn.dst if swapped else insn.src
        _refuse(env, f"R{offset} has unknown scalar with mixed signed bounds", "a pointer is moved by a number that may have either sign")
    left = (op == _ADD) == (by.smin < 0)
    limit = _limit(env, insn, op, base, left=left)
    kind = (_NEGATIVE if by.smin < 0 else 0) | (_POINTER_RIGHT if swapped else 0)
    if by.mask:
        env.strict = True
    else:
        kind |= _CONSTANT
    return Guard(kind, limit, op, left=left)


def after(env: Env, insn: Insn, moved: Reg, guard: Guard) -> None:
    """The same once the pointer has moved. Raises Refusal where another path needs another mask."""
    found = guard.kind, abs(guard.limit - _limit(env, insn, guard.op, moved, left=guard.left))
    if env.masks.setdefault(env.slot, found) != found:
        what = "add" if guard.op == _ADD else "sub"
        _refuse(
            env,
            f"R{insn.dst} tried to {what} from different maps, paths or scalars",
            "a pointer is moved here by numbers, or within memory, of other limits than on another path",
        )


def _limit(env: Env, insn: Insn, op: int, pointer: Reg, *, left: bool) -> int:
    if pointer.kind == STACK:
        most = _STACK + left
        limit = -(pointer.num.value + pointer.off) & 0xFFFFFFFF
    elif pointer.kind == MAP_VALUE:
        most = env.map_of(pointer).value_size
        limit = (pointer.num.smin if left else pointer.num.umax) + pointer.off & 0xFFFFFFFF
    else:
        _refuse(
            env, f"R{insn.dst} has pointer with unsupported alu operation", f"a {pointer.name} pointer is moved by what is in a register"
        )
    if limit >= most:
        what = "add" if op == _ADD else "sub"
        _refuse(env, f"R{insn.dst} tried to {what} beyond pointer bounds", "a pointer is moved out of its memory")
    return limit


def _refuse(env: Env, says: str, cause: str) -> NoReturn:
    raise env.refuse(
        "capability", f"{says}, pointer arithmetic with it prohibited for !root", f"{cause}: without CAP_PERFMON that cannot be guarded"
    )
