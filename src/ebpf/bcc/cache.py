"""Translated programs on disk: a script that ran before starts without clang."""

import hashlib
import pickle
from collections.abc import Sequence

from ebpf.bcc.translate import INCLUDE, Translated, translate
from ebpf.sys.kernel import Kernel
from ebpf.toolchain import cache_folder, find_clang, write_atomically

_MAGIC = b"EBPFBCC2"
# What is kept is made by these: another text of theirs makes another object, or one that cannot be read back.
_MAKERS = ("bcc/translate.py", "spec/model.py", "btf/types.py", "btf/parse.py", "elf/read.py", "elf/link.py", "elf/maps.py")


def translated(text: str, kernel: Kernel, *, cflags: Sequence[str] = ()) -> Translated:
    """A text's translation, from the cache if it is there. Texts with tracepoint layouts are the kernel's: never cached."""
    if "TRACEPOINT_PROBE" in text or "tracepoint__" in text or '#include "' in text:
        return translate(text, kernel, cflags=cflags)
    package = INCLUDE.parent.parent
    digest = hashlib.sha256(_MAGIC + find_clang(None).version.encode())
    # What was kept by an older version of the code that makes and reads it must not be found.
    package = INCLUDE.parents[1]
    makers = (*(package / "elf").glob("*.py"), package / "spec" / "model.py", package / "btf" / "parse.py", INCLUDE.parent / "translate.py")
    for part in (*cflags, text, *(path.read_text() for path in (INCLUDE / "prelude.h", *sorted(makers)))):
        digest.update(len(part).to_bytes(8, "little") + part.encode())
    path = cache_folder("bcc") / digest.hexdigest()[:40]
    if path.is_file():
        data = path.read_bytes()
        # The folder is ours alone and of mode 0700; the sum is against torn files.
        if data[:8] == _MAGIC and hashlib.sha256(data[40:]).digest() == data[8:40]:
            held = pickle.loads(data[40:])
            if isinstance(held, Translated):
                return held
    made = translate(text, kernel, cflags=cflags)
    body = pickle.dumps(made)
    try:
        write_atomically(path, _MAGIC + hashlib.sha256(body).digest() + body)
    except OSError:
        return made
    return made
