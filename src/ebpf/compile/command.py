"""What `ebpf cc` does: the command lines that tutorials print, taken as they are."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ebpf.compile.c import compile_c
from ebpf.errors import Diagnostic, NotFoundError, UsageError
from ebpf.toolchain import write_atomically

# Options of clang's that take their value as a word of its own.
_VALUED = ("-I", "-D", "-U", "-include", "-isystem", "-idirafter", "-iquote", "-x", "-std", "-mllvm", "-Xclang", "-MF", "-MT")


@dataclass(frozen=True, slots=True)
class Written:
    """The object that was written, what was noted on the way, and clang's warnings."""

    path: Path
    notes: tuple[str, ...]
    diagnostics: tuple[Diagnostic, ...]


@dataclass(slots=True)
class _Line:
    """A command line taken apart."""

    sources: list[str]
    flags: list[str]
    notes: list[str]
    out: str = ""
    cpu: str = "v3"


def _target(line: _Line, value: str) -> None:
    if value not in ("bpf", "bpfel", "bpf-pc-linux", "bpfel-pc-linux"):
        if value in ("bpfeb",):
            raise UsageError("cc: -target bpfeb: big-endian objects cannot be loaded here; use -target bpf")
        raise UsageError(f"cc: -target {value} is another machine; ebpf cc compiles for -target bpf")


def _march(line: _Line, value: str) -> None:
    line.notes.append(f"clang has no -march={value} for eBPF: compiling with -target bpf, which is what is meant")


def _host_include(line: _Line, value: str) -> None:
    line.notes.append(f"{value} of this machine is not needed: headers come with ebpf")


def cc(argv: Sequence[str]) -> Written:
    """Compile one C file as `ebpf cc` is told. Raises UsageError, NotFoundError or CompileError; never leaves half an object."""
    line = _Line([], [], [])
    words = list(argv)
    while words:
        word = words.pop(0)

        def value(word: str = word) -> str:
            if not words:
                raise UsageError(f"cc: {word} needs a value")
            return words.pop(0)

        if word == "-o":
            line.out = value()
        elif word in ("-target", "--target"):
            _target(line, value())
        elif word.startswith("--target="):
            _target(line, word.partition("=")[2])
        elif word.startswith("-march="):
            _march(line, word.partition("=")[2])
        elif word.startswith("-mcpu="):
            line.cpu = word.partition("=")[2]
        elif word in ("-c", "-g", "-O2", "-emit-llvm"):
            if word == "-emit-llvm":
                raise UsageError("cc: -emit-llvm: ebpf cc writes eBPF objects; leave it out")
        elif word in ("-O0", "-O1"):
            line.flags.append(word)
            line.notes.append(f"{word} leaves code in that the verifier seldom accepts; -O2 is the default")
        elif word.startswith("-I/usr/include") and "linux-gnu" in word:
            _host_include(line, word)
        elif word in _VALUED:
            line.flags += [word, value()]
        elif word.startswith("-") and word != "-":
            line.flags.append(word)
        else:
            line.sources.append(word)
    return _write(line)


def _write(line: _Line) -> Written:
    if not line.sources:
        raise UsageError("cc: which file? ebpf cc FILE.bpf.c -o FILE.bpf.o")
    if len(line.sources) > 1:
        raise UsageError(f"cc: one file at a time, not {' and '.join(line.sources)}")
    source = line.sources[0]
    if not os.path.isfile(source):
        raise NotFoundError("file", source)
    out = Path(line.out or Path(source).with_suffix(".o").name)
    if not out.parent.is_dir():
        raise NotFoundError("folder", str(out.parent))
    if out.is_dir():
        raise UsageError(f"cc: {out} is a folder")
    compiled = compile_c(source, flags=line.flags, cpu=line.cpu)
    if str(out) == os.devnull:
        return Written(out, tuple(line.notes), compiled.diagnostics)
    write_atomically(out, compiled.object)
    # mkstemp's files are private; an object is as readable as any other file that a compiler writes.
    mask = os.umask(0)
    os.umask(mask)
    out.chmod(0o666 & ~mask)
    return Written(out, tuple(line.notes), compiled.diagnostics)
