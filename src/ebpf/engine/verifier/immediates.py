"""64-bit immediates: numbers, maps, places in a map's value, functions, kernel variables."""

from typing import Final

from ebpf.engine.program import MapDesc
from ebpf.engine.verifier.env import Env
from ebpf.engine.verifier.refusal import Unjudged
from ebpf.engine.verifier.reg import FUNC, MAP_PTR, MAP_VALUE, Reg, constant
from ebpf.isa import Insn
from ebpf.uapi import ProgType, PseudoSrc

_TRACING: Final = frozenset(
    {ProgType.KPROBE, ProgType.TRACEPOINT, ProgType.PERF_EVENT, ProgType.RAW_TRACEPOINT, ProgType.RAW_TRACEPOINT_WRITABLE}
)


def load(env: Env, slot: int, insn: Insn) -> Reg:
    """What a 64-bit immediate is: a number, a map, a place in a map's value, a function. Raises Refusal."""
    source = insn.src
    if source == PseudoSrc.NONE:
        return constant(insn.imm & 0xFFFFFFFF | insn.imm_hi << 32)
    if source in (PseudoSrc.MAP_FD, PseudoSrc.MAP_VALUE):
        desc = env.code.maps.get(insn.imm)
        if desc is None:
            raise env.refuse("missing-information", f"fd {insn.imm} is not pointing to valid bpf_map", f"there is no map {insn.imm}")
        if source == PseudoSrc.MAP_FD and insn.imm_hi:
            raise env.refuse("invalid-instruction", "unrecognized bpf_ld_imm64 insn", "an instruction is none that the kernel knows")
        _map_suits(env, desc)
        if source == PseudoSrc.MAP_FD:
            return Reg(MAP_PTR, fd=insn.imm)
        off = insn.imm_hi & 0xFFFFFFFF
        if off >= desc.value_size * desc.max_entries:
            raise env.refuse(
                "out-of-bounds",
                f"invalid access to map value pointer, value_size={desc.value_size} off={off}",
                f"offset {off} is outside of the map's {desc.value_size} bytes",
            )
        return Reg(MAP_VALUE, fd=insn.imm, off=off)
    if source == PseudoSrc.FUNC:
        return Reg(FUNC, off=0, uid=slot + 1 + insn.imm)
    raise Unjudged("addresses of kernel variables", slot)


def _map_suits(env: Env, desc: MapDesc) -> None:
    """Check that programs of this type may use the map. Raises Refusal."""
    for _, what, _ in desc.special:
        if what not in ("bpf_spin_lock", "bpf_timer"):
            raise Unjudged(f"maps with a {what}", env.slot)
        if env.code.prog_type in _TRACING or (env.code.prog_type == ProgType.SOCKET_FILTER and what == "bpf_spin_lock"):
            who = "socket filter" if env.code.prog_type == ProgType.SOCKET_FILTER else "tracing"
            raise env.refuse(
                "missing-information", f"{who} progs cannot use {what} yet", f"programs of this type cannot use maps with a {what}"
            )
