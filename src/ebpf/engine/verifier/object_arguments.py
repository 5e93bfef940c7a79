"""Arguments and results of helpers that are kernel objects."""

import re
from typing import Final

from ebpf.btf import Kind
from ebpf.btf.types import COMPOSITE
from ebpf.engine.verifier import memory
from ebpf.engine.verifier.arguments import expected
from ebpf.engine.verifier.call import Call
from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.kernel_types import kernel, named, object_of
from ebpf.engine.verifier.refusal import Unjudged
from ebpf.engine.verifier.reg import BTF_ID, MAYBE_NULL, MEM, PERCPU, RCU, RDONLY, TRUSTED, Reg
from ebpf.engine.verifier.struct_walk import stands_for
from ebpf.uapi import Arg, Helper, Ret

#: The structs that arguments are whose C prototype says only `void *`, by helper and place.
_NAMED: Final = {
    ("skb_output", 0): "sk_buff",
    ("xdp_output", 0): "xdp_buff",
    ("xdp_get_buff_len", 0): "xdp_buff",
    ("tcp_send_ack", 0): "tcp_sock",
    ("inode_storage_get", 1): "inode",
    ("inode_storage_delete", 1): "inode",
    ("sk_storage_get", 1): "sock_common",
    ("sk_storage_delete", 1): "sock_common",
    ("task_pt_regs", -1): "pt_regs",
}
_STRUCT: Final = re.compile(r"struct (\w+) \*")


def _struct(env: Env, row: Helper, place: int) -> str:
    """The struct that an argument (or the result: -1) points to."""
    found = _NAMED.get((row.name, place), "")
    if not found:
        text = row.c_return if place < 0 else row.c_args.split(",")[place]
        named_ = _STRUCT.search(text)
        if named_ is None:
            raise Unjudged(f"an argument of bpf_{row.name}", env.slot)
        found = named_[1]
    return found


def check_object(env: Env, call: Call, at: int, reg: Reg, arg: Arg) -> None:
    """A kernel object of the type that the helper takes."""
    nullable = arg == Arg.BTF_OR_NULL
    flags = reg.flags & ~MAYBE_NULL if nullable else reg.flags
    if reg.kind != BTF_ID or flags not in (0, TRUSTED, RCU):
        raise expected(env, at, reg, "ptr_, trusted_ptr_, rcu_ptr_")
    same_struct(env, at, reg, _struct(env, call.row, at - 1))


def same_struct(env: Env, at: int, reg: Reg, wanted: str, *, strict: bool = False) -> None:
    """Check that an object is a `wanted`, or one that begins with it. Raises Refusal."""
    btf = kernel(env)
    if reg.btf is not btf or not stands_for(btf, reg.type_id, reg.off, named(env, wanted), strict=strict):
        name = reg.btf.type(reg.type_id).name if reg.btf is not None else ""
        raise env.refuse(
            "argument-type",
            f"R{at} is of type {name} but {wanted} is expected",
            f"argument {at} must be a struct {wanted}; it is a struct {name}",
            register=at,
        )
    memory.fixed_offset(env, reg, at, movable=True)


def check_percpu(env: Env, call: Call, at: int, reg: Reg, arg: Arg) -> None:
    """A per-CPU variable of the kernel."""
    del arg
    if reg.kind != BTF_ID or not reg.flags & PERCPU or reg.flags & ~(PERCPU | RCU | TRUSTED):
        raise expected(env, at, reg, "percpu_ptr_, percpu_rcu_ptr_, percpu_trusted_ptr_")
    if reg.btf is not env.code.kernel_btf:
        raise Unjudged("per-CPU objects that the program allocated", env.slot)
    memory.fixed_offset(env, reg, at, movable=True)
    call.object = reg


def object_result(env: Env, call: Call) -> Reg:
    """The kernel object that a helper returns."""
    row = call.row
    if row.name == "kptr_xchg":
        raise Unjudged("pointers that are kept in maps", env.slot)
    type_id = named(env, _struct(env, row, -1))
    if row.ret == Ret.BTF:
        return object_of(env, type_id, TRUSTED if row.name == "get_current_task_btf" else 0)
    return object_of(env, type_id, MAYBE_NULL, ref=call.ref if row.name.startswith("skc_to_") else 0)


def percpu_result(env: Env, call: Call) -> Reg:
    """The variable of one CPU."""
    assert call.object is not None
    btf = kernel(env)
    row = btf.resolve(call.object.type_id)
    null = MAYBE_NULL if call.row.ret == Ret.PERCPU_OR_NULL else 0
    if row.kind in COMPOSITE:
        return object_of(env, row.id, null)
    if row.kind == Kind.FUNC_PROTO:
        raise Unjudged(f"what bpf_{call.row.name} returns", env.slot)
    return Reg(MEM, id=env.new_id() if null else 0, flags=null | RDONLY, size=btf.size_of(row.id))
