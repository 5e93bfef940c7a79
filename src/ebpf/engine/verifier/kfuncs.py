"""Calls of kernel functions: who may call which, what their arguments have to be by the kernel's types, what they return."""

from collections.abc import Mapping
from typing import Final

from ebpf.btf import Kind
from ebpf.btf.types import COMPOSITE, Type
from ebpf.engine.program import Code
from ebpf.engine.verifier import callbacks, dynptrs, ends, exceptions, iterators, locks
from ebpf.engine.verifier.context import kernel_context
from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.kernel_types import kernel, object_of
from ebpf.engine.verifier.kfunc_arguments import KfuncCall, argument
from ebpf.engine.verifier.num import S32_MAX, S32_MIN, U32, U64, settle
from ebpf.engine.verifier.references import acquire, forget_packets, release
from ebpf.engine.verifier.refusal import Unjudged
from ebpf.engine.verifier.reg import (
    ANY,
    BTF_ID,
    MAYBE_NULL,
    MEM,
    NOTHING,
    NULL,
    PIECE,
    RCU,
    RDONLY,
    TRUSTED,
    UNTRUSTED,
    Reg,
    number,
)
from ebpf.engine.verifier.results import ERRORS
from ebpf.engine.verifier.sections import irq, preempt, rcu
from ebpf.engine.verifier.state import State
from ebpf.engine.verifier.struct_walk import is_number
from ebpf.engine.verifier.structure import NO_RETURN
from ebpf.isa.opcodes import CALL
from ebpf.uapi import CallSrc, ProgType
from ebpf.uapi.kfuncs import KFUNCS, Kfunc, Says
from ebpf.uapi.prog_types import WRITES_PACKETS


def names(code: Code) -> Mapping[int, Type]:
    """The kernel functions that a program calls, by their numbers."""
    btf = code.kernel_btf
    if btf is None:
        return {}
    wanted = {insn.imm for insn in code.insns if insn.opcode == CALL and insn.src == CallSrc.KFUNC_CALL and 0 < insn.imm < len(btf)}
    return {id_: btf.type(id_) for id_ in wanted if btf.kind(id_) == Kind.FUNC}


def registers(code: Code, functions: Mapping[int, Type]) -> Mapping[int, int]:
    """Of each kernel function, a bit for each register that it is given, bit 0 if it advances an iterator, and NO_RETURN."""
    out = {}
    for id_, row in functions.items():
        assert code.kernel_btf is not None
        kfunc = KFUNCS.get(row.name)
        advances = kfunc is not None and bool(kfunc.says & Says.ITER_NEXT)
        out[id_] = ((1 << len(code.kernel_btf.type(row.ref).members)) - 1) << 1 | advances
        if row.name == exceptions.THROW:
            out[id_] |= NO_RETURN
    return out


def says(name: str, what: Says) -> bool:
    """Whether the kernel says something of a function."""
    kfunc = KFUNCS.get(name)
    return kfunc is not None and bool(kfunc.says & what)


def call(env: Env, function: Type) -> tuple[int, State] | None:
    """Check the call of a kernel function and put its result into r0; the other way on, if there are two. Raises Refusal."""
    kfunc = _allowed(env, function)
    btf = kernel(env)
    one = KfuncCall(kfunc, btf, btf.type(function.ref))
    without = _without(env) if kfunc.name in locks.TAKES else None
    place = 0
    while place < len(one.members):
        place += argument(env, one, place)
    if kfunc.says & Says.RELEASE and not one.released:
        raise env.refuse(
            "reference-misuse",
            f"release kernel function {kfunc.name} expects refcounted PTR_TO_BTF_ID",
            f"{kfunc.name}() must be given what was acquired",
        )
    sleeps = bool(kfunc.says & Says.SLEEPABLE)
    rcu(env, kfunc.name, sleeps=sleeps)
    preempt(env, kfunc.name, sleeps=sleeps)
    if sleeps:
        irq(env, kfunc.name)
    if kfunc.name == exceptions.THROW:
        ends.thrown(env)
    if one.released:
        release(env, one.released)
    if kfunc.says & Says.MOVES_PACKET:
        forget_packets(env)
    regs = env.regs
    for at in range(6):
        regs[at] = NOTHING
    regs[0] = NULL if without is not None else _result(env, one)
    if kfunc.says & Says.ITER_NEXT:
        assert one.iterator is not None
        turn = iterators.advance(env, one.iterator, one.index, one.slots)
        return (env.slot + 1, turn) if turn is not None else None
    if one.function >= 0:
        assert one.the_map is not None
        returns = (S32_MIN, S32_MAX) if kfunc.name.startswith("bpf_task_work_") else (0, 0)
        return callbacks.later(env, one.function, one.the_map, sleepable=True, returns=returns)
    return (env.slot + 1, without) if without is not None else None


def _without(env: Env) -> State:
    """The state in which a lock cannot be had: nothing happened but an error."""
    other = env.state.copy()
    other.history = (env.state.history, env.slot, None)
    regs = other.frames[-1].regs
    regs[:6] = [number(settle(0, U64, -ERRORS, -1, 0, U64, -ERRORS, -1, 0, U32, env.rules)), *[NOTHING] * 5]
    return other


def _allowed(env: Env, function: Type) -> Kfunc:
    """The function's row. Raises Refusal if the program may not call it."""
    name, code = function.name, env.code
    if name == "__bpf_trap":
        raise env.refuse(
            "control-flow",
            "unexpected __bpf_trap() due to uninitialized variable?",
            "the compiler found that this cannot be: a variable without a value, or a function without a return",
        )
    kfunc = KFUNCS.get(name)
    if not env.rules.kernel_functions or kfunc is None:
        raise Unjudged(f"calls of {name}()", env.slot)
    if not code.gpl:
        raise env.refuse(
            "licence",
            "cannot call kernel function from non-GPL compatible program",
            f"{name}() is for programs with a GPL-compatible licence",
        )
    if kfunc.types is not None and (
        code.prog_type not in kfunc.types or (kfunc.attach is not None and code.attach_type not in kfunc.attach)
    ):
        raise env.refuse(
            "helper-not-allowed",
            f"calling kernel function {name} is not allowed",
            f"programs of this type cannot call {name}()",
        )
    if not name.startswith("bpf_iter_num_") and name not in locks.FUNCTIONS and locks.held(env):
        raise env.refuse("locked-call", "function calls are not allowed while holding a lock", f"{name}() is called while a lock is held")
    if kfunc.says & Says.SLEEPABLE and not env.state.sleepable:
        raise env.refuse(
            "helper-not-allowed",
            f"program must be sleepable to call sleepable kfunc {name}",
            f"{name}() may sleep, and this program must not",
        )
    return kfunc


def _result(env: Env, one: KfuncCall) -> Reg:
    btf, kfunc = one.btf, one.kfunc
    row = btf.resolve(one.proto.ref)
    if row.kind == Kind.VOID:
        return NOTHING
    if is_number(row):
        return ANY
    if row.kind != Kind.PTR:
        raise Unjudged(f"what {kfunc.name}() returns", env.slot)
    null = MAYBE_NULL if kfunc.says & Says.RET_NULL else 0
    target = btf.resolve(row.ref)
    if kfunc.name == "bpf_cast_to_kern_ctx":
        return object_of(env, _kernel_context_struct(env), TRUSTED)
    if kfunc.name in ("bpf_dynptr_slice", "bpf_dynptr_slice_rdwr"):
        return _slice(env, one, null)
    if kfunc.name == "bpf_rdonly_cast":
        return _cast(env, one)
    if target.kind == Kind.VOID:
        return ANY
    if target.kind not in COMPOSITE:
        size = 8 if kfunc.name == "bpf_session_cookie" else one.size
        rdonly = 0 if kfunc.name == "bpf_session_cookie" or one.writable else RDONLY
        if size is None:
            size = btf.size_of(target.id)
        return Reg(MEM, id=env.new_id() if null else 0, flags=null | rdonly, size=size, ref=one.ref)
    flags = null
    if kfunc.says & Says.ITER_NEXT:
        assert one.iterator is not None
        special = env.state.frames[one.iterator.frame].stack[one.index].special
        assert special is not None
        flags |= RCU if special.trust == RCU else TRUSTED
    ref = acquire(env) if kfunc.says & Says.ACQUIRE else 0
    return object_of(env, target.id, flags, ref, ref if null else 0)


def _slice(env: Env, one: KfuncCall, null: int) -> Reg:
    """A piece of a dynptr's memory, or of the buffer that was given with it."""
    assert one.dynptr is not None
    rdonly = RDONLY if one.kfunc.name == "bpf_dynptr_slice" else 0
    if not rdonly and env.code.prog_type not in WRITES_PACKETS:
        raise env.refuse("read-only", "the prog does not allow writes to packet data", "programs of this type may not write to packets")
    piece = PIECE if one.dynptr.what in dynptrs.PACKETS else 0
    size, id = one.constant or 0, env.new_id() if null else 0
    return Reg(MEM, id=id, flags=null | rdonly | piece, size=size, uid=one.dynptr.id, ref=one.dynptr.ref)


def _cast(env: Env, one: KfuncCall) -> Reg:
    number = one.constant or 0
    row = one.btf.type(number if 0 <= number < len(one.btf) else 0)
    if row.kind in COMPOSITE:
        return Reg(BTF_ID, flags=UNTRUSTED, btf=one.btf, type_id=row.id)
    if row.kind == Kind.VOID and env.rules.untrusted_leaves:
        return Reg(MEM, flags=RDONLY | UNTRUSTED)
    raise env.refuse(
        "argument-type", "kfunc bpf_rdonly_cast type ID argument must be of a struct", "bpf_rdonly_cast() needs the type of a struct"
    )


#: The kernel's struct behind the context of each type of program.
_KERNEL_CONTEXTS: Final = {
    ProgType.XDP: "xdp_buff",
    ProgType.SOCK_OPS: "bpf_sock_ops_kern",
    ProgType.CGROUP_SOCK: "sock",
    ProgType.CGROUP_SOCK_ADDR: "bpf_sock_addr_kern",
    ProgType.SK_MSG: "sk_msg",
    ProgType.SK_REUSEPORT: "sk_reuseport_kern",
    ProgType.SK_LOOKUP: "bpf_sk_lookup_kern",
    ProgType.CGROUP_SYSCTL: "bpf_sysctl_kern",
    ProgType.CGROUP_SOCKOPT: "bpf_sockopt_kern",
    ProgType.KPROBE: "pt_regs",
    ProgType.PERF_EVENT: "bpf_perf_event_data_kern",
    ProgType.FLOW_DISSECTOR: "bpf_flow_dissector",
    ProgType.NETFILTER: "bpf_nf_ctx",
}


def _kernel_context_struct(env: Env) -> int:
    name = _KERNEL_CONTEXTS.get(ProgType(env.code.prog_type), "sk_buff" if "__sk_buff" in kernel_context(env) else "")
    found = kernel(env).find(name, Kind.STRUCT) if name else None
    if found is None:
        raise Unjudged("the kernel's own context of programs of this type", env.slot)
    return found.id
