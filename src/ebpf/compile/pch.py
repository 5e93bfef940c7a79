"""Precompiled headers: a long preamble is parsed once, kept in the cache, and then costs a few milliseconds."""

import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ebpf.compile.c import INCLUDE, failure, options, parse_diagnostics
from ebpf.toolchain import Clang, cache_folder, find_clang, run, write_atomically


@dataclass(frozen=True, slots=True)
class Pch:
    """A precompiled header: pass it to `compile_c` and `ast_json`. `name` stands for its text in messages."""

    path: Path
    header: Path
    name: str

    def __fspath__(self) -> str:
        return str(self.path)

    @classmethod
    def build(
        cls,
        text: str,
        name: str,
        *,
        flags: Sequence[str] = (),
        includes: Sequence[str | os.PathLike[str]] = (),
        defines: Sequence[str] = (),
        cpu: str = "v3",
        debug: bool = True,
        clang: Clang | None = None,
    ) -> Self:
        """Precompile the header `text`, or find it in the cache. What it is used with must have the same options.

        Raises CompileError if the text does not compile.
        """
        clang = clang or find_clang()
        chosen = options(clang, cpu=cpu, debug=debug, flags=flags, includes=includes, defines=defines)
        stem = cache_folder("pch") / _key(clang, chosen, text, name)
        self = cls(stem.with_suffix(".pch"), stem.with_suffix(".h"), name)
        if self.path.is_file() and self.header.is_file():
            return self
        # clang looks for the header again when the result is used: it stays beside it, and is never rewritten with other bytes.
        write_atomically(self.header, (text + "\n").encode())
        with tempfile.TemporaryDirectory(prefix="ebpf-pch-") as folder:
            out = Path(folder) / "out.pch"
            answer = run([*clang.command, *chosen, "-Xclang", "-fno-pch-timestamp", "-x", "c-header", str(self.header), "-o", str(out)])
            output = answer.stderr.decode("utf-8", "replace")
            if answer.returncode:
                raise failure(parse_diagnostics(output, {str(self.header): name}), output)
            write_atomically(self.path, out.read_bytes())
        return self


def _key(clang: Clang, chosen: Sequence[str], text: str, name: str) -> str:
    """What a precompiled header depends on: compiler, options, its text, and the headers of ours that it may include."""
    digest = hashlib.sha256()
    binary = os.stat(clang.command[0])
    ours = (f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in sorted((INCLUDE / "bpf").iterdir()))
    for part in ("1", clang.version, f"{binary.st_size} {binary.st_mtime_ns}", *chosen, *ours, name, text):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:32]
