"""Real programs as cases: those of this project, Debian's xdp-tools, and the tools of bpfcc through our BCC dialect."""

import ast
import io
import re
import runpy
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from bench.agreement import embedded
from bench.agreement.case import Case
from bench.agreement.folder import cache
from bench.agreement.objects import recorded
from bench.agreement.record import Keeper, Kept, case_of, cases_of_spec

from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import EbpfError
from ebpf.kernels.linux import LinuxKernel
from ebpf.uapi import ProgType

_TOP = Path(__file__).parents[2]
_TOOL_S = 120


def project() -> Iterator[Case]:
    """The C of the examples, the tests, the benchmarks and the documents."""
    with LinuxKernel() as kernel:
        for name, text in _texts():
            try:
                spec = read_object(compile_c(f"{name}.c", text=text).object, name)
            except EbpfError as error:
                print(f"{name}: {str(error).splitlines()[0]}", file=sys.stderr)
                continue
            yield from cases_of_spec(kernel, "project", name, spec)


def _texts() -> Iterator[tuple[str, str]]:
    tracked = subprocess.run(["git", "ls-files"], cwd=_TOP, capture_output=True, text=True, check=True).stdout.split()
    for each in tracked:
        path = _TOP / each
        if not each.endswith((".c", ".py", ".md")) or "SEC(" not in path.read_text() or each.startswith("bench/agreement"):
            continue
        if each.endswith(".c"):
            yield each, path.read_text()
        elif each.endswith(".md"):
            for number, text in enumerate(re.findall(r"^```c[^\n]*\n(.*?)^```", path.read_text(), re.M | re.S)):
                yield f"{each}:{number}", text
        else:
            strings = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
            for number, text in enumerate(text for text in strings if isinstance(text, str) and "SEC(" in text and "#include" in text):
                yield f"{each}:{number}", text


def package(name: str) -> Path:
    """The files of a Debian package, fetched and unpacked."""
    folder = cache() / "src" / "packages"
    out = folder / name
    if not out.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-q", name], cwd=folder, check=True)
        subprocess.run(["dpkg-deb", "-x", str(max(folder.glob(f"{name}_*.deb"))), str(out)], check=True)
    return out


def xdp_tools() -> Iterator[Case]:
    """The objects that xdp-tools installs."""
    yield from recorded("xdp-tools", ((path.name, path) for path in sorted(package("libxdp1").rglob("*.o"))))


#: Debian's packages whose programs carry objects.
CARRIERS = ("libbpf-tools", "pcp", "libknot13")


def embedded_objects() -> list[tuple[str, Path]]:
    """The objects that programs of Debian's packages carry, with names."""
    out = []
    for name in CARRIERS:
        folder = package(name)
        out += [(f"{name}/{path.name}", path) for path in embedded.objects(folder, folder.with_name(f"{name}.objects"))]
    return out


def embedded_programs() -> Iterator[Case]:
    """The programs of those objects."""
    yield from recorded("embedded", embedded_objects())


def bcc_tools() -> Iterator[Case]:
    """What the tools of bpfcc would load, with no arguments; nothing is attached."""
    for tool in sorted(package("bpfcc-tools").glob("usr/sbin/*-bpfcc")):
        if b"python" not in tool.read_bytes()[:64]:
            continue
        with get_context("fork").Pool(1) as pool:
            try:
                rows, end = pool.apply_async(_run_tool, (str(tool),)).get(_TOOL_S)
            except TimeoutError:
                rows, end = [], "took too long"
        if not rows:
            print(f"{tool.name}: nothing loaded: {end}", file=sys.stderr)
        yield from map(Case.of, rows)


class _Done(BaseException):
    """A tool came to where it waits for events."""


def _run_tool(path: str) -> tuple[list[dict[str, Any]], str]:
    """In a process of its own: run a tool with a BPF class that loads and attaches nothing."""
    from ebpf.bcc.session import install, session

    tool = Path(path).name
    rows: list[dict[str, Any]] = []
    end = "ended"
    with LinuxKernel() as kernel:
        keeper = Keeper(kernel)

        def keep(bpf: Any, name: str, kind: ProgType) -> None:
            program = bpf._program(name.decode() if isinstance(name, bytes) else name, kind)
            try:
                program.load()
            except Kept:
                assert keeper.load is not None
                rows.append(
                    case_of(kernel, f"bcc-tools/{tool}:{program.name}", "bcc-tools", tool, program.name, keeper.load, keeper, "").row()
                )

        _replace_attachments(keep)
        sys.argv = [path]
        try:
            with redirect_stdout(io.StringIO()), session(keeper), install():  # type: ignore[arg-type]
                runpy.run_path(path, run_name="__main__")
        except (_Done, SystemExit, KeyboardInterrupt) as stopped:
            end = f"{type(stopped).__name__} {stopped}"
        except Exception as error:  # noqa: BLE001  # a tool may fail in any way; what it loaded before counts
            end = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return rows, end


def _replace_attachments(keep: Any) -> None:
    from ebpf.bcc.bpf import BPF
    from ebpf.bcc.table import Table

    def attach(kind: ProgType) -> Any:
        def attached(self: Any, *words: Any, fn_name: Any = b"", **rest: Any) -> Any:
            keep(self, fn_name or words[-1], kind)
            return self

        return attached

    def stop(*_: Any, **__: Any) -> NoReturn:
        raise _Done

    def kprobe(self: Any, event: str, fn_name: str, event_re: str, *, ret: bool, offset: int) -> Any:
        keep(self, fn_name, ProgType.KPROBE)
        return self

    def load_func(self: Any, name: Any, kind: int, *_: Any, **__: Any) -> Any:
        keep(self, name, ProgType(kind))
        return self

    kinds = {"tracepoint": ProgType.TRACEPOINT, "raw_tracepoint": ProgType.RAW_TRACEPOINT, "perf_event": ProgType.PERF_EVENT}
    kinds |= {"uprobe": ProgType.KPROBE, "uretprobe": ProgType.KPROBE, "xdp": ProgType.XDP}
    for name, kind in kinds.items():
        setattr(BPF, f"attach_{name}", attach(kind))
    setattr(BPF, "_kprobe", kprobe)  # noqa: B010  # methods of a class are replaced here, on purpose
    setattr(BPF, "load_func", load_func)  # noqa: B010
    for name in ("perf_buffer_poll", "ring_buffer_poll", "trace_print", "trace_fields", "trace_readline", "kprobe_poll"):
        setattr(BPF, name, stop)
    setattr(Table, "open_perf_buffer", lambda *_, **__: None)  # noqa: B010
    # Only the tool's own sleep ends it: clang is waited for by sleeping, too.
    clock = ModuleType("time")
    vars(clock).update({**vars(time), "sleep": stop})
    sys.modules["time"] = clock
