"""Macros that BTF does not have: out of Linux's user headers, which come with the compiler, and of a table of the kernel's own."""

import json
import re
from collections.abc import Iterator, Set
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from ebpf.toolchain import Clang, cache_folder, write_atomically

_DEFINE = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+(?:\([^)\n]*\))?)[ \t]+((?:[^\n\\]|\\\n|\\)+)", re.MULTILINE)
_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_WORD = re.compile(r"[A-Za-z_]\w*")
_OWN = Path(__file__).parent / "kernel_macros.h"
_FOLDERS = ("asm-generic", "linux")
_CONSTANT = re.compile(r"[A-Z_][A-Z0-9_]*")
_EMPTY = re.compile(r"^#define (__\w+)$", re.MULTILINE)


def definitions(clang: Clang, wanted: Set[str]) -> tuple[str, set[str]]:
    """`#define` lines for those of `wanted` that there are, with what they stand on; and the words that their bodies have."""
    table = _read(_OWN.read_text()) | dict.fromkeys(_EMPTY.findall(_OWN.read_text()))
    if wanted - table.keys():
        table = {**_user_headers(clang), **table}
    out: dict[str, str] = {}
    words: set[str] = set()
    waiting = sorted(wanted & table.keys())
    while waiting:
        name = waiting.pop()
        if name in out:
            continue
        head, body = table[name] or (name, "")
        out[name] = f"#ifndef {name}\n#define {head} {body}".rstrip() + "\n#endif\n"
        used = set(_WORD.findall(body))
        words |= used
        waiting += sorted((used & table.keys()) - out.keys())
    return "".join(out[name] for name in sorted(out)), words


def _read(text: str) -> dict[str, tuple[str, str] | None]:
    """The macros of a text by name: how each is written, and what for."""
    rows = _DEFINE.findall(_COMMENT.sub(" ", text))
    return {head.partition("(")[0]: (head, " ".join(body.replace("\\\n", " ").split())) for head, body in rows}


def _user_headers(clang: Clang) -> dict[str, tuple[str, str] | None]:
    """The macros of linux/*.h and asm-generic/*.h; a name that means different things in two of them is left out."""
    key = sha256("\0".join(("1", clang.version, *clang.includes)).encode()).hexdigest()[:32]
    file = cache_folder("macros") / f"{key}.json"
    with suppress(OSError, ValueError):
        return {name: (head, body) for name, (head, body) in json.loads(file.read_bytes()).items()}
    table: dict[str, tuple[str, str] | None] = {}
    for path in _files(clang):
        for name, row in _read(path.read_text("utf-8", "replace")).items():
            if not _CONSTANT.fullmatch(name):
                continue
            table[name] = row if table.get(name, row) == row else None
    found = {name: row for name, row in table.items() if row is not None}
    with suppress(OSError):
        write_atomically(file, json.dumps(found).encode())
    return {**found}


def _files(clang: Clang) -> Iterator[Path]:
    for folder in clang.includes:
        for part in _FOLDERS:
            yield from sorted((Path(folder) / part).glob("*.h"))
