"""What a kernel gives to the programs of one object: its types for CO-RE, its functions and variables by name, its options."""

import errno
import os
import re
import struct
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from ebpf.btf import Btf, Kind, essential
from ebpf.errors import EbpfError, FormatError, NotFoundError, NotSupportedError, near
from ebpf.records import record
from ebpf.spec import Extern, ExternKind, ObjectSpec
from ebpf.sys.calls import FdById, GetBtfInfo, NextId, ProgLoad
from ebpf.sys.kernel import FUNCTIONS, VMLINUX, Kernel
from ebpf.uapi import Cmd, ProgType

if TYPE_CHECKING:
    from ebpf.btf import Matcher

_KALLSYMS = "/proc/kallsyms"
_NO_TYPES = "this kernel tells no types (CONFIG_DEBUG_INFO_BTF; /sys/kernel/btf/vmlinux)"


@record
class Module:
    """Types that come with a module of the kernel: they go on where the kernel's own end."""

    name: str
    btf: Btf
    fd: int


@record
class Found:
    """Something of the kernel's by its BTF id; `module` is None for the kernel itself."""

    id: int
    module: Module | None = None


class Resolver:
    """Answers what an object asks of a kernel; each thing is read when it is first needed. Close it."""

    def __init__(self, spec: ObjectSpec, kernel: Kernel, *, types: Btf | None = None) -> None:
        self.spec = spec
        self.kernel = kernel
        self._given = types
        self._fds: list[int] = []

    @cached_property
    def types(self) -> Btf:
        """The kernel's types. Raises NotSupportedError where it tells none."""
        try:
            raw = self.kernel.read_file(VMLINUX)
        except OSError as error:
            raise NotSupportedError("CO-RE", _NO_TYPES, hint="Give a file with the kernel's BTF, or use a kernel that has it") from error
        if raw:
            from ebpf.sys.types import open_types

            return open_types(raw, VMLINUX)
        # A kernel without structures of its own: programs run with theirs.
        if self.spec.btf is None:
            raise NotSupportedError("CO-RE", "neither the object nor the kernel has types", hint="Compile with -g")
        return self.spec.btf

    @cached_property
    def functions(self) -> Btf:
        """The types that the kernel's functions are found in: a kernel without vmlinux tells those of what little it has."""
        if self.types is not self.spec.btf:
            return self.types
        from ebpf.sys.types import open_types

        try:
            return open_types(self.kernel.read_file(FUNCTIONS), FUNCTIONS)
        except OSError:
            return self.types

    @cached_property
    def modules(self) -> Sequence[Module]:
        """The modules that are loaded and have types (none where they cannot be listed)."""
        out: list[Module] = []
        id_ = 0
        while True:
            try:
                id_ = self.kernel.bpf(NextId(Cmd.BTF_GET_NEXT_ID, id_))
                fd = self.kernel.bpf(FdById(Cmd.BTF_GET_FD_BY_ID, id_))
            except EbpfError:
                return out
            info = self.kernel.bpf(GetBtfInfo(fd))
            if not info.kernel_btf or info.name == "vmlinux":
                self.kernel.close(fd)
                continue
            self._fds.append(fd)
            out.append(Module(info.name, self.types.split(info.data, info.name), fd))

    @cached_property
    def matcher(self) -> "Matcher":
        """What answers CO-RE records."""
        assert self.spec.btf is not None
        from ebpf.btf import Matcher

        return Matcher(self.spec.btf, self._targets)

    def _targets(self) -> Iterator[Btf]:
        # Types that are given stand for the kernel's in CO-RE alone: its functions have the ids that they have there.
        if self._given is not None:
            yield self._given
            return
        if self.functions is not self.types:
            yield self.functions
        yield self.types
        yield from (module.btf for module in self.modules)

    def find(self, name: str, kind: Kind) -> Found | None:
        """Something of the kernel's or its modules' by name; `module:name` says where."""
        module, _, plain = name.rpartition(":")
        if module in ("", "vmlinux"):
            type_ = (self.functions if kind == Kind.FUNC else self.types).find(plain, kind)
            if type_ is not None:
                return Found(type_.id)
        for held in self.modules:
            if module in ("", held.name):
                type_ = held.btf.find(plain, kind)
                if type_ is not None and type_.id >= len(self.types):
                    return Found(type_.id, held)
        return None

    def near(self, prefix: str, kind: Kind, name: str) -> list[str]:
        """Names like this one, of what the kernel calls `prefix` and a name."""
        types = self.functions if kind == Kind.FUNC else self.types
        names = {types.name(id_) for id_ in range(1, len(types)) if types.kind(id_) == kind}
        return near(name, [n.removeprefix(prefix) for n in names if n.startswith(prefix)], cutoff=0.8)

    # -- externs

    def extern(self, extern: Extern) -> Found | None:
        """The kernel's function or variable that an extern names; None if a weak one is missing. Raises NotFoundError for others."""
        kind = Kind.FUNC if extern.kind == ExternKind.FUNCTION else Kind.VAR
        found = self.find(essential(extern.name) if kind == Kind.FUNC else extern.name, kind)
        if found is not None and self._same_type(extern, found):
            return found
        if extern.weak and (found is None or kind == Kind.FUNC):
            return None
        what = extern.kind.value
        if found is not None:
            raise FormatError(f"is declared with another type than the kernel's {what}", path=self.spec.path, where=extern.name)
        near = self.near("", kind, extern.name) if kind == Kind.FUNC else []
        raise NotFoundError(what, extern.name, where="this kernel's types", near=near, errno=errno.EINVAL)

    def _same_type(self, extern: Extern, found: Found) -> bool:
        own = self.functions if extern.kind == ExternKind.FUNCTION else self.types
        btf = found.module.btf if found.module is not None else own
        assert self.spec.btf is not None
        from ebpf.btf import compatible

        return not extern.type_id or compatible(self.spec.btf, extern.type_id, btf, btf.resolve(btf.type(found.id).ref).id)

    def address(self, extern: Extern) -> int:
        """The address of a kernel symbol; 0 if a weak one is missing."""
        found = self._symbols.get(extern.name)
        if found is None and not extern.weak:
            raise NotFoundError("kernel symbol", extern.name, where=_KALLSYMS, errno=errno.ESRCH)
        return found or 0

    @cached_property
    def _symbols(self) -> dict[str, int]:
        wanted = [e.name for e in self.spec.externs.values() if e.kind == ExternKind.VARIABLE and not e.type_id]
        out: dict[str, int] = {}
        try:
            text = self.kernel.read_file(_KALLSYMS)
        except OSError:
            return out
        for name in wanted:
            row = re.search(rb"^([0-9a-f]+) \w " + re.escape(name.encode()) + rb"(?:\t.*)?$", text, re.MULTILINE)
            if row is not None:
                out[name] = int(row[1], 16)
        return out

    def options(self, initial: bytes) -> bytes:
        """The value of the map ".kconfig"."""
        data = bytearray(initial)
        for extern in self.spec.externs.values():
            if extern.kind == ExternKind.KCONFIG:
                data[extern.offset : extern.offset + extern.size] = self._option(extern)
        return bytes(data)

    def _option(self, extern: Extern) -> bytes:
        if extern.name.startswith("LINUX_"):
            virtual = {
                "LINUX_KERNEL_VERSION": self._version,
                "LINUX_HAS_BPF_COOKIE": self._has_cookies,
                "LINUX_HAS_SYSCALL_WRAPPER": self._wraps_syscalls,
            }.get(extern.name)
            if virtual is not None:
                return virtual().to_bytes(extern.size, "little")
        text = self._config.get(extern.name)
        if text is None:
            if extern.weak:
                return bytes(extern.size)
            error = NotFoundError("kernel option", extern.name, where="this kernel's configuration", errno=errno.ESRCH)
            error.hint = f"it is not set, or the configuration is not to be read; declare it {extern.name} __kconfig __weak to see 0 then"
            raise error
        return self._encode(extern, text)

    def _encode(self, extern: Extern, text: str) -> bytes:
        btf = self.spec.btf
        assert btf is not None
        type_ = btf.resolve(extern.type_id)

        def bad(why: str) -> FormatError:
            return FormatError(f"the kernel's {text} {why}", path=self.spec.path, where=extern.name)

        if text in ("y", "n", "m"):
            if type_.kind in (Kind.ENUM, Kind.ENUM64):
                return "nym".index(text).to_bytes(extern.size, "little")
            if type_.kind == Kind.INT and type_.is_bool and text != "m":
                return bytes([text == "y"])
            if type_.kind == Kind.INT and extern.size == 1 and not type_.is_bool:
                return text.encode()
            raise bad("needs a bool, a char or an enum libbpf_tristate")
        if text.startswith('"'):
            if type_.kind != Kind.ARRAY:
                raise bad("needs an array of char")
            return text[1:].rpartition('"')[0].encode()[: extern.size - 1].ljust(extern.size, b"\0")
        if type_.kind != Kind.INT or type_.is_bool:
            raise bad("needs an integer")
        try:
            value = int(text, 0)
            return (value & (1 << 64) - 1 if value < 0 and not type_.signed else value).to_bytes(extern.size, "little", signed=type_.signed)
        except (ValueError, OverflowError):
            raise bad(f"does not fit {extern.size} bytes") from None

    @cached_property
    def _config(self) -> dict[str, str]:
        release = os.uname().release
        for path in ("/proc/config.gz", f"/boot/config-{release}"):
            try:
                raw = self.kernel.read_file(path)
            except OSError:
                continue
            import gzip

            text = (gzip.decompress(raw) if path.endswith(".gz") else raw).decode("utf-8", "replace")
            return dict(re.findall(r"^(CONFIG_\w+)=(.*)$", text, re.MULTILINE))
        return {}

    def _version(self) -> int:
        """KERNEL_VERSION() of the kernel that runs; what Ubuntu and Debian call theirs besides is not it."""
        release = os.uname().release
        for path, pattern in (("/proc/version_signature", r"(\d+)\.(\d+)\.(\d+)\s*$"), ("/proc/version", r"Debian (\d+)\.(\d+)\.(\d+)")):
            try:
                found = re.search(pattern, self.kernel.read_file(path).decode("utf-8", "replace"))
            except OSError:
                continue
            if found is not None:
                break
        else:
            found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", release)
        major, minor, patch = (int(n or 0) for n in found.groups()) if found is not None else (0, 0, 0)
        return (major << 16) + (minor << 8) + min(patch, 255)

    def _has_cookies(self) -> int:
        return int(self._accepts("get_attach_cookie"))

    def _accepts(self, helper: str) -> bool:
        """Whether a kprobe program may call a helper: asked of the verifier."""
        from ebpf.uapi import HELPERS_BY_NAME

        insns = struct.pack("<BBhiBBhi", 0x85, 0, 0, HELPERS_BY_NAME[helper].id, 0x95, 0, 0, 0)
        try:
            self.kernel.close(self.kernel.bpf(ProgLoad(int(ProgType.KPROBE), insns, "GPL")).fd)
        except EbpfError:
            return False
        return True

    def _wraps_syscalls(self) -> int:
        return int(not self.kernel.syscall_function("bpf").startswith(("__se_", "sys_")))

    def close(self) -> None:
        """Close the descriptors of modules' types. Idempotent."""
        while self._fds:
            self.kernel.close(self._fds.pop())
