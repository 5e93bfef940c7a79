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


def _target(value: str) -> None:
    machine = value.partition("-")[0]
    if machine == "bpfeb":
        raise UsageError("cc: -target bpfeb: big-endian objects cannot be loaded here; use -target bpf")
    if machine not in ("bpf", "bpfel"):
        raise UsageError(f"cc: -target {value} is another machine; ebpf cc compiles for -target bpf")


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

        if word.startswith("-o"):
            line.out = word[2:] or value()
        elif word in ("-target", "--target"):
            _target(value())
        elif word.startswith("--target="):
            _target(word.partition("=")[2])
        elif word.startswith("-march="):
            line.notes.append(f"clang has no {word} for eBPF: compiling with -target bpf, which is what is meant")
        elif word.startswith("-mcpu="):
            line.cpu = word.partition("=")[2]
        elif word in ("-S", "-E", "-emit-llvm", "-fsyntax-only"):
            raise UsageError(f"cc: {word}: ebpf cc writes eBPF objects; leave it out")
        elif word in ("-c", "-g", "-O2"):
            continue
        elif word in ("-O0", "-O1"):
            line.flags.append(word)
            line.notes.append(f"{word} leaves code in that the verifier seldom accepts; -O2 is the default")
        elif word.startswith("-I/usr/include") and "linux-gnu" in word:
            line.notes.append(f"{word} is left out: headers come with ebpf")
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
    try:
        _put(out, compiled.object)
    except OSError as error:
        # The name that the user gave, not that of the temporary file beside it.
        raise type(error)(error.errno, error.strerror, str(out)) from error
    return Written(out, tuple(line.notes), compiled.diagnostics)


def _put(out: Path, data: bytes) -> None:
    if out.exists() and not out.is_file():
        out.write_bytes(data)  # /dev/null, a pipe: written to, not replaced
        return
    write_atomically(out, data)
    # mkstemp's files are private; an object is as readable as any other file that a compiler writes.
    mask = os.umask(0)
    os.umask(mask)
    out.chmod(0o666 & ~mask)
