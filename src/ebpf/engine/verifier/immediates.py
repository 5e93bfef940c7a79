"""64-bit immediates: numbers, maps, places in a map's value, functions, kernel variables."""

from typing import Final

from ebpf.btf import Btf, Kind
from ebpf.btf.types import COMPOSITE, Type
from ebpf.engine.program import MapDesc
from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.kernel_types import kernel
from ebpf.engine.verifier.locks import LOCKS
from ebpf.engine.verifier.refusal import Unjudged
from ebpf.engine.verifier.reg import ANY, BTF_ID, FUNC, MAP_PTR, MAP_VALUE, MEM, PERCPU, RDONLY, Reg, constant
from ebpf.isa import Insn
from ebpf.isa.opcodes import LD_IMM64
from ebpf.uapi import MapType, ProgType, PseudoSrc

_TRACING: Final = frozenset(
    {ProgType.KPROBE, ProgType.TRACEPOINT, ProgType.PERF_EVENT, ProgType.RAW_TRACEPOINT, ProgType.RAW_TRACEPOINT_WRITABLE}
)


def check_maps(env: Env) -> None:
    """Check every map that is named, also where no path leads. Raises Refusal."""
    for slot, insn in enumerate(env.structure.slots):
        if insn is not None and insn.opcode == LD_IMM64 and insn.src in (PseudoSrc.MAP_FD, PseudoSrc.MAP_VALUE):
            env.slot = slot
            _check_map(env, insn)
    env.slot = 0


def _check_map(env: Env, insn: Insn) -> None:
    desc = env.code.maps.get(insn.imm)
    if desc is None:
        raise env.refuse("missing-information", f"fd {insn.imm} is not pointing to valid bpf_map", f"there is no map {insn.imm}")
    if insn.src == PseudoSrc.MAP_FD and insn.imm_hi:
        raise env.refuse("invalid-instruction", "unrecognized bpf_ld_imm64 insn", "an instruction is none that the kernel knows")
    _map_suits(env, desc)
    if desc.type == MapType.ARENA:
        _check_arena(env, desc)
        return
    if insn.src == PseudoSrc.MAP_FD:
        return
    if desc.type != MapType.ARRAY:
        raise env.refuse(
            "map-type",
            "no direct value access support for this map type",
            "only the value of an array of one element can be reached without a lookup",
        )
    off = insn.imm_hi & 0xFFFFFFFF
    if desc.max_entries != 1 or off >= desc.value_size:
        raise env.refuse(
            "out-of-bounds",
            f"invalid access to map value pointer, value_size={desc.value_size} off={off}",
            f"offset {off} is outside of the map's {desc.value_size} bytes"
            if desc.max_entries == 1
            else f"the array has {desc.max_entries} elements: only the value of an array of one can be reached without a lookup",
        )


def _check_arena(env: Env, desc: MapDesc) -> None:
    if env.arena not in (-1, desc.fd):
        raise env.refuse("map-type", "Only one arena per program", "a program names one arena at most")
    if not env.privileged:
        raise env.refuse("capability", "CAP_BPF and CAP_PERFMON are required to use arena", "an arena takes CAP_PERFMON")
    if not desc.placed:
        raise env.refuse(
            "map-type", "arena's user address must be set via map_extra or mmap()", "the arena has no address in the process yet"
        )
    env.arena = desc.fd


def load(env: Env, slot: int, insn: Insn) -> Reg:
    """What a 64-bit immediate is: a number, a map, a place in a map's value, a function. Raises Refusal."""
    source = insn.src
    if source == PseudoSrc.NONE:
        return constant(insn.imm & 0xFFFFFFFF | insn.imm_hi << 32)
    if source == PseudoSrc.MAP_FD:
        return Reg(MAP_PTR, fd=insn.imm)
    if source == PseudoSrc.MAP_VALUE:
        if env.code.maps[insn.imm].type == MapType.ARENA:
            return ANY
        return Reg(MAP_VALUE, fd=insn.imm, off=insn.imm_hi & 0xFFFFFFFF)
    if source == PseudoSrc.FUNC:
        return Reg(FUNC, off=0, uid=slot + 1 + insn.imm)
    return _variable(env, insn)


def _variable(env: Env, insn: Insn) -> Reg:
    """A variable of the kernel (or a function's address), by its number in the kernel's types."""
    btf = kernel(env)
    if not insn.imm:
        raise Unjudged("variables that are not among the kernel's types", env.slot)
    row = btf.type(insn.imm)
    if row.kind == Kind.FUNC:
        return Reg(MEM, flags=RDONLY)
    if row.kind != Kind.VAR:
        raise env.refuse(
            "invalid-instruction", f"pseudo btf_id {insn.imm} in ldimm64 isn't KIND_VAR or KIND_FUNC.", "it is no variable of the kernel"
        )
    target = btf.resolve(row.ref)
    if any(variable.type_id == row.id for section in _percpu(btf) for variable in section.variables):
        return Reg(BTF_ID, flags=PERCPU, btf=btf, type_id=target.id)
    if target.kind in COMPOSITE:
        return Reg(BTF_ID, btf=btf, type_id=target.id)
    return Reg(MEM, flags=RDONLY, size=btf.size_of(target.id))


def _percpu(btf: Btf) -> list[Type]:
    found = btf.find(".data..percpu", Kind.DATASEC)
    return [found] if found is not None else []


def _map_suits(env: Env, desc: MapDesc) -> None:
    """Check that programs of this type may use the map. Raises Refusal."""
    for _, what, _ in desc.special:
        if what not in (*LOCKS, "bpf_timer", "bpf_wq", "bpf_task_work"):
            raise Unjudged(f"maps with a {what}", env.slot)
        if what == "bpf_task_work":
            continue
        if env.code.prog_type in _TRACING or (env.code.prog_type == ProgType.SOCKET_FILTER and what in LOCKS):
            who = "socket filter" if env.code.prog_type == ProgType.SOCKET_FILTER else "tracing"
            named = LOCKS[0] if what in LOCKS else what
            raise env.refuse(
                "missing-information", f"{who} progs cannot use {named} yet", f"programs of this type cannot use maps with a {what}"
            )
