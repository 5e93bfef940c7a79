"""Compiling the runtime: once, at install into the package's folder, or at first use into the cache."""

import hashlib
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from ebpf.errors import NotSupportedError
from ebpf.toolchain import cache_folder, find_clang, run, write_atomically

SOURCES = Path(__file__).parent / "c"
BUILT = Path(__file__).parent / "built"
#: The oldest processors that the runtime is compiled for.
_PROCESSOR = {"x86_64": ("-march=x86-64-v2",)}


def _machine() -> str:
    return {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())


@lru_cache(maxsize=1)
def sources() -> tuple[tuple[str, bytes], ...]:
    """The runtime's C files, by name."""
    return tuple((path.name, path.read_bytes()) for path in sorted(SOURCES.iterdir()) if path.suffix in (".c", ".h"))


@lru_cache(maxsize=1)
def key() -> str:
    """What a built runtime depends on: its sources, the machine and this file's way of building."""
    digest = hashlib.sha256(f"1 {platform.system()} {platform.machine()}".encode())
    for name, data in sources():
        digest.update(name.encode() + b"\0" + data)
    return digest.hexdigest()[:24]


def library_path() -> Path:
    """The runtime's shared library: the package's own if it fits, else the cache's, built if need be."""
    name = f"rt-{key()}.so"
    own = BUILT / name
    if own.is_file():
        return own
    cached = cache_folder("runtime") / name
    if not cached.is_file():
        write_atomically(cached, build())
    return cached


def build() -> bytes:
    """Compile and link the runtime. Raises NotSupportedError with the compiler's words if that fails."""
    unity = "".join(f'#include "{name}"\n' for name, _ in sources() if name.endswith(".c"))
    words = ("-fvisibility=hidden", "-fno-stack-protector", "-Wall", "-Wextra", "-Werror")
    return shared_library(unity, (*_PROCESSOR.get(_machine(), ()), *words))


def shared_library(text: str, options: Sequence[str] = ()) -> bytes:
    """Compile C (at -O2, against glibc's headers and the runtime's) and link it. Raises NotSupportedError with the compiler's words."""
    clang = find_clang(None)
    machine = _machine()
    if platform.system() != "Linux" or machine not in ("x86_64", "aarch64"):
        raise NotSupportedError("the native runtime", f"is not built for {platform.system()} on {machine} yet")
    home = Path(clang.includes[0]).parent
    libc = home / "libc" / "include"
    includes = (
        home / "include",
        libc / f"{'x86' if machine == 'x86_64' else machine}-linux-gnu",
        libc / "generic-glibc",
        *map(Path, clang.includes[1:]),
    )
    paths = [word for path in includes for word in ("-isystem", str(path))]
    with tempfile.TemporaryDirectory(prefix="ebpf-rt-") as folder:
        out, library = os.path.join(folder, "rt.o"), os.path.join(folder, "rt.so")
        compiler = [*clang.command, "-target", f"{machine}-linux-gnu", "-O2", "-std=gnu11", "-fPIC", "-D_GNU_SOURCE", "-nostdinc", *paths]
        steps = (
            [*compiler, "-I", str(SOURCES), *options, "-x", "c", "-c", "-", "-o", out],
            [*clang.linker, "-shared", "-z", "now", "-z", "relro", "--strip-all", "-o", library, out],
        )
        for step in steps:
            answer = run(step, stdin=text.encode())
            if answer.returncode:
                raise NotSupportedError("the native runtime", "does not compile: " + answer.stderr.decode("utf-8", "replace").strip()[:800])
        return Path(library).read_bytes()


def install() -> Path:
    """Build into the package's folder (the cache's where that cannot be written) and return the library's path."""
    name = f"rt-{key()}.so"
    try:
        BUILT.mkdir(exist_ok=True)
        target = BUILT / name
        if not target.is_file():
            write_atomically(target, build())
            target.chmod(0o755)
        for old in BUILT.glob("rt-*.so"):
            if old != target:
                old.unlink()
    except OSError:
        return library_path()
    return target


def main() -> int:
    """`python -m ebpf.engine.runtime`: build now, say where."""
    sys.stderr.write(f"{install()}\n")
    return 0
