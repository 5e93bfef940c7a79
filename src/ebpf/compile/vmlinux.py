"""vmlinux.h on demand: the definitions of a kernel's types that one program needs, out of the kernel's BTF."""

import os
import re
from collections.abc import Sequence, Set
from hashlib import sha256
from pathlib import Path

from ebpf.btf import Btf, Kind, c_header, in_order, kfuncs, select
from ebpf.compile import macros
from ebpf.compile.words import Text, read_text
from ebpf.errors import NotSupportedError
from ebpf.sys.kernel import VMLINUX
from ebpf.sys.types import open_types
from ebpf.toolchain import Clang, cache_folder, write_atomically

NAME = "vmlinux.h"
_OURS = Path(__file__).parent / "include" / "bpf"
_HINT = "Set EBPF_BTF to a file with a kernel's BTF (a copy of /sys/kernel/btf/vmlinux), or put a vmlinux.h beside the program"
#: The registers of a traced function, and an iterator: what our headers' macros need of structures.
_OF_HEADERS = frozenset({"pt_regs", "user_pt_regs", "bpf_iter_num"})
_NO_NAMES = (Kind.FUNC, Kind.VAR, Kind.DECL_TAG)
_VALUED = ("-I", "-iquote", "-isystem", "-idirafter")
_VERSION = "2"


def program_text(
    name: str, text: str | None, includes: Sequence[str | os.PathLike[str]], flags: Sequence[str], defines: Sequence[str]
) -> Text | None:
    """The words of a program (the file `name`, or `text`) that includes vmlinux.h and has none of its own; None for others."""
    if text is None:
        text = Path(name).read_text("utf-8", "replace")
    folders = [os.fspath(path) for path in includes]
    for word, after in zip(flags, (*flags[1:], ""), strict=False):
        if word in _VALUED:
            folders.append(after)
        elif word.startswith("-I"):
            folders.append(word[2:])
    given = [*defines, *(word[2:] for word in flags if word.startswith("-D"))]
    lines = [f"#define {macro.replace('=', ' ', 1)}\n" for macro in given]
    found = read_text("".join(lines) + text, os.path.dirname(name), folders)
    return found if NAME in found.missing else None


def header_folder(clang: Clang, text: Text, *, whole: bool = False) -> Path:
    """A folder with the vmlinux.h that a program with the words of `text` needs; with `whole`, with all types.

    It stays in the cache, so that the next time it costs no more than finding it. Raises NotSupportedError without a BTF.
    """
    path = os.environ.get("EBPF_BTF") or VMLINUX
    whole = whole or text.pasted
    key = sha256()
    words = [] if whole else [*sorted(text.words | text.tagged), "", *sorted(text.defined), ""]
    words += sorted(text.declared)
    for part in (_VERSION, _identity(path), clang.version, *words):
        key.update(part.encode() + b"\0")
    folder = cache_folder("vmlinux", key.hexdigest()[:32])
    if not (folder / NAME).is_file():
        btf = open_types(_bytes(path), path)
        write_atomically(folder / NAME, (_whole(btf, text) if whole else _part(btf, clang, text)).encode())
    return folder


def _identity(path: str) -> str:
    """What tells one kernel's BTF from another's without reading it."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise NotSupportedError(NAME, f"there is no BTF on this machine ({path})", hint=_HINT) from error
    if path != VMLINUX:
        return f"{os.path.abspath(path)} {status.st_size} {status.st_mtime_ns}"
    system = os.uname()
    return f"{system.release} {system.version} {system.machine} {status.st_size}"


def _bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise NotSupportedError(NAME, f"{path} cannot be read ({(error.strerror or '').lower()})", hint=_HINT) from error


def _whole(btf: Btf, text: Text) -> str:
    return "".join(c_header(btf, in_order(btf), _callable(btf, text)))


def _callable(btf: Btf, text: Text) -> dict[int, set[str]]:
    """The kernel's functions that programs may call, but for those that the text declares: from version to version they differ."""
    return {id_: tags for id_, tags in kfuncs(btf).items() if btf.name(id_) not in text.declared}


def _part(btf: Btf, clang: Clang, text: Text) -> str:
    """The types that are needed, and before them the macros that neither BTF nor the text has."""
    ours = set(re.findall(r"[A-Za-z_]\w*", "".join(file.read_text() for file in sorted(_OURS.iterdir()))))
    defines, used = macros.definitions(clang, _undefined(btf, text.words - text.defined - ours))
    words = text.words | used | ours
    chosen = select(btf, words | _OF_HEADERS, text.tagged | _OF_HEADERS, text.words)
    functions = {id_: tags for id_, tags in _callable(btf, text).items() if id_ in chosen.functions}
    header = c_header(btf, chosen.types, functions, enums=chosen.enums)
    return "".join(header) + ("\n" + defines if defines else "")


def _undefined(btf: Btf, words: Set[str]) -> set[str]:
    """Words that could be macros: those that are no types or enumerators of the kernel's."""
    return {w for w in words if not btf.enumerators(w) and all(btf.kind(i) in _NO_NAMES or btf.name(i) != w for i in btf.named(w))}
