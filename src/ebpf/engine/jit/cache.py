"""Compiled images on disk: from here a program starts without LLVM."""

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from ebpf import __version__
from ebpf.engine.jit.llvm import compile_ir, processor
from ebpf.engine.jit.translate import translate
from ebpf.engine.jit.writer import Slot
from ebpf.engine.program import Prepared
from ebpf.isa import encode
from ebpf.toolchain import cache_folder, write_atomically

_MAGIC = b"EBPFIMG2"
_TRANSLATOR = ("translate", "arithmetic", "memory", "writer", "flow")


def image_key(program: Prepared) -> str:
    """The name of a program's image: its bytecode, what is folded into it of its maps, and what compiles it."""
    maps = [(fd, m.type, m.key_size, m.value_size, m.max_entries) for fd, m in sorted(program.maps.items())]
    facts = (maps, sorted(program.call_map.items()), sorted(program.stack_depth.items()), sorted(program.global_functions))
    digest = _compiler().copy()
    digest.update(repr(facts).encode())
    digest.update(encode(program.insns))
    name: str = digest.hexdigest()
    return name[:40]


@lru_cache(maxsize=1)
def _compiler() -> Any:
    """The digest of what compiles: another translator may make other code of the same program, and another LLVM does."""
    digest = hashlib.sha256(f"{__version__} {processor()}".encode())
    for name in _TRANSLATOR:
        try:
            digest.update(Path(__file__).with_name(f"{name}.py").read_bytes())
        except OSError:
            # It is no file: then only a version has another one.
            continue
    return digest


def kept_image(program: Prepared) -> tuple[bytes, tuple[Slot, ...]] | None:
    """A program's object and its table's layout from the cache; None if they are not there."""
    return _read(cache_folder("jit") / image_key(program))


def compile_quickly(program: Prepared) -> tuple[bytes, tuple[Slot, ...]]:
    """Code for the time until `compile_image` is done: it can be made to lead to that. It is not kept."""
    module = translate(program, leads=True)
    return compile_ir(module.text, quick=True), module.table


def compile_image(program: Prepared, *, cache: bool = True) -> tuple[bytes, tuple[Slot, ...]]:
    """A program's object and its table's layout, from the cache if it is there, else compiled and kept."""
    path = cache_folder("jit") / image_key(program) if cache else None
    found = _read(path) if path is not None else None
    if found is not None:
        return found
    module = translate(program)
    image = compile_ir(module.text)
    if path is not None:
        table = " ".join(f"{slot.kind} {slot.number}" for slot in module.table).encode()
        body = len(table).to_bytes(4, "little") + table + image
        try:
            write_atomically(path, _MAGIC + hashlib.sha256(body).digest() + body)
        except OSError:
            # A full or read-only disk costs time at the next start, nothing else.
            return image, module.table
    return image, module.table


def _read(path: Path) -> tuple[bytes, tuple[Slot, ...]] | None:
    """What a cache file holds; None if it is not there, or torn or damaged."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return None
    body = data[40:]
    if data[:8] != _MAGIC or hashlib.sha256(body).digest() != data[8:40]:
        return None
    end = 4 + int.from_bytes(body[:4], "little")
    words = body[4:end].decode().split()
    return body[end:], tuple(Slot(kind, int(number)) for kind, number in zip(words[::2], words[1::2], strict=True))
