"""C to an eBPF object, with clang's diagnostics in terms of the user's own text."""

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ebpf.compile.vmlinux import NAME as VMLINUX_H
from ebpf.compile.vmlinux import header_folder, program_text
from ebpf.errors import CompileError, Diagnostic, NotFoundError, UsageError
from ebpf.toolchain import Clang, find_clang, run

if TYPE_CHECKING:
    from ebpf.compile.pch import Pch

INCLUDE = Path(__file__).parent / "include"
# Text that is no file: its name in the line information is what the caller said, wherever we run.
_NO_FOLDER = ("-fdebug-compilation-dir=/no", "-fdebug-prefix-map=/no=")
# What clang says where a type, a member or an enumerator is not there.
_LACKING = re.compile(r"unknown type name|incomplete|undeclared|no member named|undefined internal|invalid application|implicit")
_MESSAGE = re.compile(r"^(?P<path>.+?):(?P<line>\d+):(?P<column>\d+): (?P<kind>fatal error|error|warning|note): (?P<text>.*)$")
_BARE = re.compile(r"^(?:[\w.+-]+: )?(?P<kind>fatal error|error|warning|note): (?P<text>.*)$")
_HINTS = (
    ("changed binding to STB_GLOBAL", 'a variable cannot be named as its section is: char LICENSE[] SEC("license") = "GPL";'),
    ("'gnu/stubs-32.h' file not found", "eBPF programs cannot use the C library: include linux/*.h instead"),
)


@dataclass(frozen=True, slots=True)
class Compiled:
    """An object file's bytes, and what clang said besides."""

    object: bytes
    diagnostics: tuple[Diagnostic, ...] = ()


def base_flags(clang: Clang, *, cpu: str = "v3", debug: bool = True) -> list[str]:
    """The options every compilation has: BPF, optimised, our headers and Linux's, and none of the host's."""
    from platform import machine

    arch = "arm64" if machine().lower() in ("aarch64", "arm64") else "x86"
    return [
        "-target",
        "bpfel",
        f"-mcpu={cpu}",
        "-O2",
        *(["-g"] if debug else []),
        # Loops stay loops: a call of memset, which clang would make of one, there is no function for.
        *("-mllvm", "-disable-loop-idiom-memset", "-mllvm", "-disable-loop-idiom-memcpy"),
        "-fno-stack-protector",
        "-fno-color-diagnostics",
        "-Wno-unused-command-line-argument",
        f"-D__TARGET_ARCH_{arch}",
        "-nostdinc",
        *(word for path in (str(INCLUDE), *clang.includes) for word in ("-isystem", path)),
    ]


def options(
    clang: Clang,
    *,
    cpu: str = "v3",
    debug: bool = True,
    flags: Sequence[str] = (),
    includes: Sequence[str | os.PathLike[str]] = (),
    defines: Sequence[str] = (),
    pch: "Pch | None" = None,
) -> list[str]:
    """clang's options for one compilation, the caller's own after the base ones so that they win."""
    base = base_flags(clang, cpu=cpu, debug=debug)
    if any(text.startswith("__TARGET_ARCH_") for text in defines) or any(text.startswith("-D__TARGET_ARCH_") for text in flags):
        base = [text for text in base if not text.startswith("-D__TARGET_ARCH_")]
    return [
        *base,
        *(f"-I{os.fspath(path)}" for path in includes),
        *(f"-D{text}" for text in defines),
        *flags,
        *(["-include-pch", str(pch.path), f"-fdebug-prefix-map={pch.header}={pch.name}"] if pch else []),
    ]


def compile_c(
    source: str | os.PathLike[str],
    *,
    text: str | None = None,
    flags: Sequence[str] = (),
    includes: Sequence[str | os.PathLike[str]] = (),
    defines: Sequence[str] = (),
    cpu: str = "v3",
    debug: bool = True,
    pch: "Pch | None" = None,
    clang: Clang | None = None,
) -> Compiled:
    """Compile the C file `source` to an eBPF object; with `text`, that text, and `source` is its name in messages.

    `defines` are "NAME" or "NAME=VALUE"; `pch` is a precompiled header that the text begins with.

    Raises CompileError with clang's diagnostics, NotFoundError for a missing file or compiler.
    """
    clang = clang or find_clang()
    name = os.fspath(source)
    if text is None and not os.path.isfile(name):
        raise NotFoundError("file", name)
    if text is None and "-x" not in flags and not name.endswith((".c", ".i")):
        raise UsageError(f"{name}: is no C source: their names end in .c")
    chosen = options(clang, cpu=cpu, debug=debug, flags=flags, includes=includes, defines=defines, pch=pch)
    job = _Job(clang, name, text, tuple(chosen), debug, pch)
    found = None if pch else program_text(name, text, includes, flags, defines)
    if found is None:
        return job.compile()
    try:
        return job.compile(header_folder(clang, found))
    except CompileError as error:
        # A macro may have made the name of a type that no word of the text is.
        if found.pasted or not _LACKING.search(error.output):
            raise
        return job.compile(header_folder(clang, found, whole=True))


@dataclass(frozen=True, slots=True)
class _Job:
    """One text, its options, and what else a compilation needs."""

    clang: Clang
    name: str
    text: str | None
    chosen: tuple[str, ...]
    debug: bool
    pch: "Pch | None"

    def compile(self, kernel: Path | None = None) -> Compiled:
        """Compile it, with the folder that has vmlinux.h."""
        name = self.name
        names = {str(self.pch.header): self.pch.name} if self.pch else {}
        extra: list[str] = []
        if kernel is not None:
            extra = ["-isystem", str(kernel), f"-fdebug-prefix-map={kernel}{os.sep}="]
            names[str(kernel / VMLINUX_H)] = VMLINUX_H
        with tempfile.TemporaryDirectory(prefix="ebpf-cc-") as folder:
            out = os.path.join(folder, "out.o")
            command = [*self.clang.command, *self.chosen, *extra, "-c", "-o", out]
            if self.text is None:
                # A name that begins with a dash is a file all the same.
                answer = run([*command, name if not name.startswith("-") else f"./{name}"])
            else:
                # The text's own lines reach BTF only when they are embedded: its name is no file that clang could read.
                path = os.path.join(folder, "text.c")
                with open(path, "w", encoding="utf-8", newline="") as file:
                    file.write(self.text)
                names[path] = name
                embed = ["-gdwarf-5", "-gembed-source", f"-fdebug-prefix-map={path}={name}"] if self.debug else []
                answer = run([*command, *_NO_FOLDER, *embed, *beside(name), path])
            output = answer.stderr.decode("utf-8", "replace")
            diagnostics = parse_diagnostics(output, names)
            if answer.returncode:
                raise failure(diagnostics, output)
            if not os.path.isfile(out):
                raise UsageError(f"{name}: clang was told to write no object ({' '.join(self.chosen)})")
            with open(out, "rb") as file:
                return Compiled(file.read(), diagnostics)


def line_marker(name: str) -> str:
    """The line that makes what follows it line 1 of the file `name`."""
    quoted = name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    return f'# 1 "{quoted}"\n'


def beside(name: str) -> list[str]:
    """The option by which text named `name` finds what it includes from its own folder."""
    folder = os.path.dirname(name)
    return ["-iquote", folder] if folder else []


def failure(diagnostics: tuple[Diagnostic, ...], output: str) -> CompileError:
    """The error for what clang said, with a hint where we know better."""
    error = CompileError(diagnostics, output)
    error.hint = next((hint for pattern, hint in _HINTS if pattern in output), None)
    return error


def parse_diagnostics(output: str, names: Mapping[str, str] | None = None) -> tuple[Diagnostic, ...]:
    """clang's text output as diagnostics, each with its excerpt (the source line and the caret); `names` renames files."""
    out: list[Diagnostic] = []
    excerpt: list[str] = []

    def flush() -> None:
        if out and excerpt:
            last = out[-1]
            out[-1] = Diagnostic(last.severity, last.message, last.path, last.line, last.column, "\n".join(excerpt))
        excerpt.clear()

    for line in output.splitlines():
        found = _MESSAGE.match(line)
        if found is not None:
            flush()
            path = (names or {}).get(found["path"], found["path"])
            out.append(Diagnostic(found["kind"], found["text"], path, int(found["line"]), int(found["column"])))
            continue
        bare = _BARE.match(line)
        if bare is not None:
            flush()
            out.append(Diagnostic(bare["kind"], bare["text"]))
        elif re.match(r"^\s*\d* \|", line):
            excerpt.append(line)
    flush()
    return tuple(out)
