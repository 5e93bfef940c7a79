"""Asking Linux's kernel what it says to a case."""

import ctypes
import errno
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from bench.agreement.case import ALL, Answer, Case, MapCase
from bench.agreement.folder import blob_path
from bench.agreement.said import complaint, last_line, processed

from ebpf.btf import Btf, Kind
from ebpf.errors import KernelError
from ebpf.kernels.linux import LinuxKernel
from ebpf.sys.calls import BtfLoad, MapCreate, MapFreeze, MapUpdate, ProgLoad
from ebpf.sys.kernel import VMLINUX
from ebpf.uapi import ProgFlag

_STATS = 4
_SMALL_LOG, _LARGE_LOG = 1 << 18, 1 << 24
_ENOTSUPP = 524
_KPROBE = 2
#: Since when a kernel can be asked to test itself while it judges.
_SINCE_TESTS = 6 << 16 | 8 << 8
_PREFIXES = {23: ("btf_trace_", Kind.TYPEDEF), 27: ("bpf_lsm_", Kind.FUNC), 43: ("bpf_lsm_", Kind.FUNC), 28: ("bpf_iter_", Kind.FUNC)}


class EnvironmentMissing(Exception):
    """This kernel cannot be asked: a map, types or a function that it does not have."""


@dataclass
class Oracle:
    """The running kernel. `ask` gives its verdict; `log` the whole text at a level."""

    kernel: LinuxKernel

    def __post_init__(self) -> None:
        self._types: Btf | None = None
        self._ids: dict[str, int] = {}

    def warm(self) -> None:
        """Read what takes privileges before they are given up."""
        self._types = Btf.parse(self.kernel.read_file(VMLINUX))

    def ask(self, case: Case) -> Answer:
        """The verdict and the complaint."""
        try:
            with self._prepared(case) as call:
                begin = time.perf_counter()
                number, log = self._load(call, _STATS, _SMALL_LOG)
                took = time.perf_counter() - begin
                if number and (not complaint(log) or number == _ENOTSUPP) and number != errno.EINVAL and number != errno.E2BIG:
                    return Answer("environment", errno=number, why=os.strerror(number), error=complaint(log))
                if "failed to find the address for kernel symbol" in log:
                    raise EnvironmentMissing("this kernel does not list its variables")
        except EnvironmentMissing as missing:
            return Answer("environment", why=str(missing))
        said = complaint(log) if number else ""
        return Answer("refused" if number else "accepted", last_line(said), said, processed(log), number, seconds=took)

    def log(self, case: Case, level: int) -> str:
        """The log at a level, up to 16 MB of it (its end, if there is more)."""
        with self._prepared(case) as call:
            return self._load(call, level, _LARGE_LOG)[1]

    def _load(self, call: ProgLoad, level: int, size: int) -> tuple[int, str]:
        try:
            loaded = self.kernel.bpf(replace(call, log_level=level, log_size=size))
        except KernelError as error:
            return error.errno, error.log
        self.kernel.close(loaded.fd)
        return 0, loaded.log

    @contextmanager
    def _prepared(self, case: Case) -> Iterator[ProgLoad]:
        with ExitStack() as held:
            types: dict[str, int] = {}
            maps = [self._map(each, types, held) for each in case.maps]
            code = bytearray(case.with_maps(maps))
            for slot, name in case.kfuncs.items():
                code[slot * 8 + 4 : slot * 8 + 8] = self._id(name, Kind.FUNC).to_bytes(4, "little")
            for slot, name in case.ksyms.items():
                code[slot * 8 + 4 : slot * 8 + 8] = self._id(name, Kind.VAR).to_bytes(4, "little")
            target = 0
            if case.target:
                prefix, kind = _PREFIXES.get(case.attach_type, ("", Kind.FUNC))
                target = self._id(prefix + case.target, kind)
            yield ProgLoad(
                prog_type=case.prog_type,
                insns=bytes(code),
                license=case.license,
                flags=case.flags & ~(0 if _version() >= _SINCE_TESTS else ProgFlag.TEST_REG_INVARIANTS),
                expected_attach_type=case.attach_type,
                btf_fd=self._btf(case.btf, types, held),
                func_info=case.func_info,
                func_info_rec_size=case.func_info_size,
                line_info=case.line_info,
                line_info_rec_size=case.line_info_size,
                attach_btf_id=target,
                kern_version=_version() if case.prog_type == _KPROBE else 0,
            )

    def _btf(self, digest: str, types: dict[str, int], held: ExitStack) -> int:
        if not digest:
            return 0
        if digest not in types:
            try:
                types[digest] = self.kernel.bpf(BtfLoad(blob_path(digest).read_bytes()))
            except KernelError as error:
                raise EnvironmentMissing(f"types refused: {error}") from error
            held.callback(self.kernel.close, types[digest])
        return types[digest]

    def _map(self, case: MapCase, types: dict[str, int], held: ExitStack) -> int:
        inner = self._map(case.inner, types, held) if case.inner is not None else 0
        call = MapCreate(
            map_type=case.type,
            key_size=case.key_size,
            value_size=case.value_size,
            max_entries=case.max_entries,
            flags=case.flags,
            name=case.name[:15],
            inner_map_fd=inner,
            btf_fd=self._btf(case.btf, types, held),
            btf_key_type_id=case.key_type,
            btf_value_type_id=case.value_type,
            map_extra=case.map_extra,
        )
        try:
            fd = self.kernel.bpf(call)
        except KernelError as error:
            raise EnvironmentMissing(f"map of type {case.type} refused: {error}") from error
        held.callback(self.kernel.close, fd)
        if case.initial:
            self.kernel.bpf(MapUpdate(fd, bytes(4), bytes.fromhex(case.initial)))
        if case.frozen:
            self.kernel.bpf(MapFreeze(fd))
        return fd

    def _id(self, name: str, kind: Kind) -> int:
        key = f"{kind.name} {name}"
        if key not in self._ids:
            if self._types is None:
                self.warm()
            assert self._types is not None
            found = self._types.find(name, kind)
            if found is None:
                raise EnvironmentMissing(f"this kernel has no {name}")
            self._ids[key] = found.id
        return self._ids[key]


def _version() -> int:
    major, minor, patch = (int("".join(c for c in part if c.isdigit())) for part in os.uname().release.split("-")[0].split(".")[:3])
    return major << 16 | minor << 8 | min(patch, 255)


def drop_capabilities() -> None:
    """Keep CAP_BPF and CAP_NET_ADMIN alone, for good, in this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    kept = 1 << 12, 1 << (39 - 32)
    data = (ctypes.c_uint32 * 6)(kept[0], kept[0], 0, kept[1], kept[1], 0)
    if libc.capset(header, data):
        raise OSError(ctypes.get_errno(), "capset")


def privileges(caps: str) -> None:
    """Take on what a case wants to be asked with."""
    if caps != ALL:
        drop_capabilities()
