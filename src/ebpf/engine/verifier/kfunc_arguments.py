"""Arguments of kernel functions: what each has to be, by the kernel's types and by what its name says."""

from collections.abc import Callable
from typing import Final

from ebpf.btf import Btf, Kind
from ebpf.btf.types import COMPOSITE, Type
from ebpf.engine.program import Code
from ebpf.engine.verifier import dynptrs, irqs, iterators, locks, memory, memory_arguments
from ebpf.engine.verifier.arguments import field
from ebpf.engine.verifier.context import kernel_context
from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.kernel_types import STRUCT_OF, named, trusted
from ebpf.engine.verifier.references import require_unmoved
from ebpf.engine.verifier.refusal import Refusal, Unjudged
from ebpf.engine.verifier.reg import BTF_ID, CTX, DYNPTR, FUNC, MAP_PTR, MAP_VALUE, MAYBE_NULL, RCU, SCALAR, STACK, UNTRUSTED, Reg
from ebpf.engine.verifier.state import Special
from ebpf.engine.verifier.struct_walk import is_number, of_numbers, stands_for
from ebpf.uapi import AttachType, ProgType
from ebpf.uapi.kfuncs import Kfunc, Says

_ITERATOR: Final = Says.ITER_NEW | Says.ITER_NEXT | Says.ITER_DESTROY
_STRICT: Final = Says.TRUSTED_ARGS | Says.RCU
#: Names of arguments that say what they are for.
_SIZE, _CONSTANT_SIZE, _CONSTANT = "__sz", "__szk", "__k"
_IGNORED, _NULLABLE, _OPTIONAL, _UNINIT, _STRING, _MAP = "__ign", "__nullable", "__opt", "__uninit", "__str", "__map"
_IRQ_FLAG, _PROGRAM = "__irq_flag", "__prog"
_INIT: Final = "___init"
_WORK: Final = ("bpf_wq", "bpf_task_work")
_DYNPTRS: Final = frozenset({"bpf_dynptr", "bpf_dynptr_kern"})


class KfuncCall:
    """A call while its arguments are checked."""

    __slots__ = (
        "btf",
        "constant",
        "dynptr",
        "function",
        "index",
        "iterator",
        "kfunc",
        "members",
        "proto",
        "ref",
        "released",
        "size",
        "slots",
        "the_map",
        "writable",
    )

    def __init__(self, kfunc: Kfunc, btf: Btf, proto: Type) -> None:
        self.kfunc = kfunc
        self.btf = btf
        self.proto = proto
        self.members = proto.members
        self.ref = 0
        self.released = 0
        self.constant: int | None = None
        self.size: int | None = None
        self.iterator: Reg | None = None
        self.dynptr: Special | None = None
        self.index = 0
        self.slots = 0
        self.writable = False
        #: The map of an argument, and the function of the program that is to be run.
        self.the_map: Reg | None = None
        self.function = -1

    def has(self, place: int, suffix: str) -> bool:
        """Whether an argument's name ends so."""
        return place < len(self.members) and self.members[place].name.endswith(suffix)


def argument(env: Env, one: KfuncCall, place: int) -> int:
    """Check an argument; how many were checked with it."""
    member, at = one.members[place], place + 1
    row = one.btf.resolve(member.type_id)
    if one.has(place, _IGNORED) or one.has(place, _PROGRAM):
        return 1
    reg = env.readable(at)
    if is_number(row):
        _number(env, one, place, reg)
        return 1
    if row.kind != Kind.PTR:
        raise Unjudged(f"argument {at} of {one.kfunc.name}()", env.slot)
    if _trusts(env, one) and (reg.is_null or reg.flags & MAYBE_NULL) and not (one.has(place, _NULLABLE) or one.has(place, _OPTIONAL)):
        raise env.refuse(
            "null-argument",
            f"Possibly NULL pointer passed to trusted arg{place}",
            f"argument {at} of {one.kfunc.name}() may be null: test it first",
            register=at,
        )
    if reg.ref:
        one.ref = reg.ref
        if one.kfunc.says & Says.RELEASE:
            one.released = reg.ref
            require_unmoved(env, at, reg)
    return _pointer(env, one, place, reg, row)


def _trusts(env: Env, one: KfuncCall) -> bool:
    """Whether the function's pointers must be trusted (newer Linux asks that of all functions)."""
    return env.rules.trusted_arguments or bool(one.kfunc.says & _STRICT)


def _number(env: Env, one: KfuncCall, place: int, reg: Reg) -> None:
    at = place + 1
    if reg.kind != SCALAR:
        raise env.refuse("argument-type", f"R{at} is not a scalar", f"argument {at} of {one.kfunc.name}() must be a number", register=at)
    name = one.members[place].name
    if name.endswith(_CONSTANT):
        one.constant = _constant(env, at, reg, "must be a known constant")
    elif name in ("rdonly_buf_size", "rdwr_buf_size"):
        one.size = _constant(env, at, reg, "is not a const")
        one.writable = name == "rdwr_buf_size"


def _constant(env: Env, at: int, reg: Reg, says: str) -> int:
    if reg.num.mask:
        raise env.refuse("argument-type", f"R{at} {says}", f"argument {at} must be a constant", register=at)
    env.precise(at)
    return reg.num.value


def _pointer(env: Env, one: KfuncCall, place: int, reg: Reg, row: Type) -> int:
    """A pointer, by what it points to and what its name says."""
    at, name = place + 1, one.kfunc.name
    target = one.btf.resolve(row.ref)
    if name == "bpf_cast_to_kern_ctx" or _is_context(env, one.btf, row):
        _context(env, one, place, reg)
        return 1
    if one.has(place, _NULLABLE) and reg.is_null:
        return 1
    if target.name in _DYNPTRS:
        _dynptr(env, one, place, reg)
        return 1
    if (one.kfunc.says & _ITERATOR and not place) or one.has(place, "__iter"):
        _iterator(env, one, at, reg, target)
        return 1
    if one.has(place, _IRQ_FLAG):
        irqs.flag(env, at, reg, name)
        return 1
    if one.has(place, _STRING):
        if reg.kind != MAP_VALUE:
            raise env.refuse(
                "argument-type",
                f"arg#{place} doesn't point to a const string",
                f"argument {at} of {name}() must be a constant text",
                register=at,
            )
        memory_arguments.constant_text(env, at, reg)
        return 1
    if one.has(place, _MAP):
        if reg.kind == BTF_ID:
            _object(env, one, place, reg, one.btf.type(named(env, "bpf_map")))
        else:
            _map(env, one, at, reg)
        return 1
    if target.name in _WORK:
        _work(env, one, place, reg, target.name)
        return 1
    if target.kind == Kind.FUNC_PROTO:
        if reg.kind != FUNC:
            raise env.refuse("argument-type", f"arg{place} expected pointer to func", f"argument {at} must be a function", register=at)
        one.function = reg.uid
        return 1
    if target.name == "bpf_res_spin_lock":
        _lock(env, one, place, reg)
        return 1
    if reg.kind == BTF_ID or reg.kind in STRUCT_OF:
        _object(env, one, place, reg, target)
        return 1
    return _memory(env, one, place, reg, target)


def _work(env: Env, one: KfuncCall, place: int, reg: Reg, name: str) -> None:
    """A struct in a map's value that has a function of the program run later."""
    if reg.kind != MAP_VALUE:
        raise env.refuse(
            "argument-type",
            f"arg#{place} doesn't point to a map value",
            f"argument {place + 1} of {one.kfunc.name}() must be a {name} in a map's value",
            register=place + 1,
        )
    field(env, place + 1, reg, name)
    one.the_map = reg


def _map(env: Env, one: KfuncCall, at: int, reg: Reg) -> None:
    if reg.kind != MAP_PTR:
        raise env.refuse("argument-type", f"pointer in R{at} isn't map pointer", f"argument {at} must be a map", register=at)
    works = [what for _, what, _ in env.map_of(reg).special if what in _WORK]
    before = one.the_map
    if before is not None and works and (before.fd, before.uid) != (reg.fd, reg.uid):
        named = "bpf_task_work" if "bpf_task_work" in works else "workqueue"
        raise env.refuse(
            "argument-type",
            f"{named} pointer in R{at - 1} map_uid={before.uid} doesn't match map pointer in R{at} map_uid={reg.uid}",
            "the value belongs to another map than the one named",
            register=at,
        )
    one.the_map = reg


def _lock(env: Env, one: KfuncCall, place: int, reg: Reg) -> None:
    name = one.kfunc.name
    if reg.kind != MAP_VALUE:
        raise env.refuse(
            "argument-type",
            f"arg#{place} doesn't point to map value or allocated object",
            f"argument {place + 1} of {name}() must be a lock in a map's value",
            register=place + 1,
        )
    field(env, place + 1, reg, "bpf_res_spin_lock")
    if name in locks.TAKES:
        locks.take(env, reg, locks.TAKES[name])
    else:
        locks.give_back(env, reg, locks.GIVES_BACK[name])


#: What the kernel functions that make a dynptr make it of.
_MADE_OF: Final = {
    "bpf_dynptr_from_skb": dynptrs.SKB,
    "bpf_dynptr_from_skb_meta": dynptrs.SKB_META,
    "bpf_dynptr_from_xdp": dynptrs.XDP,
}


def _dynptr(env: Env, one: KfuncCall, place: int, reg: Reg) -> None:
    at, name = place + 1, one.kfunc.name
    if reg.kind not in (STACK, DYNPTR):
        raise env.refuse(
            "argument-type",
            f"arg#{place} expected pointer to stack or const struct bpf_dynptr",
            f"argument {at} of {name}() must be a dynptr on the stack",
            register=at,
        )
    if not one.has(place, _UNINIT):
        one.dynptr = dynptrs.begun(env, at, reg)
    elif name in _MADE_OF:
        dynptrs.begin(env, at, reg, _MADE_OF[name])
    elif one.dynptr is not None:
        dynptrs.begin(env, at, reg, one.dynptr.what, one.dynptr.ref)
    else:
        raise Unjudged(f"dynptrs that {name}() makes", env.slot)


def _is_context(env: Env, btf: Btf, pointer: Type) -> bool:
    row = btf.resolve(pointer.ref)
    return row.kind in COMPOSITE and row.name in kernel_context(env)


def _context(env: Env, one: KfuncCall, place: int, reg: Reg) -> None:
    if reg.kind != CTX:
        raise env.refuse(
            "argument-type",
            f"arg#{place} expected pointer to ctx, but got {reg.name}",
            f"argument {place + 1} of {one.kfunc.name}() must be the context",
            register=place + 1,
        )
    memory.fixed_offset(env, reg, place + 1)


def _iterator(env: Env, one: KfuncCall, at: int, reg: Reg, target: Type) -> None:
    if reg.kind != STACK:
        raise env.refuse(
            "argument-type",
            f"arg#{at - 1} expected pointer to an iterator on stack",
            f"argument {at} of {one.kfunc.name}() must be an iterator on the stack",
            register=at,
        )
    what, one.slots = target.name.removeprefix("bpf_iter_"), target.size // 8
    says = one.kfunc.says
    if says & Says.ITER_NEW:
        if one.kfunc.name == "bpf_iter_css_task_new" and not _may_walk_tasks(env.code):
            raise env.refuse(
                "helper-not-allowed",
                "css_task_iter is only allowed in bpf_lsm, bpf_iter and sleepable progs",
                "programs of this type cannot walk the tasks of a cgroup",
            )
        iterators.begin(env, at, reg, what, one.slots, says)
        return
    one.iterator, one.index = reg, iterators.begun(env, at, reg, what, one.slots, one.kfunc.name)
    special = env.state.frames[reg.frame].stack[one.index].special
    assert special is not None
    one.ref = special.ref
    if says & Says.ITER_DESTROY:
        iterators.end(env, reg, one.index, one.slots)


def _may_walk_tasks(code: Code) -> bool:
    if code.prog_type == ProgType.LSM or (code.prog_type == ProgType.TRACING and code.attach_type == AttachType.TRACE_ITER):
        return True
    return code.sleepable


def _object(env: Env, one: KfuncCall, place: int, reg: Reg, target: Type) -> None:
    """A kernel object, or what stands for one."""
    at, says = place + 1, one.kfunc.says
    if target.kind not in COMPOSITE:
        raise env.refuse(
            "argument-type",
            f"kernel function {one.kfunc.name} args#{place} pointer type {target.kind.name} {target.name} is not supported",
            f"argument {at} of {one.kfunc.name}() is no kernel object",
            register=at,
        )
    if _trusts(env, one) and not trusted(reg):
        if not says & Says.RCU:
            raise env.refuse(
                "argument-type",
                f"R{at} must be referenced or trusted",
                f"argument {at} of {one.kfunc.name}() must surely be alive: acquired, or given to the program",
                register=at,
            )
        if not reg.flags & RCU:
            raise env.refuse(
                "argument-type",
                f"R{at} must be a rcu pointer",
                f"argument {at} of {one.kfunc.name}() must surely be alive: acquired, or read inside of an RCU section",
                register=at,
            )
    if reg.kind == BTF_ID:
        memory.fixed_offset(env, reg, at, movable=True)
        if reg.flags & (UNTRUSTED | MAYBE_NULL) and not (reg.flags & RCU):
            raise env.refuse(
                "null-argument" if reg.flags & MAYBE_NULL else "argument-type",
                f"arg#{place} is {reg.name} expected ptr_ or socket",
                f"argument {at} of {one.kfunc.name}() may be null, or not alive any more",
                register=at,
            )
    else:
        memory.fixed_offset(env, reg, at)
    _same(env, one, place, reg, target)


def _same(env: Env, one: KfuncCall, place: int, reg: Reg, target: Type) -> None:
    btf = one.btf
    if reg.kind == BTF_ID:
        if reg.btf is not btf:
            raise Unjudged("objects that the program allocated", env.slot)
        type_id = reg.type_id
    else:
        found = btf.find(STRUCT_OF[reg.kind], Kind.STRUCT)
        if found is None:
            raise Unjudged(f"struct {STRUCT_OF[reg.kind]}, which is not among the kernel's types", env.slot)
        type_id = found.id
    mine = btf.resolve(type_id)
    strict = bool(one.kfunc.says & Says.RELEASE and reg.ref)
    strict = strict or mine.name == target.name + _INIT or target.name == mine.name + _INIT
    if stands_for(btf, type_id, reg.off, target.id, strict=strict) or (target.name == "__sk_buff" and mine.name == "sk_buff"):
        return
    raise env.refuse(
        "argument-type",
        f"kernel function {one.kfunc.name} args#{place} expected pointer to STRUCT {target.name} but R{place + 1} has a pointer "
        f"to STRUCT {mine.name}",
        f"argument {place + 1} of {one.kfunc.name}() must be a struct {target.name}; it is a struct {mine.name}",
        register=place + 1,
    )


def _memory(env: Env, one: KfuncCall, place: int, reg: Reg, target: Type) -> int:
    """Memory: of the type's size, or of the size that the next argument says."""
    at = place + 1
    sized_ = False
    if place + 1 < len(one.members) and is_number(one.btf.resolve(one.members[place + 1].type_id)):
        sized_ = one.has(place + 1, _SIZE) or one.has(place + 1, _CONSTANT_SIZE)
        sized_ = sized_ and env.readable(at + 1).kind == SCALAR
    if not of_numbers(one.btf, target) and not (sized_ and target.kind == Kind.VOID):
        raise env.refuse(
            "argument-type",
            f"arg#{place} pointer type {target.kind.name} {target.name} must point to "
            f"{'void, ' if sized_ else ''}scalar, or struct with scalar",
            f"argument {at} of {one.kfunc.name}() must be a kernel object of type {target.name}",
            register=at,
        )
    if not sized_:
        if not reg.is_null:
            _both_ways(env, at, reg, lambda: _whole(env, at, one.btf.size_of(target.id)))
        return 1
    size = env.regs[at + 1]
    if not (reg.is_null and one.has(place, _OPTIONAL)):
        try:
            _both_ways(env, at, reg, lambda: _sized(env, at, size))
        except Unjudged:
            raise
        except Refusal as refusal:
            refusal.says += f"\narg#{place} arg#{place + 1} memory, len pair leads to invalid memory access"
            raise
    if one.has(place + 1, _CONSTANT_SIZE):
        one.constant = _constant(env, at + 1, size, "must be a known constant")
    return 2


def _both_ways(env: Env, at: int, reg: Reg, check: Callable[[], None]) -> None:
    """Check memory that may be null as if it were not."""
    if reg.flags & MAYBE_NULL:
        env.regs[at] = reg.flagged(reg.flags & ~MAYBE_NULL)
    try:
        check()
    finally:
        env.regs[at] = reg


def _whole(env: Env, at: int, size: int) -> None:
    memory.given(env, at, size, zero=True, write=False, raw=False)
    memory.given(env, at, size, zero=True, write=True, raw=False)


def _sized(env: Env, at: int, size: Reg) -> None:
    memory_arguments.bounded(env, at + 1, size, zero=True)
    most = size.num.umax
    memory.given(env, at, most, zero=True, write=False, raw=False)
    memory.given(env, at, most, zero=True, write=True, raw=not size.num.mask)
    env.precise(at + 1)
