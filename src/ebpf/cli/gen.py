"""`ebpf gen`: what is made of objects: one of several, a Python module."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ebpf.cli.context import Context
from ebpf.cli.noun import Verb, Worded, dispatch, done, help_verb
from ebpf.cli.words import Words
from ebpf.errors import UsageError

if TYPE_CHECKING:
    from ebpf.spec import ObjectSpec


def run(context: Context, argv: list[str]) -> int:
    """Carry out one `gen` command."""
    return dispatch(context, argv, "gen", _VERBS)


def object_(context: Context, words: Words) -> int:
    """Link objects into one."""
    from ebpf.elf.static import link_objects

    words.need(2, "object")
    target = Path(words.take("OUTPUT_FILE"))
    objects = []
    while words:
        path = Path(words.take("INPUT_FILE"))
        try:
            objects.append((str(path), path.read_bytes()))
        except OSError as error:
            raise UsageError(f"can't read {path}: {os.strerror(error.errno or 0).lower()}") from error
    linked = link_objects(objects)
    try:
        target.write_bytes(linked)
    except OSError as error:
        raise UsageError(f"can't write {target}: {os.strerror(error.errno or 0).lower()}") from error
    done(context)
    return 0


def python(context: Context, words: Words) -> int:
    """Write a typed Python module for an object or C file, and its stub, beside it or where `-o` says."""
    from ebpf.cli.replay import read
    from ebpf.cli.skeleton import texts
    from ebpf.elf import object_name

    words.need(1, "python")
    path = Path(words.take("OBJ"))
    target = Path(words.take("FILE")) if words.take_if("-o") else None
    words.end()
    spec = read(path)
    if path.suffix == ".c":
        from ebpf.compile import compile_c

        data = compile_c(path).object
    else:
        data = path.read_bytes()
    name = object_name(path.name)
    target = target or path.with_name(f"{name}.py")
    if target.suffix != ".py":
        raise UsageError(f"gen python: '{target}' is no name of a Python module: it ends in .py")
    module, stub = texts(spec, data, name)
    _write(target, module)
    _write(target.with_suffix(".pyi"), stub)
    done(context)
    return 0


def skeleton(context: Context, words: Words) -> int:
    """Print a C header with which a program that uses libbpf opens, loads and attaches an object."""
    from ebpf.cli import skeleton_c

    words.need(1, "skeleton")
    spec, data, name = _named(context, words)
    context.out.write(skeleton_c.skeleton(spec, data, name))
    return 0


def subskeleton(context: Context, words: Words) -> int:
    """Print a C header with which a library finds what is its own in an object that it was linked into."""
    from ebpf.cli import skeleton_c

    words.need(1, "subskeleton")
    spec, _, name = _named(context, words)
    context.out.write(skeleton_c.subskeleton(spec, name))
    return 0


def min_core_btf(context: Context, words: Words) -> int:
    """Write a BTF that has of a kernel's types only what objects reach by their CO-RE records."""
    from ebpf.btf.minimal import Minimal
    from ebpf.elf.types import core_records, read_types

    words.need(3, "min_core_btf")
    source, target = words.take("INPUT"), words.take("OUTPUT")
    minimal = Minimal(read_types(_bytes(source, f"failed parsing '{source}' BTF file"), source))
    while words:
        path = words.take("OBJECT")
        minimal.add(*core_records(_bytes(path, f"failed to parse BPF object '{path}'"), path))
    try:
        with open(target, "wb") as file:
            file.write(minimal.build())
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise Worded(f"can't write {target}: {why.lower()}", f"error saving btf file: {why}") from error
    done(context)
    return 0


def _named(context: Context, words: Words) -> tuple["ObjectSpec", bytes, str]:
    """An object (or C file) and what its structs are to be called."""
    from ebpf.cli.skeleton_c import name_of
    from ebpf.elf import read_object

    path = words.take("FILE")
    name = name_of(path)
    if words.take_if("name"):
        name = words.take("OBJECT_NAME")
        if not name.isidentifier() or not name.isascii():
            raise UsageError(f"'{name}' can be no name in C")
    words.end()
    data = _object(path)
    return read_object(data, name), data, name


def _object(path: str) -> bytes:
    """An object's bytes; a C file is compiled."""
    if path.endswith(".c"):
        from ebpf.compile import compile_c

        return compile_c(path).object
    return _bytes(path, f"failed to stat() {path}")


def _bytes(path: str, theirs: str) -> bytes:
    """A file's bytes; of one that cannot be read bpftool says `theirs`."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise Worded(f"can't read {path}: {why.lower()}", f"{theirs}: {why}") from error


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"can't write {path}: {os.strerror(error.errno or 0).lower()}") from error


_VERBS: dict[str, Verb] = {
    "object": object_,
    "python": python,
    "skeleton": skeleton,
    "subskeleton": subskeleton,
    "min_core_btf": min_core_btf,
    "help": help_verb("gen"),
}
