"""Programs of an object as the verifier takes them: `ebpf verify` opens no kernel, so that nothing of them has a descriptor."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from ebpf.btf import Btf, Kind, essential, kernel_fields
from ebpf.engine.program import Code, MapDesc, SourceLine
from ebpf.errors import FormatError
from ebpf.isa import Insn, decode
from ebpf.object import matched
from ebpf.spec import Extern, ExternKind, MapSpec, ObjectSpec, ProgramSpec, RelocKind
from ebpf.uapi import CallSrc, ProgFlag, PseudoSrc, is_gpl

#: What programs ask their loader for that is alike in all kernels of a version that is judged: whether it is 1, or the version itself.
_ALIKE: Final[Mapping[str, bool]] = {"LINUX_KERNEL_VERSION": False, "LINUX_HAS_BPF_COOKIE": True, "LINUX_HAS_SYSCALL_WRAPPER": True}


def code_of(spec: ObjectSpec, program: ProgramSpec, types: Btf | None = None, *, version: str = "", privileged: bool = True) -> Code:
    """A program as the verifier takes it, its maps numbered instead of open.

    With the kernel's `types` its CO-RE records are applied; without, what names the kernel's stays without a number. `version`
    is the kernel's ("6.18"), which programs can ask for. Not `privileged`: it is loaded with CAP_BPF, but without CAP_PERFMON.
    """
    numbers = {name: place + 1 for place, name in enumerate(spec.maps)}
    insns = list(decode(matched(spec, program, types) if types is not None else program.insns))
    index, slot = {}, 0
    for place, insn in enumerate(insns):
        index[slot] = place
        slot += insn.slots
    for reloc in program.relocs:
        insn = insns[index[reloc.slot]]
        if reloc.kind == RelocKind.KFUNC:
            insn = replace(insn, src=CallSrc.KFUNC_CALL, imm=_number(types, essential(reloc.symbol), Kind.FUNC))
        elif reloc.kind == RelocKind.KSYM:
            insn = _symbol(insn, spec.externs[reloc.symbol], types)
        else:
            insn = replace(insn, imm=numbers[reloc.symbol])
        insns[index[reloc.slot]] = insn
    maps = {numbers[name]: _described(spec, numbers[name], m, version) for name, m in spec.maps.items()}
    lines = tuple(SourceLine(i.slot, i.path, i.line, i.column, i.text) for i in program.line_infos)
    return Code(
        tuple(insns),
        program.type,
        maps,
        program.name,
        is_gpl(program.license),
        program.attach_type or 0,
        lines,
        btf=spec.btf,
        functions=tuple((each.slot, each.type_id) for each in program.func_infos),
        privileged=privileged,
        bypass_spectre=privileged,
        strict_alignment=bool(program.flags & ProgFlag.STRICT_ALIGNMENT),
        all_states=bool(program.flags & ProgFlag.TEST_STATE_FREQ),
        sleepable=bool(program.flags & ProgFlag.SLEEPABLE),
        kernel_btf=types,
        attach_to=program.attach_to,
    )


def _symbol(insn: Insn, extern: Extern, types: Btf | None) -> Insn:
    """The load of what is the kernel's: of its number, or of 0 where a kernel with these types lacks what may be missing."""
    function = extern.kind == ExternKind.FUNCTION
    number = _number(types, essential(extern.name), Kind.FUNC) if function else _number(types, extern.name, Kind.VAR)
    missing = not number and types is not None and extern.weak and extern.type_id
    return replace(insn, src=PseudoSrc.NONE if missing else PseudoSrc.BTF_ID, imm=number, imm_hi=0)


def _number(types: Btf | None, name: str, kind: Kind) -> int:
    """The kernel's number for a function or variable of its own; 0 if it has none."""
    found = types.find(name, kind) if types is not None else None
    return found.id if found is not None else 0


def _described(spec: ObjectSpec, fd: int, m: MapSpec, version: str) -> MapDesc:
    special: tuple[tuple[int, str, int], ...] = ()
    if spec.btf is not None and m.value_type_id and m.initial is None:
        try:
            special = kernel_fields(spec.btf, m.value_type_id)
        except FormatError:
            special = ()
    inner = _described(spec, 0, m.inner, version) if m.inner is not None else None
    content = m.initial if m.frozen else None
    if content is not None and m.section == ".kconfig":
        content = _options(spec, content, version)
    return MapDesc(
        fd,
        m.type,
        m.key_size,
        m.value_size,
        m.max_entries,
        m.flags,
        m.name,
        m.frozen,
        inner=inner,
        content=content,
        special=special,
        typed=bool(spec.btf is not None and m.value_type_id),
    )


def _options(spec: ObjectSpec, initial: bytes, version: str) -> bytes | None:
    """What a kernel puts into the map ".kconfig"; None where a program asks for more than every kernel of the version answers alike."""
    data = bytearray(initial)
    for extern in spec.externs.values():
        if extern.kind == ExternKind.KCONFIG:
            if extern.name not in _ALIKE or not version:
                return None
            major, _, minor = version.partition(".")
            value = 1 if _ALIKE[extern.name] else int(major) << 16 | int(minor) << 8
            data[extern.offset : extern.offset + extern.size] = value.to_bytes(extern.size, "little")
    return bytes(data)
