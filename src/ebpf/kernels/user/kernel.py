"""The user kernel: the command table, descriptors, ids, pins and lifetimes of a kernel that lives in this process."""

import errno
import os
import select
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, cast

from ebpf.btf import Btf, kernel_fields
from ebpf.engine.runtime.abi import Env
from ebpf.engine.runtime.python import close_finder
from ebpf.errors import EbpfError, FormatError, KernelError, NotSupportedError
from ebpf.isa import decode
from ebpf.kernels.user import holders
from ebpf.kernels.user import load as loader
from ebpf.kernels.user.events import PerfEvent, syscall_function
from ebpf.kernels.user.lab import UserLab
from ebpf.kernels.user.maps import Map, ProgArray, create
from ebpf.kernels.user.objects import READ, WRITE, Account, BtfObject, LinkObject, MapObject, Object, ProgramObject, Table
from ebpf.kernels.user.run import test_run
from ebpf.kernels.user.state import State
from ebpf.kernels.user.trace import TraceReader
from ebpf.sys import calls
from ebpf.sys.absent import LinuxOnly
from ebpf.sys.calls import Call, R
from ebpf.sys.kernel import VMLINUX, Buffer, PerfSource, TcState, XdpState
from ebpf.uapi import MapFlag, ProgType, is_gpl


class UserKernel(LinuxOnly):
    """A kernel in user space. Close it with shutdown(), or use it in a with statement.

    Several can share a `state`: each is then one client, with descriptors of its own.
    """

    name = "user"
    lasting = False

    def __init__(self, state: State | None = None, account: Account | None = None) -> None:
        self._owner = state is None
        self.state = state or State()
        self.possible_cpus = self.state.possible_cpus
        self.table = Table(self.state.registry, account)
        self.lab = UserLab(self)
        self._closed = False
        self._finders: dict[int, list[Callable[[Any], Any]]] = {}
        #: The surroundings that this client's test runs run in now.
        self.runs: dict[int, Env] = {}
        self.leaving = False
        #: Whether clients are this process itself, so that descriptors of the system mean the same to them and to us.
        self.local = True

    # -- bpf(2)

    def bpf(self, call: Call[R]) -> R:
        """Carry out one command."""
        self._alive(f"bpf({call.cmd.name})")
        handler = _COMMANDS.get(type(call))
        if handler is None:
            raise NotSupportedError(f"bpf({call.cmd.name})", "is not built in the user kernel yet", hint="Run with --kernel linux")
        return cast(R, handler(self, call))

    def _alive(self, call: str) -> None:
        if self._closed:
            raise KernelError(errno.EBADF, call, "this kernel was shut down")
        self.state.alive(call)

    def map_at(self, fd: int, call: str, need: int = 0) -> MapObject:
        """The map behind a descriptor, which must permit to READ or WRITE it if that is needed."""
        held = self.table.get(fd, MapObject, call)
        if need and not self.table.may(fd, need):
            raise KernelError(errno.EPERM, call, f"the descriptor is {'write' if need == READ else 'read'}-only")
        if need == WRITE and held.map.frozen:
            raise KernelError(errno.EPERM, call, "the map is frozen")
        return held

    def program_at(self, fd: int, call: str) -> ProgramObject:
        """The program behind a descriptor."""
        return self.table.get(fd, ProgramObject, call)

    def _map_create(self, call: calls.MapCreate) -> int:
        made = create(call, self.possible_cpus, lambda fd: self.map_at(fd, "bpf(MAP_CREATE)").map)
        try:
            btf = self.table.get(call.btf_fd, BtfObject, "bpf(MAP_CREATE)") if call.btf_fd else None
            if btf is not None and call.btf_value_type_id:
                made.set_fields(kernel_fields(btf.btf, call.btf_value_type_id))
        except EbpfError:
            made.close()
            raise
        return self.table.add(MapObject(made, btf), _access(call.flags))

    def _lookup(self, call: calls.MapLookup) -> bytes:
        return self.map_at(call.map_fd, "map_lookup_elem", READ).map.lookup(call.key, call.flags, call.value)

    def _update(self, call: calls.MapUpdate) -> None:
        held = self.map_at(call.map_fd, "map_update_elem", WRITE).map
        if not holders.put(self, held, call):
            held.update(call.key, call.value, call.flags)

    def _delete(self, call: calls.MapDelete) -> None:
        held = self.map_at(call.map_fd, "map_delete_elem", WRITE).map
        if not holders.drop(self, held, call.key):
            held.delete(call.key)

    def _next_key(self, call: calls.MapNextKey) -> bytes:
        return self.map_at(call.map_fd, "map_get_next_key", READ).map.next_key(call.key)

    def _take(self, call: calls.MapLookupAndDelete) -> bytes:
        call_ = "map_lookup_and_delete_elem"
        self.map_at(call.map_fd, call_, READ)
        return self.map_at(call.map_fd, call_, WRITE).map.take(call.key, call.flags)

    def _freeze(self, call: calls.MapFreeze) -> None:
        self.map_at(call.map_fd, "bpf(MAP_FREEZE)", WRITE).map.freeze()

    def _batch(self, call: calls.MapLookupBatch) -> calls.Batch:
        return self.map_at(call.map_fd, "map_lookup_batch", READ).map.batch(call.start, call.count, call.flags, take=False)

    def _take_batch(self, call: calls.MapTakeBatch) -> calls.Batch:
        call_ = "map_lookup_and_delete_batch"
        self.map_at(call.map_fd, call_, READ)
        held = self.map_at(call.map_fd, call_, WRITE).map
        return holders.take_batch(self, held, call) or held.batch(call.start, call.count, call.flags, take=True)

    def _update_batch(self, call: calls.MapUpdateBatch) -> int:
        held = self.map_at(call.map_fd, "map_update_batch", WRITE).map
        return holders.put_batch(self, held, call) or held.put_many(call.keys, call.values, call.count, call.flags)

    def _delete_batch(self, call: calls.MapDeleteBatch) -> int:
        held = self.map_at(call.map_fd, "map_delete_batch", WRITE).map
        return holders.drop_batch(self, held, call) or held.remove_many(call.keys, call.count, call.flags)

    def _btf_job(self, call: calls.BtfLoad) -> "Job":
        def parse() -> Btf:
            try:
                return Btf.parse(call.data)
            except FormatError as error:
                raise KernelError(errno.EINVAL, "bpf(BTF_LOAD)", str(error)) from error

        return Job(self, [], parse, lambda btf: self.table.add(BtfObject(btf)))

    def _btf_load(self, call: calls.BtfLoad) -> int:
        return cast(int, self._btf_job(call).here())

    def job(self, call: Call[Any]) -> "Job | None":
        """The work of a call that takes long, to be done beside others'; None for a call that does not."""
        if isinstance(call, calls.ProgLoad):
            return self._load_job(call)
        if isinstance(call, calls.ProgTestRun):
            return self._run_job(call)
        if isinstance(call, calls.BtfLoad):
            return self._btf_job(call)
        return None

    def _load_job(self, call: calls.ProgLoad) -> "Job":
        self._alive("bpf(PROG_LOAD)")
        where = "bpf(PROG_LOAD)"
        try:
            fds = loader.maps_named(call.insns)
        except FormatError as error:
            raise KernelError(errno.EINVAL, where, str(error)) from error
        held = {fd: self.map_at(fd, where) for fd in fds}
        btf = self.table.get(call.btf_fd, BtfObject, where) if call.btf_fd else None

        def finish(program: loader.LoadedProgram) -> calls.Loaded:
            return calls.Loaded(self.table.add(ProgramObject(program, dict(held), btf)), program.verdict.log)

        maps = {fd: m.map for fd, m in held.items()}
        types = {fd: m.btf.btf for fd, m in held.items() if m.btf is not None}
        return Job(
            self,
            [*held.values(), *([btf] if btf is not None else [])],
            lambda: loader.load(call, maps, btf.btf if btf else None, types),
            finish,
        )

    def _run_job(self, call: calls.ProgTestRun) -> "Job":
        program = self.program_at(call.prog_fd, "bpf(PROG_TEST_RUN)")
        return Job(self, [program], lambda: test_run(self, program, call), lambda result: result)

    def _prog_load(self, call: calls.ProgLoad) -> calls.Loaded:
        return cast(calls.Loaded, self._load_job(call).here())

    def _test_run(self, call: calls.ProgTestRun) -> calls.TestRunResult:
        return cast(calls.TestRunResult, self._run_job(call).here())

    def _pin(self, call: calls.ObjPin) -> None:
        held = self.table.get(call.fd, Object, "bpf(OBJ_PIN)")
        if not isinstance(held, (MapObject, ProgramObject, LinkObject)):
            raise KernelError(errno.EINVAL, "bpf(OBJ_PIN)", f"descriptor {call.fd} is no map, program or link")
        self.state.pin(call.path, held)

    def _obj_get(self, call: calls.ObjGet) -> int:
        return self.table.open(self.state.at_path(call.path), _access(call.file_flags))

    def pin_roots(self) -> list[str] | None:
        """Pins are no files here."""
        return None

    def pinned(self) -> list[str]:
        """The paths of all pins."""
        return sorted(self.state.pins)

    def mount_pins(self) -> None:
        """Nothing needs to be mounted."""

    def unpin(self, path: str) -> None:
        """Remove a pin, as unlink(2) on bpffs does."""
        self.state.unpin(path)

    def _next_id(self, call: calls.NextId) -> int:
        return self.state.registry.next_id(_KINDS[call.cmd.name.split("_")[0]], call.start)

    def _fd_by_id(self, call: calls.FdById) -> int:
        return self.table.open(self.state.registry.by_id(_KINDS[call.cmd.name.split("_")[0]], call.id))

    def _prog_info(self, call: calls.GetProgInfo) -> calls.ProgInfo:
        held = self.program_at(call.fd, "bpf(OBJ_GET_INFO_BY_FD)")
        program = held.program
        ids = {fd: m.id for fd, m in held.maps.items()}
        source = program.call
        code = program.code.size if program.code is not None else 0
        return calls.ProgInfo(
            type=source.prog_type,
            id=held.id,
            tag=program.tag,
            name=source.name,
            xlated=loader.show_ids(decode(source.insns), ids) if call.images else b"",
            xlated_len=len(source.insns),
            jited=program.code.image() if call.images and program.code is not None else b"",
            jited_len=code,
            load_time_ns=held.loaded_ns,
            created_by_uid=os.getuid() if hasattr(os, "getuid") else 0,
            map_ids=tuple(ids.values()),
            gpl_compatible=is_gpl(source.license),
            btf_id=held.btf.id if held.btf is not None else 0,
            func_info=source.func_info if call.images else b"",
            func_info_rec_size=source.func_info_rec_size,
            line_info=source.line_info if call.images else b"",
            line_info_rec_size=source.line_info_rec_size,
            verified_insns=program.verdict.processed,
            memlock=(len(source.insns) + 4095) // 4096 * 4096,
        )

    def _map_info(self, call: calls.GetMapInfo) -> calls.MapInfo:
        held = self.map_at(call.fd, "bpf(OBJ_GET_INFO_BY_FD)")
        spec = held.map.spec
        owner = held.map.owner if isinstance(held.map, ProgArray) else 0
        return calls.MapInfo(
            type=spec.map_type,
            id=held.id,
            key_size=spec.key_size,
            value_size=spec.value_size,
            max_entries=held.map.header.max_entries,
            map_flags=int(held.map.flags),
            name=spec.name,
            btf_id=held.btf.id if held.btf is not None else 0,
            btf_key_type_id=spec.btf_key_type_id,
            btf_value_type_id=spec.btf_value_type_id,
            map_extra=spec.map_extra,
            frozen=held.map.frozen,
            memlock=held.map.memlock,
            owner_prog_type=owner,
            owner_jited=bool(owner) and loader.compiles(),
        )

    def _btf_info(self, call: calls.GetBtfInfo) -> calls.BtfInfo:
        held = self.table.get(call.fd, BtfObject, "bpf(OBJ_GET_INFO_BY_FD)")
        return calls.BtfInfo(held.id, held.btf.raw)

    def _link_info(self, call: calls.GetLinkInfo) -> calls.LinkInfo:
        held = self.table.get(call.fd, LinkObject, "bpf(OBJ_GET_INFO_BY_FD)")
        return calls.LinkInfo(held.kind, held.id, held.program.id, dict(held.detail))

    def _raw_tracepoint(self, call: calls.RawTracepointOpen) -> int:
        program = self.program_at(call.prog_fd, "bpf(RAW_TRACEPOINT_OPEN)")
        if program.program.call.prog_type not in (ProgType.RAW_TRACEPOINT, ProgType.RAW_TRACEPOINT_WRITABLE):
            raise KernelError(errno.EINVAL, "bpf(RAW_TRACEPOINT_OPEN)", "the program is no raw tracepoint program")
        return self.table.add(self.state.events.raw_tracepoint(call.name, program))

    def _link_detach(self, call: calls.LinkDetach) -> None:
        self.table.get(call.link_fd, LinkObject, "bpf(LINK_DETACH)").detach()

    def stop_runs(self, *, leaving: bool = False) -> None:
        """End this client's test runs soon; `leaving`: those too that have not begun. For any thread."""
        self.leaving = self.leaving or leaving
        for env in list(self.runs.values()):
            env.stop = 1

    # -- descriptors and memory

    def finder(self, fd: int, key: str, value: str) -> Callable[[Any], Any] | None:
        """A function that looks keys up in a map; it ends with the descriptor."""
        held = self.map_at(fd, "map_lookup_elem", READ)
        made = held.map.finder(key, value)
        if made is not None:
            self._finders.setdefault(fd, []).append(made)
        return made

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        self._end_finders(fd)
        self.table.close(fd)

    def _end_finders(self, fd: int) -> None:
        for finder in self._finders.pop(fd, ()):
            close_finder(finder)

    def mmap(self, fd: int, length: int, *, writable: bool, offset: int = 0) -> Buffer:
        """Map a map's or perf event's memory."""
        held = self.table.get(fd, Object, "mmap")
        if isinstance(held, PerfEvent):
            return Window(held.view(length, offset))
        if not isinstance(held, MapObject):
            raise KernelError(errno.ENODEV, "mmap")
        self._may_map(fd, held.map, writable=writable)
        view = held.map.view(length, offset, writable=writable)
        return Window(view if writable else view.toreadonly(), held.map if writable else None)

    def _may_map(self, fd: int, held: Map, *, writable: bool) -> None:
        """Refuse what a descriptor, or the map, does not permit."""
        if not self.table.may(fd, READ) or (writable and not self.table.may(fd, WRITE)):
            raise KernelError(errno.EACCES, "mmap", "the descriptor does not permit it")
        if not held.MAPPABLE:
            raise held.no("mmap")
        if not self.table.may(fd, WRITE):
            raise KernelError(errno.EINVAL, "mmap", "memory is shared, and this descriptor is read-only")
        if writable and held.frozen:
            raise KernelError(errno.EPERM, "mmap", "the map is frozen")
        if writable and held.flags & MapFlag.RDONLY_PROG:
            raise KernelError(errno.EACCES, "mmap", "the map is read-only for programs, so that none may write to it behind them")

    def files(self, fd: int, length: int, offset: int) -> list[tuple[int, int, int, bool]]:
        """What mmap would map, as pieces of files for another process: (fd, offset, length, writable)."""
        held = self.table.get(fd, Object, "mmap")
        if isinstance(held, PerfEvent):
            return held.files(length, offset)
        if not isinstance(held, MapObject):
            raise KernelError(errno.ENODEV, "mmap")
        writable = not held.map.frozen and not held.map.flags & MapFlag.RDONLY_PROG
        self._may_map(fd, held.map, writable=writable)
        return held.map.files(length, offset, writable=writable)

    def ready(self, fds: Sequence[int]) -> list[int]:
        """Which of the descriptors have something to read; the others will write their event descriptor when they do."""
        sources = {fd: self.table.get(fd, Object, "poll") for fd in fds}
        for held in sources.values():
            held.arm()
        return [fd for fd, held in sources.items() if held.readable()]

    def event_file(self, fd: int) -> int:
        """The descriptor that tells when there is something to read (-1: none ever)."""
        return self.table.get(fd, Object, "poll").event_fd

    def wait(self, fds: Sequence[int], timeout_s: float | None) -> list[int]:
        """Wait until a descriptor has something to read; lets a held command go first."""
        self._alive("poll")
        self.lab.release()
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        sources = {fd: self.table.get(fd, Object, "poll") for fd in fds}
        while True:
            ready = [fd for fd, held in sources.items() if held.readable()]
            if ready:
                return ready
            over = self.lab.ended()
            if over:
                # What the command's last events wrote is there by now: look once more before saying that it is over.
                ready = [fd for fd, held in sources.items() if held.readable()]
                if ready:
                    return ready
                if self.lab.interrupt():
                    raise KeyboardInterrupt
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return []
            self._sleep(list(sources.values()), left, ended=over)

    def _sleep(self, sources: list[Object], left: float | None, *, ended: bool) -> None:
        poller = select.poll()
        for held in sources:
            if held.event_fd >= 0:
                poller.register(held.event_fd, select.POLLIN)
                held.arm()
        for fd in [] if ended else self.lab.descriptors():
            poller.register(fd, select.POLLIN)
        if any(held.readable() for held in sources):
            return
        events = poller.poll(None if left is None else max(left * 1000, 1))
        for fd, _ in events:
            if any(held.event_fd == fd for held in sources):
                try:
                    os.read(fd, 8)
                except BlockingIOError:
                    continue

    # -- events

    def perf_event_open(self, source: PerfSource, *, pid: int = -1, cpu: int = 0) -> int:
        """Open a perf event: a system call's function or tracepoint, or an output buffer."""
        self._alive("perf_event_open")
        return self.table.add(self.state.events.open(source, pid=pid, cpu=cpu))

    def perf_set_bpf(self, event_fd: int, prog_fd: int) -> None:
        """Attach a program to an event."""
        event = self.table.get(event_fd, PerfEvent, "ioctl(PERF_EVENT_IOC_SET_BPF)")
        self.state.events.attach(event, self.program_at(prog_fd, "ioctl(PERF_EVENT_IOC_SET_BPF)"), self.lab.process)

    def perf_enable(self, event_fd: int) -> None:
        """Enable an event (they are enabled when a program is attached)."""
        self.table.get(event_fd, PerfEvent, "ioctl(PERF_EVENT_IOC_ENABLE)")

    def xdp_attach(self, ifindex: int, prog_fd: int, flags: int = 0) -> None:
        """Attach (-1: detach) an XDP program to an interface of the laboratory."""
        wires = self.state.wires
        if wires is None:
            raise NotSupportedError(
                "net attach xdp",
                "the user kernel does not see live interfaces",
                hint="Replay a capture with `ebpf prog run OBJ --pcap FILE`, open a laboratory with `ebpf lab`, or use --kernel linux",
            )
        if prog_fd < 0:
            old = wires.detach(ifindex, flags)
        else:
            program = self.program_at(prog_fd, "net attach xdp")
            if program.program.call.prog_type != ProgType.XDP:
                raise KernelError(errno.EINVAL, "net attach xdp", "the program is no XDP program")
            old = wires.attach(ifindex, program, flags)
            self.state.registry.hold(program)
        if old is not None:
            self.state.registry.release(old)

    def xdp_query(self, ifindex: int | None = None) -> list[XdpState]:
        """What is attached to the laboratory's interfaces."""
        wires = self.state.wires
        return [s for s in wires.query() if ifindex in (None, s.ifindex)] if wires is not None else []

    def tc_query(self, ifindex: int | None = None) -> list[TcState]:
        """Nothing: traffic control is Linux's."""
        del ifindex
        return []

    def interfaces(self) -> Mapping[str, int]:
        """The network interfaces."""
        if self.state.wires is not None:
            return self.state.wires.interfaces()
        import socket

        return {name: index for index, name in socket.if_nameindex()}

    def read_file(self, path: str) -> bytes:
        """This kernel has no files of its own, and no structures that programs could read."""
        if path == VMLINUX:
            return b""
        raise FileNotFoundError(errno.ENOENT, "the user kernel has no such file", path)

    def syscall_function(self, syscall: str) -> str:
        """The function of a system call, named as on Linux."""
        return syscall_function(syscall)

    # -- trace

    def trace_open(self) -> int:
        """Begin to read what bpf_trace_printk writes."""
        self._alive("open trace_pipe")
        return self.table.add(TraceReader(self.state.trace))

    def trace_read(self, fd: int) -> bytes:
        """Take the lines that there are."""
        return self.table.get(fd, TraceReader, "read trace_pipe").take()

    # -- end

    def shutdown(self) -> None:
        """Close all descriptors and let a command go on without us; whoever owns the state detaches everything."""
        if self._closed or os.getpid() != self.state.pid:
            return
        self.lab.close()
        self._closed = True
        for fd in list(self._finders):
            self._end_finders(fd)
        self.table.close_all()
        if self._owner:
            self.state.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.shutdown()


class Job:
    """A call in two steps: work() needs nobody else's leave, finish() belongs to the thread that serves the kernel."""

    def __init__(self, kernel: UserKernel, needs: list[Object], work: Callable[[], Any], finish: Callable[[Any], Any]) -> None:
        self._registry = kernel.state.registry
        self._grace = kernel.state.grace
        self._needs = needs
        self.work = work
        self._finish = finish
        for held in needs:
            self._registry.hold(held)

    def finish(self, result: Any, failure: EbpfError | None) -> Any:
        """The call's answer, from what work() gave or raised."""
        try:
            if failure is not None:
                raise failure
            return self._finish(result)
        finally:
            for held in self._needs:
                self._registry.release(held)
            self._grace.poll()

    def here(self) -> Any:
        """Both steps at once."""
        try:
            result, failure = self.work(), None
        except EbpfError as error:
            result, failure = None, error
        except BaseException:
            for held in self._needs:
                self._registry.release(held)
            raise
        return self.finish(result, failure)


class Window:
    """A view of memory that this process has already: nothing to unmap. `written` is the map that it can write to."""

    def __init__(self, view: memoryview, written: Map | None = None) -> None:
        self._view = view
        self._written = written
        if written is not None:
            written.writable_views += 1

    @property
    def view(self) -> memoryview:
        """The memory."""
        return self._view

    def close(self) -> None:
        """Let the view go. Idempotent."""
        self._view.release()
        if self._written is not None:
            self._written.writable_views -= 1
            self._written = None


def _access(flags: int) -> int:
    """What a descriptor may that was made with these flags (0: everything)."""
    return READ if flags & MapFlag.RDONLY else WRITE if flags & MapFlag.WRONLY else 0


_KINDS: dict[str, type[Object]] = {"PROG": ProgramObject, "MAP": MapObject, "BTF": BtfObject, "LINK": LinkObject}
_COMMANDS: dict[type[Call[Any]], Callable[[UserKernel, Any], Any]] = {
    calls.MapCreate: UserKernel._map_create,
    calls.MapLookup: UserKernel._lookup,
    calls.MapUpdate: UserKernel._update,
    calls.MapDelete: UserKernel._delete,
    calls.MapNextKey: UserKernel._next_key,
    calls.MapLookupAndDelete: UserKernel._take,
    calls.MapFreeze: UserKernel._freeze,
    calls.MapLookupBatch: UserKernel._batch,
    calls.MapTakeBatch: UserKernel._take_batch,
    calls.MapUpdateBatch: UserKernel._update_batch,
    calls.MapDeleteBatch: UserKernel._delete_batch,
    calls.BtfLoad: UserKernel._btf_load,
    calls.ProgLoad: UserKernel._prog_load,
    calls.ProgTestRun: UserKernel._test_run,
    calls.ObjPin: UserKernel._pin,
    calls.ObjGet: UserKernel._obj_get,
    calls.NextId: UserKernel._next_id,
    calls.FdById: UserKernel._fd_by_id,
    calls.GetProgInfo: UserKernel._prog_info,
    calls.GetMapInfo: UserKernel._map_info,
    calls.GetBtfInfo: UserKernel._btf_info,
    calls.GetLinkInfo: UserKernel._link_info,
    calls.RawTracepointOpen: UserKernel._raw_tracepoint,
    calls.LinkDetach: UserKernel._link_detach,
}
