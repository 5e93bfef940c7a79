"""Compiling the runtime: once, at install into the package's folder, or at first use into the cache."""

import hashlib
import os
import platform
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

from ebpf.errors import NotSupportedError
from ebpf.toolchain import Clang, cache_folder, find_clang, run, write_atomically

SOURCES = Path(__file__).parent / "c"
BUILT = Path(__file__).parent / "built"


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


def build(clang: Clang | None = None) -> bytes:
    """Compile and link the runtime. Raises NotSupportedError with the compiler's words if that fails."""
    clang = clang or find_clang(None)
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
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
    unity = "".join(f'#include "{SOURCES / name}"\n' for name, _ in sources() if name.endswith(".c"))
    with tempfile.TemporaryDirectory(prefix="ebpf-rt-") as folder:
        out = os.path.join(folder, "rt.o")
        library = os.path.join(folder, "rt.so")
        steps = (
            [
                *clang.command,
                "-target",
                f"{machine}-linux-gnu",
                *(["-march=x86-64-v2"] if machine == "x86_64" else []),
                "-O2",
                "-std=gnu11",
                "-fPIC",
                "-fvisibility=hidden",
                "-fno-stack-protector",
                "-D_GNU_SOURCE",
                "-nostdinc",
                *(word for path in includes for word in ("-isystem", str(path))),
                "-I",
                str(SOURCES),
                "-Wall",
                "-Wextra",
                "-Werror",
                "-x",
                "c",
                "-c",
                "-",
                "-o",
                out,
            ],
            [*clang.linker, "-shared", "-z", "now", "-z", "relro", "--strip-all", "-o", library, out],
        )
        for step in steps:
            answer = run(step, stdin=unity.encode())
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
