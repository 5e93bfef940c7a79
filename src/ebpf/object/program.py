"""A program: relocated, and loaded when it is first needed, because only its attachment may tell as what."""

import errno
import struct
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from types import TracebackType
from typing import Self

from ebpf.btf import Btf, Kind
from ebpf.errors import EbpfError, FormatError, KernelError, NotFoundError, PrivilegeError, UsageError, VerifierError, near
from ebpf.object.map import Map
from ebpf.object.relocate import Code
from ebpf.object.resolve import Resolver
from ebpf.records import changed, record
from ebpf.spec import ProgramSpec
from ebpf.sys.calls import FdById, GetBtfInfo, GetProgInfo, Loaded, ObjPin, ProgInfo, ProgLoad, ProgTestRun, TestRunResult
from ebpf.sys.kernel import Kernel
from ebpf.uapi import AttachType, Cmd, ProgType, section_row

_LOG = 1 << 20
_LARGEST_LOG = 1 << 26


class Program:
    """A program of a collection. `fd` loads it if it is not loaded yet; close it, or use it in a with statement."""

    def __init__(
        self,
        kernel: Kernel,
        spec: ProgramSpec,
        maps: Mapping[str, Map],
        resolver: Resolver,
        btf_fd: int = 0,
        target: "Program | Target | None" = None,
        *,
        log_level: int = 0,
    ) -> None:
        self.kernel = kernel
        self.spec = spec
        self.btf_fd = btf_fd
        self._code = Code(spec)
        #: The maps of its object.
        self.maps = maps
        self._resolver = resolver
        self._target = target
        self.log = ""
        self._log_level = log_level
        self._fd = -1
        self._closed = False

    @property
    def name(self) -> str:
        """The program's name in the object."""
        return self.spec.name

    @cached_property
    def insns(self) -> bytes:
        """Its instructions as this kernel takes them. Raises FormatError and NotFoundError for what means nothing in it."""
        return self._code.relocate({name: held.fd for name, held in self.maps.items()}, self._resolver)

    @property
    def btf(self) -> Btf | None:
        """The types of its object."""
        return self._resolver.spec.btf

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
        """Load it as what its section says. Raises VerifierError when it is refused; `program` of any EbpfError is its name."""
        if self._fd < 0:
            try:
                self._load()
            except EbpfError as error:
                error.program = self.name
                raise

    def _load(self) -> None:
        require_type(self.spec, self._resolver.spec.path)
        insns = self.insns
        known = self._target
        target = known if isinstance(known, Target) else attach_target(self.spec, self._resolver, known)
        try:
            loaded = load_program(
                self.kernel, self.spec, insns, self.btf_fd, target=target, modules=self._code.modules, log_level=self._log_level
            )
            self._fd, self.log = loaded.fd, loaded.log
        except VerifierError as error:
            missing = self._code.missing.get(error.insn)
            if missing is None:
                raise
            cause = f"needs {missing}, which this kernel has not"
            raise VerifierError(error.program, cause, insn=error.insn, source=error.source, log=error.log, errno=error.errno) from error

    def info(self, *, images: bool = False) -> ProgInfo:
        """What the kernel says of the program."""
        return self.kernel.bpf(GetProgInfo(self.fd, images))

    def run(self, data: bytes = b"", *, ctx: bytes = b"", repeat: int = 1) -> TestRunResult:
        """Run it on `data` (a packet) or `ctx` and return what came of it."""
        if self.spec.type == ProgType.SYSCALL and repeat == 1:
            # These run once, and the kernel wants no number.
            repeat = 0
        if self.spec.type in _ONCE:
            return self.kernel.bpf(ProgTestRun(self.fd, data, ctx, repeat if repeat != 1 else 0, ctx_size_out=-1))
        return self.kernel.bpf(ProgTestRun(self.fd, data, ctx, repeat, data_size_out=len(data) + 512 if data else 0))

    def function(self) -> Callable[[bytes], int]:
        """The XDP program as a Python function: a packet's bytes in, the verdict out, at the price of a call.

        What the program does to the packet is not seen: for that there is `run`. In user space the packet and the program run
        with Python's lock held. Raises NotSupportedError for other types of programs.
        """
        return self.kernel.lab.function(self.fd)

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


def require_type(spec: ProgramSpec, path: str = "") -> None:
    """Insist that a program's section says what it is. Raises FormatError."""
    if spec.type == ProgType.UNSPEC:
        where = f"section {spec.section!r}, program {spec.name!r}"
        error = FormatError("is no section name of a program", path=path, where=where)
        error.hint = 'SEC("xdp"), SEC("kprobe/do_unlinkat"), SEC("tracepoint/syscalls/sys_enter_openat") are such names'
        raise error


#: Programs that Linux runs once, and whose context does not come back.
_ONCE = frozenset({ProgType.RAW_TRACEPOINT, ProgType.RAW_TRACEPOINT_WRITABLE})


@record
class Target:
    """What a program is loaded for: a BTF id of the kernel's, of a module's (`fd` of its types), or of another program's (`fd`)."""

    btf_id: int = 0
    fd: int = 0


#: How the kernel names what programs of these kinds are attached to.
_PREFIXES = {
    AttachType.TRACE_RAW_TP: ("btf_trace_", Kind.TYPEDEF),
    AttachType.LSM_MAC: ("bpf_lsm_", Kind.FUNC),
    AttachType.LSM_CGROUP: ("bpf_lsm_", Kind.FUNC),
    AttachType.TRACE_ITER: ("bpf_iter_", Kind.FUNC),
}
_BY_BTF = frozenset({ProgType.TRACING, ProgType.LSM, ProgType.EXT})
_BY_LINK = frozenset({AttachType.TRACE_FENTRY_MULTI, AttachType.TRACE_FEXIT_MULTI, AttachType.TRACE_FSESSION_MULTI})


def attach_target(spec: ProgramSpec, resolver: Resolver, program: "Program | None" = None) -> Target:
    """What `spec` is attached to, for those that must say so when they are loaded. Raises UsageError and NotFoundError."""
    attach = AttachType(spec.attach_type) if spec.attach_type is not None else None
    if spec.type == ProgType.STRUCT_OPS:
        error = UsageError(f"program {spec.name!r}: no struct of functions in SEC(.struct_ops) names it")
        error.hint = 'put it into one: SEC(".struct_ops.link") struct tcp_congestion_ops mine = {.ssthresh = (void *)f};'
        raise error
    if spec.type not in _BY_BTF or attach in _BY_LINK:
        return Target()
    kind = spec.section.removeprefix("?").partition("/")[0]
    if not spec.attach_to:
        error = UsageError(f"program {spec.name!r}: SEC({spec.section!r}) does not say what it is for")
        error.hint = f'write SEC("{kind}/NAME"), or change attach_to before it is loaded'
        raise error
    if program is not None:
        return function_of(program.kernel, program.fd, program.name, spec.attach_to)
    if spec.type == ProgType.EXT:
        raise UsageError(f"program {spec.name!r}: {kind} replaces a function of another program: say of which")
    prefix, wanted = _PREFIXES.get(attach, ("", Kind.FUNC)) if attach is not None else ("", Kind.FUNC)
    module, colon, plain = spec.attach_to.rpartition(":")
    found = resolver.find(f"{module}{colon}{prefix}{plain}", wanted)
    if found is None:
        what = {"btf_trace_": "raw tracepoint", "bpf_lsm_": "LSM hook", "bpf_iter_": "iterator"}.get(prefix, "kernel function")
        like = resolver.near(prefix, wanted, plain)
        raise NotFoundError(what, spec.attach_to, where=f"this kernel's types, for program {spec.name!r}", near=like, errno=errno.ESRCH)
    return Target(found.id, found.module.fd if found.module is not None else 0)


def function_of(kernel: Kernel, program_fd: int, name: str, function: str) -> Target:
    """A function of a loaded program, which others can trace or replace. Raises NotFoundError."""
    id_ = kernel.bpf(GetProgInfo(program_fd)).btf_id
    if not id_:
        raise NotFoundError("function", function, where=f"program {name!r}, which has no types", errno=errno.EINVAL)
    fd = kernel.bpf(FdById(Cmd.BTF_GET_FD_BY_ID, id_))
    try:
        btf = Btf.parse(kernel.bpf(GetBtfInfo(fd)).data)
    finally:
        kernel.close(fd)
    type_ = btf.find(function, Kind.FUNC)
    if type_ is None:
        known = near(function, (each.name for each in btf if each.kind == Kind.FUNC))
        raise NotFoundError("function", function, where=f"program {name!r}", near=known, errno=errno.ESRCH)
    return Target(type_.id, program_fd)


def load_program(
    kernel: Kernel,
    spec: ProgramSpec,
    insns: bytes,
    btf_fd: int = 0,
    *,
    target: Target | None = None,
    modules: Sequence[int] = (),
    log_level: int = 0,
) -> Loaded:
    """Load instructions as `spec` says: first without a log (unless one is asked for), and when refused once more for the log."""
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
        ifindex=spec.ifindex,
        expected_attach_type=spec.attach_type or 0,
        btf_fd=btf_fd,
        func_info=funcs,
        func_info_rec_size=8 if funcs else 0,
        line_info=lines,
        line_info_rec_size=16 if lines else 0,
        attach_btf_id=target.btf_id if target is not None else 0,
        attach_fd=target.fd if target is not None else 0,
        # The first one stands for the kernel itself.
        fd_array=(0, *modules) if modules else (),
        log_level=log_level,
        log_size=_LARGEST_LOG if log_level else _LOG,
    )
    try:
        return kernel.bpf(call)
    except KernelError as error:
        if error.errno in (errno.EPERM, errno.ENOSPC) and not error.log:
            if error.errno == errno.EPERM and not isinstance(error, PrivilegeError) and spec.type in _BY_BTF:
                raise _forbidden(spec) from error
            raise
        raise _refusal(kernel, spec, insns, call, error) from error


_TRAMPOLINES = frozenset({AttachType.TRACE_FENTRY, AttachType.TRACE_FEXIT, AttachType.MODIFY_RETURN, AttachType.TRACE_FSESSION})


def needs_trampoline(spec: ProgramSpec) -> bool:
    """Whether a program runs by code that the kernel patches into a function (fentry and its like, LSM, freplace)."""
    return spec.type in (ProgType.LSM, ProgType.EXT) or (spec.type == ProgType.TRACING and spec.attach_type in _TRAMPOLINES)


def _forbidden(spec: ProgramSpec) -> KernelError:
    """Some hosts let nothing patch the kernel's functions, or walk others' maps: they refuse with EPERM and say nothing, whoever asks."""
    kind = spec.section.removeprefix("?").partition("/")[0]
    if needs_trampoline(spec):
        what = "all trampolines (fentry, fexit, fmod_ret, lsm, freplace)"
        others = "a kprobe, a tracepoint or tp_btf" if kind.startswith(("fentry", "fexit", "fsession", "lsm")) else "another hook"
    else:
        what, others = f"this {kind}", "another iterator, or reading from user space" if kind.startswith("iter") else "another hook"
    why = "the kernel refuses it without a word, though this process has the privileges"
    error = KernelError(errno.EPERM, "bpf(PROG_LOAD)", f"program {spec.name!r}: {why}: some hosts forbid {what}")
    error.hint = f"use {others} instead of {kind}, if there is one at that place; ebpf doctor says what this kernel lets attach"
    return error


def _refusal(kernel: Kernel, spec: ProgramSpec, insns: bytes, call: ProgLoad, first: KernelError) -> VerifierError:
    """The refusal with the verifier's own words: the program is loaded again with a log that is large enough."""
    size, log, why = _LOG, first.log, first.why
    while not log:
        try:
            kernel.close(kernel.bpf(changed(call, log_level=1, log_size=size)).fd)
        except KernelError as error:
            if error.errno == errno.ENOSPC and size < _LARGEST_LOG:
                size *= 4
                continue
            log, why = error.log, error.why or why
        break
    if not log and first.errno == errno.EINVAL and spec.type not in _BY_BTF and not _knows(kernel, call):
        found = section_row(spec.section.removeprefix("?"))
        why = f"this kernel has no programs of SEC({found[0].name if found is not None else spec.section})"
    cause, slot = why, _last_insn(log)
    said = _last_words(log)
    # Linux's calls say only which program it is.
    if not cause or cause in (said, f"program {spec.name[:15]!r}"):
        cause = said or str(first)
    line = next((i for i in reversed(spec.line_infos) if i.slot <= slot), None) if slot >= 0 else None
    source = f"{line.path}:{line.line}" if line is not None else ""
    return VerifierError(spec.name, cause, insn=slot, source=source, log=log, errno=first.errno)


def _knows(kernel: Kernel, call: ProgLoad) -> bool:
    """Whether the kernel's verifier looks at programs of this type and attachment at all: at one that does nothing."""
    from ebpf.isa import asm, encode

    code = encode(asm("r0 = 1\nexit"))
    nothing = ProgLoad(call.prog_type, code, call.license, flags=call.flags, expected_attach_type=call.expected_attach_type, log_level=1)
    try:
        kernel.close(kernel.bpf(nothing).fd)
    except KernelError as error:
        return error.errno != errno.EINVAL or bool(error.log)
    return True


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
