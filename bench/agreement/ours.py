"""The adapter between cases and our verifier: the one file to change when the verifier's interface does."""

import os
import struct
from dataclasses import replace
from functools import cache
from pathlib import Path

from bench.agreement.case import ALL, Answer, Case, MapCase
from bench.agreement.folder import blob_path, types_path
from bench.agreement.said import complaint, last_line

from ebpf.btf import Btf, Kind, kernel_fields
from ebpf.engine.program import Code, MapDesc, SourceLine
from ebpf.engine.verifier import RULES
from ebpf.engine.verifier import verify as judge
from ebpf.errors import FormatError
from ebpf.isa import Insn, decode
from ebpf.kernels.user.load import source_lines
from ebpf.sys.calls import ProgLoad
from ebpf.sys.kernel import VMLINUX
from ebpf.uapi import ProgFlag, is_gpl

#: Maps get these for descriptors.
_FIRST = 1


def verify(case: Case, profile: str, level: int = 0) -> Answer:
    """What our verifier says to a case, as a kernel of `profile` ("6.18")."""
    try:
        verdict = judge(code_of(case, profile), log_level=level, rules=RULES[profile])
    except FormatError as error:
        return Answer("refused", error.why, error.why)
    said = complaint(verdict.log)
    if verdict.accepted:
        return Answer("accepted", processed=verdict.processed, log=verdict.log)
    word = "unknown" if verdict.unknown else "refused"
    return Answer(word, last_line(verdict.log), said, verdict.processed, log=verdict.log, why=verdict.unknown)


def code_of(case: Case, profile: str) -> Code:
    """A case as our verifier takes it, with the types of the kernel of `profile`."""
    numbers = [_FIRST + n for n in range(len(case.maps))]
    insns = _resolved(case, decode(case.with_maps(numbers)), profile)
    maps = {number: _map(each, number) for number, each in zip(numbers, case.maps, strict=True)}
    btf = Btf.parse(blob_path(case.btf).read_bytes()) if case.btf else None
    size = case.func_info_size
    functions = tuple(struct.unpack_from("<II", case.func_info, at) for at in range(0, len(case.func_info), size)) if size else ()
    return Code(
        insns,
        case.prog_type,
        maps,
        case.name,
        is_gpl(case.license),
        case.attach_type,
        _lines(case, btf),
        btf=btf,
        functions=functions,
        privileged=case.caps == ALL,
        bypass_spectre=case.caps == ALL,
        strict_alignment=bool(case.flags & ProgFlag.STRICT_ALIGNMENT),
        all_states=bool(case.flags & ProgFlag.TEST_STATE_FREQ),
        sleepable=bool(case.flags & ProgFlag.SLEEPABLE),
        cpus=os.cpu_count() or 0,
        kernel_btf=_kernel(profile),
        attach_to=case.target,
    )


@cache
def _kernel(profile: str) -> Btf:
    """The types of the kernel of a profile as it was asked; those of the running one, if it was not."""
    asked = types_path(profile)
    return Btf.parse((asked if asked.exists() else Path(VMLINUX)).read_bytes())


def _resolved(case: Case, insns: tuple[Insn, ...], profile: str) -> tuple[Insn, ...]:
    """The instructions with the kernel's numbers for its functions and variables."""
    if not case.kfuncs and not case.ksyms:
        return insns
    out, slot = [], 0
    for insn in insns:
        for names, kind in ((case.kfuncs, Kind.FUNC), (case.ksyms, Kind.VAR)):
            if slot in names:
                found = _kernel(profile).find(names[slot], kind)
                insn = replace(insn, imm=found.id if found is not None else 0)
        out.append(insn)
        slot += insn.slots
    return tuple(out)


def _map(case: MapCase, number: int) -> MapDesc:
    special: tuple[tuple[int, str, int], ...] = ()
    if case.btf and case.value_type:
        special = kernel_fields(Btf.parse(blob_path(case.btf).read_bytes()), case.value_type)
    return MapDesc(
        number,
        case.type,
        case.key_size,
        case.value_size,
        case.max_entries,
        case.flags,
        case.name,
        case.frozen,
        inner=_map(case.inner, 0) if case.inner is not None else None,
        content=bytes.fromhex(case.initial) if case.frozen and case.initial else None,
        special=special,
        typed=bool(case.btf and case.value_type),
        placed=bool(case.map_extra),
    )


def _lines(case: Case, btf: Btf | None) -> tuple[SourceLine, ...]:
    if btf is None or not case.line_info:
        return ()
    return source_lines(ProgLoad(case.prog_type, b"", "", line_info=case.line_info, line_info_rec_size=case.line_info_size), btf)
