"""An object that is loaded: its types, maps and programs, owned together."""

import errno
import mmap
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from ebpf.btf import Btf, Classes, Value, read_value, write_value
from ebpf.errors import KernelError, NotFoundError, PrivilegeError, UsageError
from ebpf.object.map import Map
from ebpf.object.program import Program, Target
from ebpf.object.resolve import Resolver
from ebpf.object.sanitize import sanitized
from ebpf.object.struct_ops import StructOps, struct_ops
from ebpf.records import changed
from ebpf.spec import DataVar, MapSpec, ObjectSpec
from ebpf.sys.calls import BtfLoad, MapCreate, MapFreeze, MapUpdate, ObjGet, ObjPin
from ebpf.sys.kernel import Kernel
from ebpf.uapi import MapFlag, MapType

_BY_NAME = 1
_PINS = "/sys/fs/bpf"
_ZERO = bytes(4)
#: The kernel takes no types for the elements of these.
_UNTYPED = frozenset(
    {
        MapType.PERF_EVENT_ARRAY,
        MapType.CGROUP_ARRAY,
        MapType.STACK_TRACE,
        MapType.ARRAY_OF_MAPS,
        MapType.HASH_OF_MAPS,
        MapType.DEVMAP,
        MapType.DEVMAP_HASH,
        MapType.CPUMAP,
        MapType.XSKMAP,
        MapType.SOCKMAP,
        MapType.SOCKHASH,
        MapType.QUEUE,
        MapType.STACK,
        MapType.ARENA,
    }
)


class Collection:
    """The maps and programs of one object, open in a kernel. Close it, or use it in a with statement."""

    def __init__(self, spec: ObjectSpec, kernel: Kernel, *, types: Btf | None = None, classes: Classes | None = None) -> None:
        self.spec = spec
        self.kernel = kernel
        self.maps: dict[str, Map] = {}
        self.programs: dict[str, Program] = {}
        #: Classes for the object's types: what its maps give and take.
        self.types = classes if classes is not None else Classes(spec.btf) if spec.btf is not None else None
        #: Structs of functions as this kernel has them, by the name of their map: attach.struct_ops() registers one.
        self.struct_ops: dict[str, StructOps] = {}
        self._btf_fd = 0
        self._has_functions = True
        self._stack = ExitStack()
        self._resolver = Resolver(spec, kernel, types=types)
        self._stack.callback(self._resolver.close)

    @classmethod
    def load(
        cls,
        spec: ObjectSpec,
        kernel: Kernel,
        *,
        programs: Iterable[str] | None = None,
        load: bool = True,
        reuse: Mapping[str, Map] | None = None,
        types: Btf | None = None,
        targets: Mapping[str, Program | Target] | None = None,
        log_level: int = 0,
        classes: Classes | None = None,
    ) -> Self:
        """Make the maps and load the programs (`programs`: only these; `load=False`: each when it is first needed).

        `types` are a kernel's (for CO-RE) other than those that it tells itself; `targets` are the programs of which functions are
        traced or replaced (or `function_of` them), by the name of the program that does so. With `log_level` (1, 2 or 4) each
        program's `log` has the verifier's text also where it was accepted; `classes` are those for the object's types, where they
        are made already. What else can be changed is changed in the spec (`ObjectSpec.with_...`).

        Raises VerifierError for a refused program, KernelError for what the kernel refuses; nothing stays open then.
        """
        self = cls(spec, kernel, types=types, classes=classes)
        try:
            self._load_btf()
            for name, map_spec in spec.maps.items():
                if map_spec.type == MapType.STRUCT_OPS and spec.btf is not None:
                    self.struct_ops[name] = laid_out = struct_ops(name, map_spec, spec.btf, self._resolver)
                    map_spec = laid_out.map
                if reuse is not None and name in reuse:
                    self.maps[name] = reuse[name]
                else:
                    self.maps[name] = self._make_map(name, map_spec)
            wanted = set(programs) if programs is not None else None
            for name, program_spec in spec.programs.items():
                if wanted is not None and name not in wanted:
                    continue
                target: Program | Target | None = targets.get(name) if targets is not None else None
                for held in self.struct_ops.values():
                    if name in held.members:
                        target = Target(held.type_id, held.module_fd)
                        program_spec = changed(program_spec, attach_type=held.members[name])
                program = Program(
                    kernel, program_spec, self.maps, self._resolver, self._btf_fd if self._has_functions else 0, target, log_level=log_level
                )
                self.programs[name] = self._stack.enter_context(program)
                if load and program_spec.autoload:
                    program.load()
            self._fill_slots()
        except BaseException:
            self.close()
            raise
        return self

    def _load_btf(self) -> None:
        if self.spec.btf is None:
            return
        try:
            self._btf_fd = self.kernel.bpf(BtfLoad(self.spec.btf.raw))
        except PrivilegeError:
            raise
        except KernelError:
            older = sanitized(self.kernel, self.spec.btf)
            if older is None:
                # A kernel that knows no types at all still runs the programs; only names and lines are lost.
                return
            self._btf_fd, self._has_functions = older
        self._stack.callback(self.kernel.close, self._btf_fd)

    def _sized(self, spec: MapSpec) -> MapSpec:
        """The map with the size that this machine gives it, as libbpf does: perf buffers by CPUs, rings by whole pages."""
        entries = spec.max_entries
        if spec.type == MapType.PERF_EVENT_ARRAY and not entries:
            entries = self.kernel.possible_cpus
        elif spec.type in (MapType.RINGBUF, MapType.USER_RINGBUF) and entries:
            entries = max(1 << (entries - 1).bit_length(), mmap.PAGESIZE)
        return changed(spec, max_entries=entries)

    def _make_map(self, name: str, spec: MapSpec) -> Map:
        spec = self._sized(spec)
        path = f"{_PINS}/{name}" if spec.pinning == _BY_NAME else ""
        fd = self._pinned(path) if path else -1
        found = fd >= 0
        held = self._stack.enter_context(Map(self.kernel, fd if found else self._create(spec), spec, self.types))
        if found:
            # What is in a map that was there before is its users', and stays.
            _require_same(held, path)
            return held
        initial = spec.initial
        if spec.type == MapType.ARENA:
            self._map_arena(held)
        elif initial is not None and spec.type != MapType.STRUCT_OPS:
            if spec.section == ".kconfig":
                initial = self._resolver.options(initial)
            if any(initial) or spec.frozen:
                self.kernel.bpf(MapUpdate(held.fd, _ZERO, initial))
            if spec.frozen:
                self.kernel.bpf(MapFreeze(held.fd))
        if path:
            self._pin(held, path)
        return held

    def _pin(self, held: Map, path: str) -> None:
        try:
            self.kernel.bpf(ObjPin(path, held.fd))
        except KernelError as error:
            roots = self.kernel.pin_roots()
            if roots is None or isinstance(error, PrivilegeError) or any(path.startswith(root + "/") for root in roots):
                raise
            refusal = UsageError(f"map {held.name!r}: cannot be pinned at {path}: no BPF file system is mounted there")
            refusal.hint = f"mount -t bpf bpf {_PINS}"
            raise refusal from error

    def _map_arena(self, held: Map) -> None:
        """An arena is memory of this process as well: its variables begin there, and programs see what is written to it."""
        held.memory = self.kernel.mmap(held.fd, held.spec.max_entries * mmap.PAGESIZE, writable=True, at=held.spec.map_extra)
        self._stack.callback(held.memory.close)
        if held.spec.initial is not None:
            held.memory.view[: len(held.spec.initial)] = held.spec.initial

    def struct_ops_value(self, name: str) -> bytes:
        """What a struct of functions is registered with: its programs are loaded for it. Raises NotFoundError, VerifierError."""
        if name not in self.struct_ops:
            raise NotFoundError("struct of functions", name, where=self.spec.path, near=list(self.struct_ops))
        return self.struct_ops[name].value(lambda program: self.programs[program].fd)

    def _fill_slots(self) -> None:
        """Put maps and programs into the maps that C fills (`.values`); a program that is not wanted leaves its slot empty."""
        for name, spec in self.spec.maps.items():
            for index, target in spec.slots if name not in self.struct_ops else ():
                held = self.maps.get(target) or self.programs.get(target)
                if held is not None:
                    self.maps[name].update(index.to_bytes(4, "little"), held.fd.to_bytes(4, "little"))

    def _pinned(self, path: str) -> int:
        try:
            return self.kernel.bpf(ObjGet(path))
        except KernelError as error:
            if error.errno == 2:
                return -1
            raise

    def _create(self, spec: MapSpec) -> int:
        inner = 0
        if spec.inner is not None:
            inner = self._create(self._sized(spec.inner))
        laid_out = next((held for held in self.struct_ops.values() if held.map == spec), None)
        typed = self._btf_fd if spec.value_type_id and laid_out is None and spec.type not in _UNTYPED else 0
        call = MapCreate(
            map_type=spec.type,
            key_size=spec.key_size,
            value_size=spec.value_size,
            max_entries=spec.max_entries,
            flags=spec.flags,
            name=spec.name,
            inner_map_fd=inner,
            numa_node=spec.numa_node,
            # The kernel wants the types of an object that has structs of functions, though it takes its own for the value.
            btf_fd=self._btf_fd if laid_out is not None else typed,
            btf_key_type_id=spec.key_type_id if typed else 0,
            btf_value_type_id=spec.value_type_id if typed else 0,
            map_extra=spec.map_extra,
            kernel_value_type_id=laid_out.value_type_id if laid_out is not None else 0,
            kernel_module_fd=laid_out.module_fd if laid_out is not None else 0,
            ifindex=spec.ifindex,
        )
        try:
            return self.kernel.bpf(call)
        except KernelError as error:
            if laid_out is not None and error.errno == errno.EINVAL and spec.flags & MapFlag.LINK:
                why = f'map {spec.name!r}: this kernel has no links for structs of functions (Linux 6.4): write SEC(".struct_ops")'
                raise KernelError(error.errno, error.call, why) from error
            if not typed or isinstance(error, PrivilegeError):
                raise
            # An older kernel takes no types for some that a newer one has: the map is what matters.
            return self.kernel.bpf(changed(call, btf_fd=0, btf_key_type_id=0, btf_value_type_id=0))
        finally:
            if inner:
                self.kernel.close(inner)

    # -- global variables

    def _variable(self, name: str) -> tuple[Map, DataVar, Btf]:
        if self.spec.btf is not None:
            for held in self.maps.values():
                for variable in held.spec.variables:
                    if variable.name == name and variable.type_id:
                        return held, variable, self.spec.btf
        raise NotFoundError("variable", name, where=self.spec.path, near=sorted(self.variables()))

    def variables(self) -> dict[str, Value]:
        """The global variables that can change, by name, as they are now (constants and strings of the compiler's left out)."""
        out: dict[str, Value] = {}
        btf = self.spec.btf
        for held in self.maps.values():
            if not held.spec.variables or held.spec.frozen or btf is None:
                continue
            data = held.data()
            for variable in held.spec.variables:
                if variable.type_id:
                    out[variable.name] = read_value(btf, variable.type_id, data[variable.offset : variable.offset + variable.size])
        return out

    def set_variable(self, name: str, value: Value) -> None:
        """Write a global variable. Raises NotFoundError, or FormatError when the value does not fit."""
        held, variable, btf = self._variable(name)
        raw = write_value(btf, variable.type_id, value)
        end = variable.offset + variable.size
        if held.memory is not None:
            held.memory.view[variable.offset : end] = raw
            return
        data = bytearray(held.data())
        data[variable.offset : end] = raw
        held.update(_ZERO, bytes(data))

    def constant(self, name: str) -> Value:
        """A constant (`const volatile`) by name, as it was loaded. Raises NotFoundError."""
        held, variable, btf = self._variable(name)
        return read_value(btf, variable.type_id, held.data()[variable.offset : variable.offset + variable.size])

    def close(self) -> None:
        """Close all descriptors: what only they held goes. Idempotent."""
        self._stack.close()
        self.programs.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _require_same(held: Map, path: str) -> None:
    """Raise UsageError unless the map that was found at `path` is shaped as the object wants it."""
    info, spec = held.info(), held.spec
    there = (info.type, info.key_size, info.value_size, info.max_entries, info.map_flags)
    # Programs only read these, whatever was asked for: the kernel adds the flag.
    added = MapFlag.RDONLY_PROG if spec.type in (MapType.DEVMAP, MapType.DEVMAP_HASH) else 0
    wanted = (spec.type, spec.key_size, spec.value_size, spec.max_entries, spec.flags | added)
    if there != wanted:
        shapes = zip(("type", "key size", "value size", "max entries", "flags"), there, wanted, strict=True)
        differs = ", ".join(f"{what} {old} instead of {new}" for what, old, new in shapes if old != new)
        raise UsageError(f"map {spec.name!r} at {path}: another one is there already ({differs}); remove it or use another name")
