"""Find and run clang: ziglang's from PyPI, or the system's when asked for."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ebpf.errors import NotFoundError, NotSupportedError

_INSTALL = "pip install ziglang"
_OLDEST = 14


@dataclass(frozen=True, slots=True)
class Clang:
    """A clang to call: the command's first words, the include paths it needs, and its version text."""

    command: tuple[str, ...]
    includes: tuple[str, ...]
    version: str
    linker: tuple[str, ...]

    @property
    def isystem(self) -> list[str]:
        """The options that make it see its own and Linux's headers, and no others."""
        return ["-nostdinc", *(word for path in self.includes for word in ("-isystem", path))]


def run(command: Sequence[str], *, stdin: bytes | None = None, timeout_s: float = 120.0) -> subprocess.CompletedProcess[bytes]:
    """Run a tool with no shell and an empty environment, and return what it said.

    Raises NotSupportedError when it hangs or cannot be run.
    """
    try:
        return subprocess.run(
            command,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            env={"PATH": os.environ.get("PATH", ""), "TMPDIR": os.environ.get("TMPDIR", "/tmp"), "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        raise NotSupportedError(Path(command[0]).name, f"gave no answer within {timeout_s:.0f} s") from None
    except OSError as error:
        raise NotSupportedError(command[0], f"cannot be run: {(error.strerror or str(error)).lower()}") from error


def find_clang(wanted: str | None = None) -> Clang:
    """The clang to use: `wanted` (a path or name; EBPF_CLANG by default), else ziglang's.

    Raises NotFoundError when there is none.
    """
    wanted = wanted or os.environ.get("EBPF_CLANG") or ""
    return _system(wanted, os.environ.get("PATH", "")) if wanted else _zig()


@lru_cache(maxsize=1)
def _zig() -> Clang:
    from importlib.metadata import PackageNotFoundError, distribution
    from importlib.util import find_spec

    spec = find_spec("ziglang")
    home = Path(next(iter(spec.submodule_search_locations or ())) if spec else "")
    binary = home / ("zig.exe" if os.name == "nt" else "zig")
    if spec is None or not binary.is_file():
        error = NotFoundError("compiler", "clang")
        error.hint = f"{_INSTALL}, or set EBPF_CLANG to a clang of 14 or later"
        raise error
    try:
        version = distribution("ziglang").version
    except PackageNotFoundError:
        version = "?"
    libc = home / "lib" / "libc" / "include"
    includes = (home / "lib" / "include", libc / f"{_machine()}-linux-any", libc / "any-linux-any")
    return Clang((str(binary), "clang"), tuple(map(str, includes)), f"ziglang {version}", (str(binary), "ld.lld"))


def _machine() -> str:
    import platform

    return {"arm64": "aarch64", "aarch64": "aarch64"}.get(platform.machine().lower(), "x86")


@lru_cache(maxsize=4)
def _system(wanted: str, search: str) -> Clang:
    path = shutil.which(wanted, path=search)
    if path is None:
        error = NotFoundError("compiler", wanted, where="PATH")
        error.hint = f"unset EBPF_CLANG to use the one from PyPI ({_INSTALL})"
        raise error
    text = run([path, "--version"]).stdout.decode(errors="replace").splitlines()
    number = re.search(r"clang version (\d+)", text[0] if text else "")
    if number is None or int(number[1]) < _OLDEST:
        found = text[0] if text else "nothing"
        raise NotSupportedError(wanted, f"is not a clang of {_OLDEST} or later (it says {found!r})", hint="unset EBPF_CLANG")
    resource = run([path, "-print-resource-dir"]).stdout.decode().strip()
    try:
        linux = _zig().includes[1:]
    except NotFoundError:
        linux = ("/usr/include", f"/usr/include/{os.uname().machine}-linux-gnu")
    linker = shutil.which("ld.lld") or "ld.lld"
    return Clang((path,), (f"{resource}/include", *linux), text[0], (linker,))
