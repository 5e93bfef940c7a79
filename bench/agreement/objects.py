"""The selftests in C as cases: compiled by the package's clang against the running kernel's types, and what our loader would load."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.agreement.case import Case
from bench.agreement.folder import cache
from bench.agreement.record import cases_of
from bench.agreement.sources import selftests

from ebpf.sys.kernel import VMLINUX
from ebpf.toolchain.clang import find_clang

_LIBC = ("-idirafter", "/usr/include/x86_64-linux-gnu", "-idirafter", "/usr/include")
_FLAGS = {"test_l4lb_noinline": ["-fno-inline"], "test_xdp_noinline": ["-fno-inline"]}


def cases(name: str, release: str, wanted: Callable[[str], bool]) -> Iterator[Case]:
    """The programs of those progs/*.c of a release whose name is wanted."""
    yield from _compiled(name, release, [each for each in (selftests(release) / "progs").glob("*.c") if wanted(each.name)], release)


def newer(name: str, release: str) -> Iterator[Case]:
    """The programs of src/newer/progs/*.c of the cache, if somebody put newer selftests there; the headers are a release's."""
    yield from _compiled(name, release, (cache() / "src/newer/progs").glob("*.c"), "newer")


def _compiled(name: str, release: str, files: Iterable[Path], folder: str) -> Iterator[Case]:
    tests, sources = selftests(release), sorted(files)
    headers, build = cache() / "build" / release, cache() / "build" / folder / "progs"
    for each in (headers, build):
        each.mkdir(parents=True, exist_ok=True)
    _headers(tests, headers)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda source: _compile(source, tests, headers, build), sources))
    yield from recorded(name, zip((each.name for each in sources), objects, strict=True))


def recorded(name: str, objects: Iterable[tuple[str, Path | None]]) -> Iterator[Case]:
    """The programs of object files (None: it did not compile); what cannot be opened is told on stderr."""
    from ebpf.kernels.linux import LinuxKernel

    with LinuxKernel() as kernel:
        for file, path in objects:
            if path is None:
                print(f"{file}: does not compile", file=sys.stderr)
                continue
            yield from cases_of(kernel, name, file, path)


def _headers(tests: Path, build: Path) -> None:
    top = tests.parents[3]
    defs, types = build / "bpf_helper_defs.h", build / "vmlinux.h"
    if not defs.exists():
        script = [sys.executable, str(top / "scripts/bpf_doc.py"), "--header", "--file", str(top / "include/uapi/linux/bpf.h")]
        defs.write_bytes(subprocess.run(script, check=True, capture_output=True).stdout)
    if not types.exists():
        dump = ["bpftool", "btf", "dump", "file", VMLINUX, "format", "c"]
        types.write_bytes(subprocess.run(dump, check=True, capture_output=True).stdout)


def _compile(source: Path, tests: Path, headers: Path, build: Path) -> Path | None:
    out = build / (source.stem + ".o")
    if not out.exists() or out.stat().st_mtime < source.stat().st_mtime:
        clang = find_clang()
        tools = tests.parents[2]
        command = [
            *(*clang.command, "-target", "bpfel-freestanding", "-mcpu=v3", "-g", "-O2", "-w", "-c", *_FLAGS.get(source.stem, ())),
            *("-D__TARGET_ARCH_x86", "-DENABLE_ATOMICS_TESTS", f"-I{headers}", f"-I{tests}", f"-I{tools / 'lib'}"),
            *(f"-I{tools / 'include/uapi'}", *clang.isystem, *_LIBC, str(source), "-o", str(out)),
        ]
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        if said.returncode:
            out.unlink(missing_ok=True)
            (build / (source.stem + ".err")).write_text(said.stderr)
            return None
    return out
