"""PROG_LOAD: verify, fix up, compile. What comes out can be run natively, or by the interpreter."""

import errno
import hashlib
import itertools
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ebpf.btf import Btf, kernel_fields
from ebpf.engine.program import Code, MapDesc, Prepared, SourceLine, Verdict
from ebpf.engine.runtime import REWRITES, address
from ebpf.engine.runtime.abi import Caller
from ebpf.engine.verdicts import judge
from ebpf.errors import FormatError, KernelError, NotSupportedError
from ebpf.isa import Bytecode, Insn, encode
from ebpf.isa.opcodes import CALL, JA, LD_IMM64
from ebpf.kernels.user.helpers import WITH_OBJECTS, body, why_not
from ebpf.kernels.user.maps import Map, ProgArray
from ebpf.kernels.user.types import function_address, kernel_types
from ebpf.sys.calls import ProgLoad
from ebpf.uapi import HELPERS, PROGRAM_TYPES, CallSrc, MapFlag, MapType, ProgFlag, ProgType, PseudoSrc, is_gpl

if TYPE_CHECKING:
    from ebpf.engine.jit import Compiled, Slot

_DW = 0x18
_SIZES = {1: 0x10, 2: 0x08, 4: 0x00, 8: _DW}
_RUNS = frozenset(
    {
        ProgType.XDP,
        ProgType.SOCKET_FILTER,
        ProgType.SCHED_CLS,
        ProgType.SCHED_ACT,
        ProgType.CGROUP_SKB,
        ProgType.LWT_IN,
        ProgType.LWT_OUT,
        ProgType.LWT_XMIT,
        ProgType.KPROBE,
        ProgType.TRACEPOINT,
        ProgType.RAW_TRACEPOINT,
        ProgType.PERF_EVENT,
    }
)


#: The verifier's reasons that Linux answers with EACCES; all others are EINVAL.
_ACCESS = frozenset(
    [
        "packet-unproved",
        "packet-short",
        "packet-moved",
        "packet-void",
        "not-a-pointer",
        "maybe-null",
        "moved-maybe-null",
        "out-of-bounds",
        "unbounded-offset",
        "negative-size",
        "unbounded-size",
        "zero-size",
        "uninitialised",
        "uninitialised-stack",
        "stack-bounds",
        "stack-total",
        "context-access",
        "argument-type",
        "read-only",
        "misaligned",
        "pointer-arithmetic",
        "pointer-leak",
        "capability",
        "unknown",
    ]
)
#: The upper half of the address that stands for a function of the kernel's.
_SOMEWHERE = 0x7EBF_0000
#: Numbers of programs: addresses that nothing has.
_OWNERS = itertools.count(0xEBF1_0000_0000_0000, 16)


@dataclass(slots=True)
class LoadedProgram:
    """A program that was accepted: as it came, as it runs, and its machine code."""

    call: ProgLoad
    prepared: Prepared
    verdict: Verdict
    maps: Mapping[int, Map]
    entry: int = 0
    code: "Compiled | None" = None
    #: The number that the runtime knows it by.
    owner: int = field(default_factory=lambda: next(_OWNERS))
    #: What stands for it in maps of programs: its entry, or its number where there is no machine code.
    target: int = 0
    #: The functions of Python that it was made into.
    callers: list[Caller] = field(default_factory=list)
    #: Its functions that timers call, where the interpreter runs them.
    callbacks: dict[int, Any] = field(default_factory=dict)

    def close(self) -> None:
        """Give the machine code back."""
        for caller in self.callers:
            caller.prog = None
        if self.code is not None:
            self.code.close()
        self.code = None
        self.entry = 0
        self.callbacks.clear()


def bytecode(call: ProgLoad) -> Bytecode:
    """The instructions of a program that is to be loaded. Raises KernelError if they are none."""
    try:
        return Bytecode(call.insns)
    except FormatError as error:
        raise KernelError(errno.EINVAL, "bpf(PROG_LOAD)", error.why) from error


def load(
    call: ProgLoad, insns: Bytecode, maps: Mapping[int, Map], btf: Btf | None = None, types: Mapping[int, Btf] | None = None
) -> LoadedProgram:
    """Judge and compile a program. `maps` are those it names, by descriptor, `types` what is known of their elements.

    Raises KernelError with the verifier's log for a refusal, NotSupportedError for what user space does not have.
    """
    where = "bpf(PROG_LOAD)"
    try:
        kind = ProgType(call.prog_type)
    except ValueError:
        raise KernelError(errno.EINVAL, where, f"there is no program type {call.prog_type}") from None
    if not insns or len(insns) > 1_000_000:
        raise KernelError(errno.E2BIG, where, f"a program of {len(insns)} instructions")
    if call.ifindex:
        raise KernelError(errno.EOPNOTSUPP, where, "no device here runs programs itself")
    if kind not in PROGRAM_TYPES or kind not in _RUNS:
        name = PROGRAM_TYPES[kind].name if kind in PROGRAM_TYPES else str(kind)
        raise NotSupportedError(
            f"program {call.name!r}", f"programs of type {name} are not run in the user kernel yet", hint="Run with --kernel linux"
        )
    descs = {fd: _described(held, fd, (types or {}).get(fd)) for fd, held in maps.items()}
    code = Code(
        insns,
        call.prog_type,
        descs,
        call.name,
        is_gpl(call.license),
        call.expected_attach_type,
        source_lines(call, btf),
        btf=btf,
        functions=function_types(call),
        kernel_btf=kernel_types() if _needs_types(insns) else None,
        strict_alignment=bool(call.flags & ProgFlag.STRICT_ALIGNMENT),
        all_states=bool(call.flags & ProgFlag.TEST_STATE_FREQ),
        sleepable=bool(call.flags & ProgFlag.SLEEPABLE),
    )
    verdict = _judged(code, call.log_level)
    if not verdict.accepted:
        number = errno.EACCES if verdict.reason in _ACCESS else errno.EINVAL
        # As Linux: only who asks for a log gets one.
        raise KernelError(number, where, verdict.cause, log=verdict.log if call.log_level else "")
    live = fix_up(insns, verdict.dead)
    _bodies(live, call)
    for held in maps.values():
        if isinstance(held, ProgArray) and not held.accepts(call.prog_type, call.expected_attach_type):
            raise KernelError(errno.EINVAL, where, f"map {held.spec.name!r} is for programs of another type")
    prepared = Prepared(
        rewrite_context(live, kind, verdict.ctx_access),
        call.prog_type,
        descs,
        verdict.call_map,
        call.name,
        verdict.stack_depth,
        code.global_functions(),
    )
    program = LoadedProgram(call, prepared, verdict, maps)
    if compiles():
        _compile(program)
    program.target = program.entry or program.owner
    return program


def _judged(code: Code, log_level: int) -> Verdict:
    if not log_level:
        return judge(code)
    # A quarter of what a laboratory or ebpfd takes to start, if it were imported with it.
    from ebpf.engine.verifier import verify

    return verify(code, log_level=log_level)


def compiles() -> bool:
    """Whether programs get machine code here."""
    return os.environ.get("EBPF_ENGINE", "jit") != "interp"


def _described(held: Map, fd: int, types: Btf | None) -> MapDesc:
    """A map as the verifier sees it: with what is constant in it, and what belongs to the kernel."""
    desc = held.describe(fd)
    content = None
    if desc.frozen and desc.flags & MapFlag.RDONLY_PROG and desc.type == MapType.ARRAY:
        keys = (index.to_bytes(4, "little") for index in range(desc.max_entries))
        content = b"".join(held.lookup(key, 0, b"") for key in keys)
    value_type = held.spec.btf_value_type_id if types is not None else 0
    special = kernel_fields(types, value_type) if types is not None and value_type else ()
    return replace(desc, content=content, special=special, typed=bool(value_type))


def function_types(call: ProgLoad) -> tuple[tuple[int, int], ...]:
    """Of each function of the program its first slot and its type."""
    size = call.func_info_rec_size
    if size < 8:
        return ()
    return tuple(struct.unpack_from("<II", call.func_info, at) for at in range(0, len(call.func_info) - 7, size))


def _compile(program: LoadedProgram) -> None:
    from ebpf.engine.jit import RUNTIME, Compiled

    def value(slot: "Slot") -> int:
        if slot.kind in ("helper", "hash"):
            return body(program.call.prog_type, slot.number, slot.kind)
        if slot.kind == "runtime":
            return address(RUNTIME[slot.number])
        if slot.kind == "owner":
            return program.owner
        if slot.kind == "kfunc":
            return function_address(slot.number, program.call.prog_type)
        map_ = program.maps[slot.number]
        return map_.address if slot.kind == "map" else map_.data_address

    code = Compiled(program.prepared, lambda table: [value(slot) for slot in table])
    program.code, program.entry = code, code.entry


def _needs_types(insns: Bytecode) -> bool:
    """Whether a program has to do with the kernel's objects or functions."""
    if insns.slots(LD_IMM64, PseudoSrc.BTF_ID) or insns.slots(CALL, CallSrc.KFUNC_CALL):
        return True
    return not WITH_OBJECTS.isdisjoint(insns.imms(CALL, CallSrc.HELPER).values())


def fix_up(insns: Bytecode, dead: frozenset[int]) -> Bytecode:
    """Replace calls that no path leads to, which may be of what there is not, and turn addresses of the kernel's functions into numbers."""
    new = {slot: Insn(JA, off=-1) for slot in insns.slots(CALL) if slot in dead}
    for slot in insns.slots(LD_IMM64, PseudoSrc.BTF_ID):
        # It is compared with null at most; where the function really lies would be another address in each process.
        new[slot] = replace(insns.at(slot), src=PseudoSrc.NONE, imm_hi=_SOMEWHERE)
    return insns.replaced(new)


def _bodies(insns: Bytecode, call: ProgLoad) -> None:
    """Refuse now a helper that user space has no body for, not when the program runs."""
    for number in dict.fromkeys(insns.imms(CALL, CallSrc.HELPER).values()):
        if not body(call.prog_type, number):
            row = HELPERS.get(number)
            name = row.name if row is not None else str(number)
            raise NotSupportedError(
                f"program {call.name!r}", f"helper bpf_{name} does not work in user space: {why_not(name)}", hint="Run with --kernel linux"
            )


def rewrite_context(insns: Bytecode, kind: ProgType, accesses: Mapping[int, tuple[int, int]]) -> Bytecode:
    """Turn accesses to the documented context struct into accesses to the runtime's own."""
    places = REWRITES.get(PROGRAM_TYPES[kind].context)
    if places is None:
        return insns
    new = {}
    for slot, (offset, _) in accesses.items():
        place = places.get(offset)
        if place is not None:
            insn = insns.at(slot)
            new[slot] = Insn(insn.opcode & ~0x18 | _SIZES[place.size], insn.dst, insn.src, place.offset - offset + insn.off, insn.imm)
    return insns.replaced(new)


def tag(insns: tuple[Insn, ...]) -> bytes:
    """The program's tag: SHA-256 of its instructions with map descriptors zeroed, 8 bytes, as Linux 6.18 counts it."""
    plain = [
        replace(insn, imm=0, imm_hi=0) if insn.opcode == LD_IMM64 and insn.src in (PseudoSrc.MAP_FD, PseudoSrc.MAP_VALUE) else insn
        for insn in insns
    ]
    return hashlib.sha256(encode(plain)).digest()[:8]


def source_lines(call: ProgLoad, btf: Btf | None) -> tuple[SourceLine, ...]:
    """The source lines of a program: its line info, with the strings of its BTF."""
    if btf is None or call.line_info_rec_size < 16:
        return ()
    out = []
    for at in range(0, len(call.line_info) - 15, call.line_info_rec_size):
        slot, path, text, place = struct.unpack_from("<IIII", call.line_info, at)
        out.append(SourceLine(slot, btf.string(path), place >> 10, place & 0x3FF, btf.string(text)))
    return tuple(out)


def maps_named(insns: Bytecode) -> list[int]:
    """The descriptors of the maps that a program names, each once, in order."""
    return list(dict.fromkeys(insns.imms(LD_IMM64, PseudoSrc.MAP_FD, PseudoSrc.MAP_VALUE).values()))


def show_ids(insns: tuple[Insn, ...], ids: Mapping[int, int]) -> bytes:
    """The instructions as others may see them: maps by id instead of descriptor."""
    out = []
    for insn in insns:
        if insn.opcode == LD_IMM64 and insn.src in (PseudoSrc.MAP_FD, PseudoSrc.MAP_VALUE):
            insn = replace(insn, imm=ids.get(insn.imm, 0))
        out.append(insn)
    return encode(out)
