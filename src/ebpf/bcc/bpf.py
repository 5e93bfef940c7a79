"""`BPF(text=...)`: BCC's class over our loader, for either kernel."""

import atexit
import re
import sys
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ebpf import attach
from ebpf.bcc.cache import translated
from ebpf.bcc.constants import Constants
from ebpf.bcc.session import current_kernel, register
from ebpf.bcc.symbols import KernelSymbols
from ebpf.bcc.table import Table
from ebpf.errors import EbpfError, NotFoundError, NotSupportedError, UsageError
from ebpf.events import TraceLine, TracePipe
from ebpf.object import Collection, Program
from ebpf.sys.kernel import Kernel
from ebpf.uapi import ProgType

_PIPES: weakref.WeakKeyDictionary[Kernel, TracePipe] = weakref.WeakKeyDictionary()

_PREFIXES = ("sys_", "__x64_sys_", "__x32_compat_sys_", "__ia32_compat_sys_", "__arm64_sys_", "__s390x_sys_", "__s390_sys_")
Text = str | bytes


def _str(value: Text) -> str:
    return value.decode() if isinstance(value, bytes) else value


class Function:
    """A loaded program, as load_func gives it."""

    def __init__(self, bpf: "BPF", name: str, program: Program) -> None:
        self.bpf = bpf
        self.name = name.encode()
        self.program = program

    @property
    def fd(self) -> int:
        """The program's descriptor."""
        return self.program.fd


class BPF(Constants):
    """A BCC program: compiled, its maps made, its prefixed functions attached.

    Close it with cleanup(), or use it in a with statement; what is left is cleaned up when Python ends. Raises CompileError with
    clang's diagnostics for wrong C, VerifierError for a refused program.
    """

    def __init__(
        self,
        src_file: Text = b"",
        hdr_file: Text = b"",
        text: Text | None = None,
        debug: int = 0,
        cflags: Sequence[Text] = (),
        usdt_contexts: Sequence[Any] = (),
        allow_rlimit: bool = True,
        device: Text | None = None,
        attach_usdt_ignore_pid: bool = False,
    ) -> None:
        del allow_rlimit, attach_usdt_ignore_pid, hdr_file
        if usdt_contexts:
            raise NotSupportedError("BPF(usdt_contexts=...)", "USDT probes are not built yet")
        if device:
            raise NotSupportedError("BPF(device=...)", "programs are not offloaded to devices yet")
        source = _str(text) if text is not None else self._read(_str(src_file))
        self.debug = debug
        self._own_kernel: Kernel | None = None
        self._tables: dict[str, Table] = {}
        self._links: dict[tuple[str, str], list[attach.Link]] = {}
        self._functions: dict[str, Function] = {}
        self._symbols: KernelSymbols | None = None
        self._owned: list[TracePipe] = []
        self._closed = False
        self._began = time.monotonic()
        kernel = current_kernel()
        if kernel is None:
            from ebpf.kernels import open_kernel

            kernel = self._own_kernel = open_kernel()
        self.kernel = kernel
        self._collection: Collection | None = None
        if not register(self):
            atexit.register(self.cleanup)
        try:
            if source.strip():
                made = translated(source, kernel, cflags=[_str(f) for f in cflags])
                self._events = made.events
                self._collection = Collection.load(made.spec, kernel, load=False)
                self._names = made.functions
                if "printk" in source:
                    # From now on lines are kept; who may not read them is told when it does.
                    with suppress(EbpfError):
                        self.trace_open()
                self._auto_attach()
            else:
                self._events, self._names = {}, ()
        except BaseException:
            self.cleanup()
            raise

    @staticmethod
    def _read(name: str) -> str:
        if not name:
            raise UsageError("BPF(): give text= or src_file=")
        for folder in (Path(), Path(sys.argv[0]).parent):
            if (folder / name).is_file():
                return (folder / name).read_text()
        raise NotFoundError("file", name)

    def _programs(self) -> Mapping[str, Program]:
        return self._collection.programs if self._collection is not None else {}

    # -- functions and attaching

    def load_func(self, func_name: Text, prog_type: int, device: Text | None = None, attach_type: int = -1) -> Function:
        """Load one function as a program of a type."""
        del device, attach_type
        name = _str(func_name)
        if name not in self._functions:
            program = self._program(name, ProgType(prog_type))
            program.load()
            self._functions[name] = Function(self, name, program)
        return self._functions[name]

    def load_funcs(self, prog_type: int = int(ProgType.KPROBE)) -> list[Function]:
        """Load all functions."""
        return [self.load_func(name, prog_type) for name in self._names]

    def _program(self, name: str, type_: ProgType) -> Program:
        """The program of a function, as a type that its attachment says."""
        programs = self._programs()
        if name not in programs:
            raise NotFoundError("function", name, where="the program's text", near=list(programs))
        program = programs[name]
        if not program.loaded and program.spec.type != type_:
            from dataclasses import replace

            program.spec = replace(program.spec, type=int(type_))
        return program

    def _hold(self, kind: str, target: str, link: attach.Link) -> None:
        self._links.setdefault((kind, target), []).append(link)

    def _auto_attach(self) -> None:
        for name in self._names:
            if name.startswith("kprobe__"):
                self.attach_kprobe(event=self.fix_syscall_fnname(name[8:]), fn_name=name)
            elif name.startswith("kretprobe__"):
                self.attach_kretprobe(event=self.fix_syscall_fnname(name[11:]), fn_name=name)
            elif name.startswith("tracepoint__"):
                self.attach_tracepoint(tp=name[12:].replace("__", ":", 1), fn_name=name)
            elif name.startswith("raw_tracepoint__"):
                self.attach_raw_tracepoint(tp=name[16:], fn_name=name)

    def attach_kprobe(self, event: Text = b"", event_off: int = 0, fn_name: Text = b"", event_re: Text = b"") -> "BPF":
        """Run a function whenever a kernel function is entered."""
        return self._kprobe(_str(event), _str(fn_name), _str(event_re), ret=False, offset=event_off)

    def attach_kretprobe(self, event: Text = b"", fn_name: Text = b"", event_re: Text = b"", maxactive: int = 0) -> "BPF":
        """Run a function whenever a kernel function returns."""
        del maxactive
        return self._kprobe(_str(event), _str(fn_name), _str(event_re), ret=True, offset=0)

    def _kprobe(self, event: str, fn_name: str, event_re: str, *, ret: bool, offset: int) -> "BPF":
        if event_re:
            attached = 0
            for name in self.get_kprobe_functions(event_re.encode()):
                try:
                    self._kprobe(name.decode(), fn_name, "", ret=ret, offset=0)
                except EbpfError:
                    continue
                attached += 1
            if not attached:
                raise NotFoundError("kernel function", event_re)
            return self
        program = self._program(fn_name, ProgType.KPROBE)
        link = attach.kprobe(program, event, ret=ret, offset=offset)
        self._hold("r" if ret else "p", event, link)
        return self

    def _detach(self, kind: str, target: str) -> None:
        links = self._links.pop((kind, target), None)
        if links is None:
            raise NotFoundError("attachment", target)
        for link in links:
            link.close()

    def detach_kprobe(self, event: Text, fn_name: Text | None = None) -> None:
        """Undo attach_kprobe."""
        del fn_name
        self._detach("p", _str(event))

    def detach_kretprobe(self, event: Text, fn_name: Text | None = None) -> None:
        """Undo attach_kretprobe."""
        del fn_name
        self._detach("r", _str(event))

    def attach_tracepoint(self, tp: Text = b"", tp_re: Text = b"", fn_name: Text = b"") -> "BPF":
        """Run a function at a tracepoint, `category:event`."""
        if tp_re:
            raise NotSupportedError("attach_tracepoint(tp_re=...)", "tracepoints are attached by name yet")
        program = self._program(_str(fn_name), ProgType.TRACEPOINT)
        self._hold("t", _str(tp), attach.tracepoint(program, _str(tp)))
        return self

    def detach_tracepoint(self, tp: Text) -> None:
        """Undo attach_tracepoint."""
        self._detach("t", _str(tp))

    def attach_raw_tracepoint(self, tp: Text = b"", fn_name: Text = b"") -> "BPF":
        """Run a function at a raw tracepoint."""
        program = self._program(_str(fn_name), ProgType.RAW_TRACEPOINT)
        self._hold("w", _str(tp), attach.raw_tracepoint(program, _str(tp)))
        return self

    def detach_raw_tracepoint(self, tp: Text) -> None:
        """Undo attach_raw_tracepoint."""
        self._detach("w", _str(tp))

    def attach_xdp(self, dev: Text, fn: Function, flags: int = 0) -> None:
        """Run a function on the packets of an interface."""
        mode = {0: "", 1 << 1: "generic", 1 << 2: "driver", 1 << 3: "offload"}.get(flags & 0xE, "")
        self._hold("x", _str(dev), attach.xdp(fn.program, _str(dev), mode=mode, replace=True))

    def remove_xdp(self, dev: Text, flags: int = 0) -> None:
        """Undo attach_xdp."""
        del flags
        self._detach("x", _str(dev))

    def num_open_kprobes(self) -> int:
        """How many kprobes are attached."""
        return sum(len(links) for (kind, _), links in self._links.items() if kind in "pr")

    def num_open_tracepoints(self) -> int:
        """How many tracepoints are attached."""
        return sum(len(links) for (kind, _), links in self._links.items() if kind == "t")

    def _later(self, what: str) -> NotSupportedError:
        return NotSupportedError(what, "is not built yet", hint="kprobes, tracepoints, raw tracepoints and XDP are")

    def attach_uprobe(self, *_: Any, **__: Any) -> None:
        """Functions of processes come later."""
        raise self._later("attach_uprobe")

    def attach_uretprobe(self, *_: Any, **__: Any) -> None:
        """Functions of processes come later."""
        raise self._later("attach_uretprobe")

    def attach_perf_event(self, *_: Any, **__: Any) -> None:
        """Sampling comes later."""
        raise self._later("attach_perf_event")

    # -- names

    def get_syscall_prefix(self) -> bytes:
        """What this kernel's system call functions begin with."""
        return self.kernel.syscall_function("").encode()

    def get_syscall_fnname(self, name: Text) -> bytes:
        """The kernel function of a system call: "execve" gives b"__x64_sys_execve"."""
        return self.kernel.syscall_function(_str(name)).encode()

    def fix_syscall_fnname(self, name: Text) -> bytes:
        """Replace another kernel's prefix of a system call's function by this one's."""
        text = _str(name)
        for prefix in _PREFIXES:
            if text.startswith(prefix):
                return self.get_syscall_fnname(text[len(prefix) :])
        return text.encode()

    def get_kprobe_functions(self, event_re: bytes) -> list[bytes]:
        """The kernel functions whose whole name matches."""
        pattern = re.compile(_str(event_re))
        return [name for name in self._kernel_symbols().functions() if pattern.fullmatch(name.decode())]

    def _kernel_symbols(self) -> KernelSymbols:
        if self._symbols is None:
            self._symbols = KernelSymbols(self.kernel)
        return self._symbols

    def ksym(self, addr: int, show_module: bool = False, show_offset: bool = False) -> bytes:
        """The kernel function at an address."""
        return self._kernel_symbols().name(addr, show_module=show_module, show_offset=show_offset)

    def ksymname(self, name: Text) -> int:
        """The address of a kernel symbol, -1 if there is none."""
        return self._kernel_symbols().address(_str(name).encode())

    def tracepoint_exists(self, category: Text, event: Text) -> bool:
        """Whether the kernel has a tracepoint."""
        try:
            self.kernel.read_file(f"/sys/kernel/tracing/events/{_str(category)}/{_str(event)}/id")
        except OSError:
            return False
        return True

    # -- tables

    def get_table(self, name: Text, keytype: Any = None, leaftype: Any = None, reducer: Any = None) -> Table:
        """A table of the program."""
        del reducer
        text = _str(name)
        if self._collection is None or text not in self._collection.maps:
            raise KeyError(text)
        return Table(self._collection.maps[text], keytype=keytype, leaftype=leaftype, event_type=self._events.get(text, 0))

    def __getitem__(self, key: Text) -> Table:
        name = _str(key)
        if name not in self._tables:
            self._tables[name] = self.get_table(name)
        return self._tables[name]

    def __setitem__(self, key: Text, table: Table) -> None:
        self._tables[_str(key)] = table

    def __delitem__(self, key: Text) -> None:
        del self._tables[_str(key)]

    def __len__(self) -> int:
        return len(self._collection.maps) if self._collection is not None else 0

    def __iter__(self) -> Iterator[str]:
        return iter(self._collection.maps if self._collection is not None else {})

    # -- events

    def perf_buffer_poll(self, timeout: int = -1) -> None:
        """Wait for events of the open perf buffers (`timeout` in milliseconds, -1 for ever) and call the callbacks."""
        tables = [t for t in self._tables.values() if t.perf is not None]
        self._poll(tables, [fd for t in tables for fd in (t.perf.fds if t.perf is not None else [])], timeout)

    def ring_buffer_poll(self, timeout: int = -1) -> int:
        """Wait for events of the open ring buffers and call the callbacks; returns how many."""
        tables = [t for t in self._tables.values() if t.ring is not None]
        return self._poll(tables, [t.ring.fd for t in tables if t.ring is not None], timeout)

    kprobe_poll = perf_buffer_poll

    def perf_buffer_consume(self) -> None:
        """Call the callbacks for the events that there are, without waiting."""
        for table in self._tables.values():
            if table.perf is not None:
                table.deliver()

    def ring_buffer_consume(self) -> int:
        """The same for ring buffers; returns how many."""
        return sum(t.deliver() for t in self._tables.values() if t.ring is not None)

    def _poll(self, tables: list[Table], fds: list[int], timeout: int) -> int:
        if not tables:
            raise UsageError("nothing to poll: open a perf or ring buffer first")
        count = sum(t.deliver() for t in tables)
        if not count and self.kernel.wait(fds, None if timeout < 0 else timeout / 1000):
            count = sum(t.deliver() for t in tables)
        return count

    # -- the trace

    def trace_open(self, nonblocking: bool = False) -> TracePipe:
        """The trace's lines. All BPF objects of a kernel share them, as readers of trace_pipe do."""
        del nonblocking
        pipe = _PIPES.get(self.kernel)
        if pipe is None or pipe.closed:
            pipe = _PIPES[self.kernel] = TracePipe(self.kernel)
            self._owned.append(pipe)
        return pipe

    def trace_readline(self, nonblocking: bool = False) -> bytes | None:
        """The next line as it stands in the trace (None if there is none and `nonblocking`)."""
        pipe = self.trace_open()
        return pipe.pending() if nonblocking else pipe.read()

    trace_readline_open = trace_open

    def trace_fields(
        self, nonblocking: bool = False
    ) -> tuple[bytes | None, int | None, int | None, bytes | None, float | None, bytes | None]:
        """The next line taken apart: task, pid, cpu, flags, seconds, message."""
        while True:
            line = self.trace_readline(nonblocking)
            if line is None:
                return None, None, None, None, None, None
            parsed = TraceLine.parse(line)
            if parsed is not None:
                return parsed.task.lstrip(), parsed.pid, parsed.cpu, parsed.flags, parsed.timestamp_s, parsed.message

    def trace_print(self, fmt: str | None = None) -> None:
        """Print the trace for ever: lines as they are, or by `fmt` of trace_fields' values ("{1} {5}")."""
        while True:
            if fmt:
                fields = self.trace_fields()
                print(fmt.format(*fields))
            else:
                print(self.trace_readline())
            sys.stdout.flush()

    # -- the end

    def cleanup(self) -> None:
        """Detach everything and close the maps. Idempotent."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.cleanup)
        for table in self._tables.values():
            table.close()
        for links in self._links.values():
            for link in links:
                link.close()
        self._links.clear()
        for pipe in self._owned:
            pipe.close()
        if self._collection is not None:
            self._collection.close()
        if self._own_kernel is not None:
            self._own_kernel.shutdown()

    close = cleanup

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.cleanup()

    @staticmethod
    def monotonic_time() -> int:
        """CLOCK_MONOTONIC in nanoseconds: what bpf_ktime_get_ns counts."""
        return time.monotonic_ns()

    @staticmethod
    def support_raw_tracepoint() -> bool:
        """Whether raw tracepoints can be used."""
        return False

    @staticmethod
    def support_kfunc() -> bool:
        """Whether fentry programs can be used."""
        return False
