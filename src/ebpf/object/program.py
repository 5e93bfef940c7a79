"""A program: relocated, and loaded when it is first needed, because only its attachment may tell as what."""

import struct
import warnings
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Self

from ebpf.errors import KernelError, NotSupportedError, VerifierError
from ebpf.isa import decode, encode
from ebpf.spec import ProgramSpec, RelocKind
from ebpf.sys.calls import GetProgInfo, ObjPin, ProgInfo, ProgLoad, ProgTestRun, TestRunResult
from ebpf.sys.kernel import Kernel
from ebpf.uapi import PseudoSrc

_LOG = 1 << 20
_LARGEST_LOG = 1 << 26
_E2BIG, _EPERM, _ENOSPC = 7, 1, 28


def relocate(spec: ProgramSpec, maps: Mapping[str, int]) -> bytes:
    """The program's instructions with the descriptors of its maps in them.

    Raises NotSupportedError for what only later loaders resolve (kfuncs, kernel symbols, CO-RE).
    """
    if spec.core_relocs:
        raise NotSupportedError(f"program {spec.name!r}", "CO-RE relocations are not applied yet", hint="Leave preserve_access_index out")
    insns = list(decode(spec.insns))
    index, slot = {}, 0
    for place, insn in enumerate(insns):
        index[slot] = place
        slot += insn.slots
    for reloc in spec.relocs:
        place = index[reloc.slot]
        if reloc.kind == RelocKind.MAP_FD:
            insns[place] = replace(insns[place], src=int(PseudoSrc.MAP_FD), imm=maps[reloc.symbol], imm_hi=0)
        elif reloc.kind == RelocKind.MAP_VALUE:
            insns[place] = replace(insns[place], src=int(PseudoSrc.MAP_VALUE), imm=maps[reloc.symbol], imm_hi=reloc.addend)
        else:
            what = "kernel function" if reloc.kind == RelocKind.KFUNC else "kernel variable"
            raise NotSupportedError(f"program {spec.name!r}", f"{what} {reloc.symbol!r} cannot be resolved yet")
    return encode(insns)


class Program:
    """A program of a collection. `fd` loads it if it is not loaded yet; close it, or use it in a with statement."""

    def __init__(self, kernel: Kernel, spec: ProgramSpec, insns: bytes, btf_fd: int = 0) -> None:
        self.kernel = kernel
        self.spec = spec
        self.insns = insns
        self.btf_fd = btf_fd
        self.log = ""
        self._fd = -1
        self._closed = False

    @property
    def name(self) -> str:
        """The program's name in the object."""
        return self.spec.name

    @property
    def loaded(self) -> bool:
        """Whether the kernel has it."""
        return self._fd >= 0

    @property
    def fd(self) -> int:
        """Its descriptor; loads it at first."""
        if self._fd < 0:
            self.load()
        return self._fd

    def load(self) -> None:
        """Load it as what its section says. Raises VerifierError when it is refused."""
        if self._fd < 0:
            self._fd = load_program(self.kernel, self.spec, self.insns, self.btf_fd)

    def info(self, *, images: bool = False) -> ProgInfo:
        """What the kernel says of the program."""
        return self.kernel.bpf(GetProgInfo(self.fd, images))

    def run(self, data: bytes = b"", *, ctx: bytes = b"", repeat: int = 1) -> TestRunResult:
        """Run it on `data` (a packet) or `ctx` and return what came of it."""
        return self.kernel.bpf(ProgTestRun(self.fd, data, ctx, repeat, data_size_out=len(data) + 512 if data else 0))

    def pin(self, path: str) -> None:
        """Give the program a path."""
        self.kernel.bpf(ObjPin(path, self.fd))

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        self._closed = True
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self.kernel.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            warnings.warn(f"program {self.spec.name!r} was not closed", ResourceWarning, source=self, stacklevel=2)


def load_program(kernel: Kernel, spec: ProgramSpec, insns: bytes, btf_fd: int = 0) -> int:
    """Load instructions as `spec` says: first without a log, and when refused once more for the log."""
    funcs = b"".join(struct.pack("<II", f.slot, f.type_id) for f in spec.func_infos) if btf_fd else b""
    lines = b""
    if btf_fd:
        lines = b"".join(struct.pack("<IIII", i.slot, i.path_off, i.text_off, i.line << 10 | i.column) for i in spec.line_infos)
    call = ProgLoad(
        prog_type=spec.type,
        insns=insns,
        license=spec.license,
        name=spec.name[:15],
        flags=spec.flags,
        expected_attach_type=spec.attach_type or 0,
        btf_fd=btf_fd,
        func_info=funcs,
        func_info_rec_size=8 if funcs else 0,
        line_info=lines,
        line_info_rec_size=16 if lines else 0,
    )
    try:
        return kernel.bpf(call).fd
    except KernelError as error:
        if error.errno in (_EPERM, _ENOSPC) and not error.log:
            raise
        raise _refusal(kernel, spec, insns, call, error) from error


def _refusal(kernel: Kernel, spec: ProgramSpec, insns: bytes, call: ProgLoad, first: KernelError) -> VerifierError:
    """The refusal with the verifier's own words: the program is loaded again with a log that is large enough."""
    size, log, why = _LOG, first.log, first.why
    while not log:
        try:
            kernel.close(kernel.bpf(replace(call, log_level=1, log_size=size)).fd)
        except KernelError as error:
            if error.errno == _ENOSPC and size < _LARGEST_LOG:
                size *= 4
                continue
            log, why = error.log, error.why or why
        break
    cause, slot = why, _last_insn(log)
    said = _last_words(log)
    if not cause or cause == said:
        cause = said or str(first)
    line = next((i for i in reversed(spec.line_infos) if i.slot <= slot), None) if slot >= 0 else None
    source = f"{line.path}:{line.line}" if line is not None else ""
    return VerifierError(spec.name, cause, insn=slot, source=source, log=log, errno=first.errno)


def _last_words(log: str) -> str:
    """The verifier's last line that says something."""
    for line in reversed(log.splitlines()):
        text = line.strip()
        if text and not text.startswith(("processed ", "verification time", "stack depth", ";", "max_states")):
            return text
    return ""


def _last_insn(log: str) -> int:
    """The number of the last instruction that the log shows."""
    for line in reversed(log.splitlines()):
        head = line.split(":", 1)[0].strip()
        if head.isdigit() and ":" in line:
            return int(head)
    return -1
