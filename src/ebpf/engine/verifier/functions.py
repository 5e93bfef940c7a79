"""Functions of the program: static ones are walked with each call's arguments, global ones once, by what their types promise."""

from typing import Final

from ebpf.btf import Btf, essential
from ebpf.btf.types import COMPOSITE, Kind, Type
from ebpf.engine.program import Code
from ebpf.engine.verifier import dynptrs, memory
from ebpf.engine.verifier.arguments import expected
from ebpf.engine.verifier.context import kernel_context
from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.kernel_types import kernel, named, object_of
from ebpf.engine.verifier.object_arguments import same_struct
from ebpf.engine.verifier.refusal import Refusal, Unjudged
from ebpf.engine.verifier.reg import (
    ANY,
    ARENA,
    BTF_ID,
    CTX,
    DYNPTR,
    MAP_KEY,
    MAP_VALUE,
    MAYBE_NULL,
    MEM,
    NOTHING,
    PACKET,
    PACKET_META,
    RCU,
    RDONLY,
    SCALAR,
    STACK,
    TRUSTED,
    UNTRUSTED,
    Reg,
)
from ebpf.engine.verifier.sections import in_irq
from ebpf.engine.verifier.state import Frame, State
from ebpf.uapi import ProgType

FRAMES: Final = 8
STACK_BYTES: Final = 512
_TAIL_BYTES: Final = 256
_TAIL_CALL: Final = 12


class Parameter:
    """What a global function takes: `kind` is scalar, ctx, mem, dynptr, object, arena or untrusted.

    `size` is memory's, `type_id` an object's.
    """

    __slots__ = ("kind", "nullable", "size", "type_id")

    def __init__(self, kind: str, size: int = 0, *, nullable: bool = False, type_id: int = 0) -> None:
        self.kind = kind
        self.type_id = type_id
        self.size = size
        self.nullable = nullable


def name_of(code: Code, start: int) -> str:
    """A function's name, or "" where nothing says it."""
    if code.btf is not None:
        for slot, type_id in code.functions:
            if slot == start and 0 < type_id < len(code.btf):
                return code.btf.type(type_id).name
    return ""


def number_of(env: Env, start: int) -> int:
    """A function's number: 0 is the program itself."""
    return env.structure.starts.index(start)


def parameters(env: Env, start: int) -> list[Parameter]:
    """What a global function takes. Raises Refusal where its types cannot be checked."""
    btf = env.code.btf
    assert btf is not None
    type_id = next(id for slot, id in env.code.functions if slot == start)
    function = btf.type(type_id)
    prototype = btf.type(function.ref)
    if prototype.kind != Kind.FUNC_PROTO:
        raise env.refuse("missing-information", f"Invalid BTF of func {function.name}", "a function's type is no function type")
    if len(prototype.members) > 5:
        raise env.refuse(
            "function-arguments",
            f"Global function {function.name}() with {len(prototype.members)} > 5 args. Buggy compiler.",
            "a function takes at most 5 arguments",
        )
    result = btf.resolve(prototype.ref)
    if result.kind not in (Kind.INT, Kind.ENUM, Kind.ENUM64):
        raise env.refuse(
            "function-arguments",
            f"Global function {function.name}() doesn't return scalar. Only those are supported.",
            f"{function.name}() must return a number: it is global, so that it is judged apart from its callers",
        )
    tags = _tags(btf, type_id) if env.rules.argument_tags else {}
    return [_parameter(env, btf, at, member.type_id, tags.get(at, set())) for at, member in enumerate(prototype.members)]


def complaint(env: Env) -> str:
    """What Linux says of a program whose first parameter is no context; it accepts that."""
    if env.code.btf is None or not any(slot == 0 for slot, _ in env.code.functions):
        return ""
    try:
        parameters(env, 0)
    except Refusal as refusal:
        return "" if isinstance(refusal, Unjudged) else refusal.says
    return ""


def _tags(btf: Btf, type_id: int) -> dict[int, set[str]]:
    out: dict[int, set[str]] = {}
    for row in btf:
        if row.kind == Kind.DECL_TAG and row.ref == type_id and row.name.startswith("arg:"):
            out.setdefault(row.info, set()).add(row.name[4:])
    return out


def _parameter(env: Env, btf: Btf, at: int, type_id: int, tags: set[str]) -> Parameter:
    row = btf.resolve(type_id)
    if row.kind in (Kind.INT, Kind.ENUM, Kind.ENUM64):
        return Parameter("scalar")
    if row.kind != Kind.PTR:
        raise env.refuse(
            "function-arguments",
            f"Arg#{at} type {row.kind.name} in func is not supported yet.",
            "a global function takes numbers and pointers",
        )
    names = set()
    inner = btf.type(row.ref)
    while inner.kind in (Kind.TYPEDEF, Kind.CONST, Kind.VOLATILE, Kind.RESTRICT, Kind.TYPE_TAG):
        if inner.name and inner.kind == Kind.TYPEDEF:
            names.add(inner.name)
        inner = btf.type(inner.ref)
    if inner.name:
        names.add(inner.name)
    if "ctx" in tags or (names & kernel_context(env) and inner.kind in (Kind.STRUCT, Kind.INT, Kind.UNION, Kind.FWD)):
        return Parameter("ctx")
    if "trusted" in tags and "nonnull" not in tags:
        return Parameter("object", nullable="nullable" in tags, type_id=named(env, essential(inner.name)))
    if "untrusted" in tags and env.rules.untrusted_leaves:
        return _untrusted(env, at, tags, inner)
    if "arena" in tags and env.rules.has("6.9"):
        return Parameter("arena")
    if tags & {"untrusted", "arena"}:
        raise Unjudged("arguments of global functions tagged " + ", ".join(sorted(tags)), env.slot)
    if tags & {"trusted", "nullable"}:
        raise env.refuse(
            "function-arguments", f"arg#{at} has invalid combination of tags", f"the tags of argument {at + 1} do not go together"
        )
    if "bpf_dynptr" in names:
        return Parameter("dynptr")
    size = _size(btf, inner)
    if size is None:
        what = "UNKNOWN" if inner.kind == Kind.VOID else inner.kind.name
        raise env.refuse(
            "function-arguments",
            f"arg#{at} reference type('{what} {inner.name if inner.id else ''}') size cannot be determined: -22",
            f"argument {at + 1} of a global function points to something of unknown size",
        )
    return Parameter("mem", size, nullable="nonnull" not in tags)


def _untrusted(env: Env, at: int, tags: set[str], inner: Type) -> Parameter:
    """A pointer to anything: what is there may be read, and reads as zero where nothing is."""
    if len(tags) > 1:
        raise env.refuse(
            "function-arguments",
            f"arg#{at} untrusted cannot be combined with any other tags",
            f"the tags of argument {at + 1} do not go together",
        )
    if inner.kind in (Kind.VOID, Kind.INT, Kind.ENUM, Kind.ENUM64, Kind.FLOAT):
        return Parameter("untrusted")
    found = kernel(env).find(essential(inner.name), Kind.STRUCT)
    if inner.kind not in COMPOSITE or found is None:
        raise env.refuse(
            "function-arguments",
            f"arg#{at} reference type('{inner.kind.name} {inner.name}') has no matches",
            f"argument {at + 1} must be a struct of the kernel's, or memory",
        )
    return Parameter("untrusted", type_id=found.id)


def _size(btf: Btf, row: Type) -> int | None:
    if row.kind in (Kind.INT, Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.ENUM64, Kind.FLOAT):
        return row.size
    if row.kind == Kind.PTR:
        return 8
    if row.kind == Kind.ARRAY:
        inner = _size(btf, btf.resolve(row.ref))
        return None if inner is None else inner * row.info
    return None


def check_abnormal_returns(env: Env) -> None:
    """Check that functions which may end at once, by a load from a packet or a tail call, return a number. Raises Refusal."""
    structure, code = env.structure, env.code
    types = dict(code.functions)
    for start in structure.starts[1:]:
        what = ""
        for insn in structure.slots[start : structure.ends[start]]:
            if insn is not None and insn.opcode & 7 == 0 and insn.opcode != 0x18:
                what = "LD_ABS"
            elif insn is not None and insn.opcode == 0x85 and insn.src == 0 and insn.imm == _TAIL_CALL:
                what = what or "tail_call"
        if not what:
            continue
        if code.btf is None or start not in types:
            raise Refusal("function-arguments", f"{what} is not allowed in subprogs without BTF", f"a function with {what} needs types", -1)
        result = code.btf.resolve(code.btf.type(code.btf.type(types[start]).ref).ref)
        if result.kind not in (Kind.INT, Kind.ENUM, Kind.ENUM64):
            raise Refusal(
                "function-arguments",
                f"{what} is only allowed in functions that return 'int'.",
                f"a function with {what} must return a number",
                -1,
            )


def call_static(env: Env, target: int) -> int:
    """Enter a static function with the caller's registers; where it begins."""
    state = env.state
    if len(state.frames) >= FRAMES:
        raise env.refuse(
            "stack-total",
            f"the call stack of {len(state.frames) + 1} frames is too deep",
            f"functions call each other more than {FRAMES} deep",
        )
    caller = state.frames[-1]
    regs = [NOTHING, *caller.regs[1:6], NOTHING, NOTHING, NOTHING, NOTHING, Reg(STACK, frame=len(state.frames))]
    for at in range(6):
        caller.regs[at] = NOTHING
    frame = Frame(target, regs, {}, env.slot)
    env.enter(frame)
    state.frames.append(frame)
    return target


def call_global(env: Env, target: int) -> int:
    """Check the arguments of a global function, whose body is judged apart; where control goes on."""
    regs = env.regs
    if any(held.kind == "lock" for held in env.state.held):
        raise env.refuse(
            "locked-call",
            "global function calls are not allowed while holding a lock,\nuse static function instead",
            "a global function is called while a lock is held",
        )
    if env.state.preempt and not env.rules.global_in_sections:
        raise env.refuse(
            "locked-call",
            "global function calls are not allowed with preemption disabled,\nuse static function instead",
            "a global function is called where preemption is disabled",
        )
    if target in env.sleepers and (env.state.preempt or env.state.rcu or in_irq(env.state) or not env.state.sleepable):
        raise env.refuse(
            "locked-call",
            "global functions that may sleep are not allowed in non-sleepable context,\n"
            "i.e., in a RCU/IRQ/preempt-disabled section, or in\na non-sleepable BPF program context",
            "a global function that may sleep is called inside of a section that must not",
        )
    try:
        wanted = parameters(env, target)
        for place, parameter in enumerate(wanted):
            _passes(env, place, parameter)
    except Unjudged:
        raise
    except Refusal as refusal:
        name = name_of(env.code, target)
        refusal.says += f"\nCaller passes invalid args into func#{number_of(env, target)} ('{name}')"
        raise
    for at in range(6):
        regs[at] = NOTHING
    regs[0] = ANY
    return env.slot + 1


def _passes(env: Env, place: int, parameter: Parameter) -> None:
    at = place + 1
    reg = env.readable(at)
    if parameter.kind == "untrusted":
        return
    if parameter.kind == "arena":
        if reg.kind not in (ARENA, SCALAR):
            raise env.refuse(
                "function-arguments", f"R{at} is not a pointer to arena or scalar.", f"argument {at} must be an address in the arena"
            )
        return
    if parameter.kind == "scalar":
        if reg.kind != SCALAR:
            raise env.refuse("function-arguments", f"R{at} is not a scalar", f"argument {at} must be a number")
    elif parameter.kind == "ctx":
        if reg.kind != CTX or reg.flags & MAYBE_NULL:
            raise env.refuse(
                "function-arguments", f"arg#{place} expected pointer to ctx, but got {reg.name}", f"argument {at} must be the context"
            )
        memory.fixed_offset(env, reg, at)
    elif parameter.kind == "dynptr":
        if reg.kind not in (STACK, DYNPTR):
            raise env.refuse(
                "function-arguments",
                f"arg#{place} expected pointer to stack or const struct bpf_dynptr",
                f"argument {at} must be a dynptr",
            )
        dynptrs.begun(env, at, reg)
    elif parameter.kind == "object":
        if not (reg.is_null and parameter.nullable):
            _passes_object(env, at, reg, parameter)
    else:
        if reg.is_null and parameter.nullable:
            return
        if reg.flags & MAYBE_NULL and not parameter.nullable:
            raise env.refuse("maybe-null", f"arg#{place} is expected to be non-NULL", f"argument {at} may be null")
        plain = reg.flagged(reg.flags & ~MAYBE_NULL)
        if plain.kind not in (STACK, MAP_VALUE, MAP_KEY, MEM, PACKET, PACKET_META):
            raise env.refuse(
                "function-arguments",
                f"R{at} type={reg.name} expected=fp, pkt, pkt_meta, map_key, map_value, mem",
                f"argument {at} must point to {parameter.size} bytes of memory",
            )
        env.regs[at] = plain
        memory.given(env, at, parameter.size, zero=False, write=False, raw=False)
        memory.given(env, at, parameter.size, zero=False, write=True, raw=False)
        env.regs[at] = reg


def _passes_object(env: Env, at: int, reg: Reg, parameter: Parameter) -> None:
    flags = reg.flags & ~MAYBE_NULL if parameter.nullable else reg.flags
    if reg.kind != BTF_ID or flags not in (0, TRUSTED, RCU):
        raise expected(env, at, reg, "ptr_, trusted_ptr_, rcu_ptr_")
    same_struct(env, at, reg, kernel(env).type(parameter.type_id).name)


def enter_global(env: Env, start: int) -> State:
    """The state in which a global function is judged: with whatever its types allow."""
    regs = [NOTHING] * 10 + [Reg(STACK)]
    wanted = parameters(env, start)
    if start == env.on_exception and [parameter.kind for parameter in wanted] != ["scalar"]:
        raise env.refuse(
            "function-arguments", "exception cb only supports single integer argument", "what is run on an exception takes one number"
        )
    for place, parameter in enumerate(wanted):
        if parameter.kind == "scalar":
            regs[place + 1] = ANY
        elif parameter.kind == "ctx":
            regs[place + 1] = Reg(CTX)
        elif parameter.kind == "dynptr":
            regs[place + 1] = Reg(DYNPTR, id=env.new_id())
        elif parameter.kind == "arena":
            regs[place + 1] = Reg(ARENA)
        elif parameter.kind == "untrusted" and parameter.type_id:
            regs[place + 1] = object_of(env, parameter.type_id, UNTRUSTED)
        elif parameter.kind == "untrusted":
            regs[place + 1] = Reg(MEM, flags=RDONLY | UNTRUSTED)
        elif parameter.kind == "object":
            regs[place + 1] = object_of(env, parameter.type_id, TRUSTED | (MAYBE_NULL if parameter.nullable else 0))
        elif parameter.nullable:
            regs[place + 1] = Reg(MEM, id=env.new_id(), flags=MAYBE_NULL, size=parameter.size)
        else:
            regs[place + 1] = Reg(MEM, size=parameter.size)
    return State([Frame(start, regs, {}, -1)], sleepable=env.code.sleepable)


def check_depth(env: Env, tail_calls: bool) -> None:
    """Check that the stacks of functions that call each other fit into one. Raises Refusal."""
    structure, slots = env.structure, env.structure.slots
    private = env.rules.private_stack and env.code.prog_type in (
        ProgType.KPROBE,
        ProgType.TRACEPOINT,
        ProgType.PERF_EVENT,
        ProgType.RAW_TRACEPOINT,
        ProgType.TRACING,
    )
    calls: dict[int, list[int]] = {}
    for start in structure.starts:
        calls[start] = []
        for slot in range(start, structure.ends[start]):
            insn = slots[slot]
            if insn is None:
                continue
            target = slot + 1 + insn.imm
            given = insn.opcode == 0x18 and insn.src == 4 and target not in structure.called_later
            if given or (insn.opcode == 0x85 and insn.src == 1):
                calls[start].append(target)

    def rounded(start: int) -> int:
        depth = env.depth.get(start, 0)
        if env.fast_calls is not None:
            depth = env.fast_calls.needed(start, depth, env.other_depth.get(start, 0))
        return (depth + 15) // 16 * 16 if env.rules.packs_stacks else max(depth + 31, 32) // 32 * 32

    def walk(start: int, chain: tuple[int, ...], total: int) -> None:
        chain = (*chain, start)
        size = rounded(start)
        total += size
        too_much = size > STACK_BYTES if private and not (tail_calls and len(chain) > 1) else total > STACK_BYTES
        if too_much:
            frames = [(at, rounded(at)) for at in chain]
            raise Refusal(
                "stack-total",
                f"combined stack size of {len(chain)} calls is {total}. Too large",
                "functions that call each other need "
                + " + ".join(f"{bytes_}" for _, bytes_ in frames)
                + f" = {total} bytes of stack, {STACK_BYTES} are allowed",
                chain[-1],
                frames=frames,
            )
        if len(chain) > FRAMES:
            raise Refusal(
                "stack-total",
                f"the call stack of {len(chain)} frames is too deep !",
                f"functions call each other more than {FRAMES} deep",
                start,
            )
        _check_throws(env, chain)
        for target in calls[start]:
            if target == env.on_exception:
                raise Refusal("control-flow", "cannot call exception cb directly", "what is run on an exception cannot be called", start)
            if target in chain:
                raise Refusal("control-flow", "recursive call", "functions call each other in a circle", start)
            if tail_calls and total >= _TAIL_BYTES and _tails(env, target):
                raise Refusal(
                    "stack-total",
                    f"tail_calls are not allowed when call stack of previous frames is {total} bytes. Too large",
                    f"a function that makes tail calls is called with {total} bytes of stack in use, {_TAIL_BYTES} are allowed",
                    target,
                )
            walk(target, chain, total)

    walk(0, (), 0)
    for start in structure.starts[1:]:
        if start in structure.called_back or structure.is_global(start):
            walk(start, (), 0)


def _check_throws(env: Env, chain: tuple[int, ...]) -> None:
    """Check that nothing is thrown out of a function that a helper or an exception runs. Raises Refusal."""
    structure = env.structure
    if not any(start in structure.called_back or start == env.on_exception for start in chain):
        return
    for slot in range(chain[-1], structure.ends[chain[-1]]):
        insn = structure.slots[slot]
        if insn is not None and structure.throws(insn):
            raise Refusal(
                "control-flow",
                f"bpf_throw kfunc (insn {slot}) cannot be called from callback subprog {number_of(env, chain[-1])}",
                "an exception is thrown out of a function that a helper runs, or an exception",
                slot,
            )


def _tails(env: Env, start: int) -> bool:
    return any(
        insn is not None and insn.opcode == 0x85 and insn.src == 0 and insn.imm == _TAIL_CALL
        for insn in env.structure.slots[start : env.structure.ends[start]]
    )


__all__ = ["BTF_ID", "call_global", "call_static", "check_depth", "enter_global", "name_of"]
