"""Compiled images on disk: from here a program starts without LLVM."""

import hashlib
import json
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from ebpf import __version__
from ebpf.engine.jit.llvm import compile_ir, processor
from ebpf.engine.jit.translate import translate
from ebpf.engine.jit.writer import Slot
from ebpf.engine.program import Prepared
from ebpf.isa import encode
from ebpf.toolchain import cache_folder, write_atomically

_MAGIC = b"EBPFIMG1"
_TRANSLATOR = ("translate", "arithmetic", "memory", "writer", "flow")


def image_key(program: Prepared) -> str:
    """The name of a program's image: its bytecode, what is folded into it of its maps, and what compiles it."""
    maps = [(fd, m.type, m.key_size, m.value_size, m.max_entries) for fd, m in sorted(program.maps.items())]
    facts = [maps, sorted(program.call_map.items()), sorted(program.stack_depth.items()), __version__, processor()]
    digest = hashlib.sha256(json.dumps(facts).encode() + _translator())
    digest.update(encode(program.insns))
    return digest.hexdigest()[:40]


@lru_cache(maxsize=1)
def _translator() -> bytes:
    """The translator's own text: another one may make other code of the same program. Nothing where it is no file."""
    try:
        return b"".join(Path(__file__).with_name(f"{name}.py").read_bytes() for name in _TRANSLATOR)
    except OSError:
        return b""


def is_cached(program: Prepared) -> bool:
    """Whether a program's image is there."""
    return (cache_folder("jit") / image_key(program)).is_file()


def compile_quickly(program: Prepared) -> tuple[bytes, tuple[Slot, ...]]:
    """Code for the time until `compile_image` is done: it can be made to lead to that. It is not kept."""
    module = translate(program, leads=True)
    return compile_ir(module.text, quick=True), module.table


def compile_image(program: Prepared, *, cache: bool = True) -> tuple[bytes, tuple[Slot, ...]]:
    """A program's object and its table's layout, from the cache if it is there, else compiled and kept."""
    path = cache_folder("jit") / image_key(program) if cache else None
    if path is not None:
        found = _read(path.read_bytes()) if path.is_file() else None
        if found is not None:
            return found
    module = translate(program)
    image = compile_ir(module.text)
    if path is not None:
        table = json.dumps([asdict(slot) for slot in module.table]).encode()
        body = len(table).to_bytes(4, "little") + table + image
        try:
            write_atomically(path, _MAGIC + hashlib.sha256(body).digest() + body)
        except OSError:
            # A full or read-only disk costs time at the next start, nothing else.
            return image, module.table
    return image, module.table


def _read(data: bytes) -> tuple[bytes, tuple[Slot, ...]] | None:
    """What a cache file holds; None if it is torn or damaged."""
    body = data[40:]
    if data[:8] != _MAGIC or hashlib.sha256(body).digest() != data[8:40]:
        return None
    length = int.from_bytes(body[:4], "little")
    return body[4 + length :], tuple(Slot(row["kind"], row["number"]) for row in json.loads(body[4 : 4 + length]))
