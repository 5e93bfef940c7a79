"""What our loader would load of an object, as cases: the calls of bpf(2) go to Linux, PROG_LOAD is kept instead."""

import errno
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.agreement.case import BTF_ID as KSYM
from bench.agreement.case import CALL, KFUNC, LD_IMM64, MAP_FD, MAP_VALUE, Case, MapCase, keep_blob
from bench.agreement.stage import stage_of

from ebpf.btf import Btf, Kind
from ebpf.elf import read_object
from ebpf.errors import EbpfError, KernelError
from ebpf.kernels.linux import LinuxKernel
from ebpf.object import Collection
from ebpf.spec import ObjectSpec
from ebpf.sys.calls import BtfLoad, Call, MapCreate, MapFreeze, MapUpdate, ObjGet, ObjPin, ProgLoad, R
from ebpf.sys.kernel import VMLINUX

#: prog_flags by the names that the selftests' declarations have.
_FLAGS = {
    "BPF_F_STRICT_ALIGNMENT": 1,
    "BPF_F_ANY_ALIGNMENT": 2,
    "BPF_F_TEST_RND_HI32": 4,
    "BPF_F_TEST_STATE_FREQ": 8,
    "BPF_F_SLEEPABLE": 16,
}
_FLAGS |= {"BPF_F_XDP_HAS_FRAGS": 32, "BPF_F_TEST_REG_INVARIANTS": 128}


class Kept(Exception):
    """The load was kept, not done."""


@dataclass
class Keeper:
    """A kernel that passes on all but PROG_LOAD and pins, and remembers maps and types by descriptor."""

    kernel: LinuxKernel
    maps: dict[int, MapCase] = field(default_factory=dict)
    blobs: dict[int, str] = field(default_factory=dict)
    load: ProgLoad | None = None

    def bpf(self, call: Call[R]) -> R:
        # A load without a name is our loader's own question whether the kernel has something.
        if isinstance(call, ProgLoad) and call.name:
            self.load = call
            raise Kept
        if isinstance(call, ObjGet):
            raise KernelError(errno.ENOENT, "bpf(OBJ_GET)")
        if isinstance(call, ObjPin):
            return None  # type: ignore[return-value]  # that is what a pin answers
        answer = self.kernel.bpf(call)
        if isinstance(call, BtfLoad) and isinstance(answer, int):
            self.blobs[answer] = keep_blob(call.data)
        elif isinstance(call, MapCreate) and isinstance(answer, int):
            self.maps[answer] = self._map(call)
        elif isinstance(call, MapUpdate) and call.key == bytes(4) and self.maps[call.map_fd].type == 2:
            self.maps[call.map_fd] = replace(self.maps[call.map_fd], initial=call.value.hex())
        elif isinstance(call, MapFreeze):
            self.maps[call.map_fd] = replace(self.maps[call.map_fd], frozen=True)
        return answer

    def _map(self, call: MapCreate) -> MapCase:
        return MapCase(
            call.map_type,
            call.key_size,
            call.value_size,
            call.max_entries,
            call.flags,
            call.name,
            call.map_extra,
            self.blobs.get(call.btf_fd, ""),
            call.btf_key_type_id,
            call.btf_value_type_id,
            inner=self.maps[call.inner_map_fd] if call.inner_map_fd else None,
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.kernel, name)


def cases_of(kernel: LinuxKernel, set_name: str, file: str, path: Path) -> Iterator[Case]:
    """The programs of an object file, each alone. What cannot be opened is told on stderr."""
    try:
        spec = read_object(path.read_bytes(), str(path))
    except EbpfError as error:
        print(f"{file}: {error}", file=sys.stderr)
        return
    yield from cases_of_spec(kernel, set_name, file, spec)


def cases_of_spec(kernel: LinuxKernel, set_name: str, file: str, spec: ObjectSpec) -> Iterator[Case]:
    """The programs of a spec, each alone."""
    keeper = Keeper(kernel)
    empty = {name: replace(each, slots=()) for name, each in spec.maps.items()}
    flags = _declared(spec.btf)
    try:
        with Collection.load(replace(spec, maps=empty), keeper, load=False) as held:  # type: ignore[arg-type]
            for name, program in held.programs.items():
                keeper.load = None
                try:
                    program.load()
                except Kept:
                    assert keeper.load is not None
                    call = replace(keeper.load, flags=keeper.load.flags | flags.get(spec.programs[name].name, 0))
                    yield case_of(kernel, f"{set_name}/{file}:{name}", set_name, file, name, call, keeper, program.spec.attach_to or "")
                except EbpfError as error:
                    print(f"{file}: {name}: {error}", file=sys.stderr)
    except EbpfError as error:
        print(f"{file}: {error}", file=sys.stderr)


def case_of(kernel: LinuxKernel, id_: str, set_name: str, file: str, name: str, call: ProgLoad, keeper: Keeper, target: str) -> Case:
    """The case of one PROG_LOAD."""
    code = bytearray(call.insns)
    used: dict[int, int] = {}
    slots, kfuncs, ksyms = [], {}, {}
    skip = False
    for slot in range(len(code) // 8):
        if skip:
            skip = False
            continue
        at = slot * 8
        opcode, src = code[at], code[at + 1] >> 4
        skip = opcode == LD_IMM64
        imm = int.from_bytes(code[at + 4 : at + 8], "little")
        if skip and src in (MAP_FD, MAP_VALUE) and imm in keeper.maps:
            code[at + 4 : at + 8] = used.setdefault(imm, len(used)).to_bytes(4, "little")
            slots.append(slot)
        elif skip and src == KSYM:
            ksyms[slot] = _name(kernel, imm)
        elif opcode == CALL and src == KFUNC and imm and not int.from_bytes(code[at + 2 : at + 4], "little"):
            kfuncs[slot] = _name(kernel, imm)
    case = Case(
        id=id_,
        set=set_name,
        file=file,
        name=name,
        code=bytes(code),
        prog_type=call.prog_type,
        attach_type=call.expected_attach_type,
        flags=call.flags,
        license=call.license,
        maps=tuple(keeper.maps[fd] for fd in used),
        map_slots=tuple(slots),
        kfuncs=kfuncs,
        ksyms=ksyms,
        target=target if call.attach_btf_id else "",
        btf=keeper.blobs.get(call.btf_fd, ""),
        func_info=call.func_info,
        func_info_size=call.func_info_rec_size,
        line_info=call.line_info,
        line_info_size=call.line_info_rec_size,
    )
    return stage_of(case)


_NAMES: dict[int, str] = {}
_TYPES: list[Btf] = []


def _name(kernel: LinuxKernel, id_: int) -> str:
    if not _TYPES:
        _TYPES.append(Btf.parse(kernel.read_file(VMLINUX)))
    if id_ not in _NAMES:
        _NAMES[id_] = _TYPES[0].name(id_)
    return _NAMES[id_]


def _declared(btf: Btf | None) -> dict[str, int]:
    """The prog_flags that declarations of the selftests ask for, by program."""
    out: dict[str, int] = {}
    for type_ in btf or ():
        _, tag, text = type_.name.partition("test_prog_flags=")
        if type_.kind == Kind.DECL_TAG and tag and btf is not None:
            name = btf.name(type_.ref)
            value = _FLAGS.get(text.lstrip("!"), 0) or (int(text, 0) if text[:1].isdigit() else 0)
            out[name] = out.get(name, 0) & ~value if text.startswith("!") else out.get(name, 0) | value
    return out
