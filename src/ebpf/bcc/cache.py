"""Translated programs on disk: a script that ran before starts without clang."""

import hashlib
import pickle
from collections.abc import Sequence

from ebpf.bcc.translate import INCLUDE, Translated, translate
from ebpf.sys.kernel import Kernel
from ebpf.toolchain import cache_folder, find_clang, write_atomically

_MAGIC = b"EBPFBCC1"


def translated(text: str, kernel: Kernel, *, cflags: Sequence[str] = ()) -> Translated:
    """A text's translation, from the cache if it is there. Texts with tracepoint layouts are the kernel's: never cached."""
    if "TRACEPOINT_PROBE" in text or "tracepoint__" in text or '#include "' in text:
        return translate(text, kernel, cflags=cflags)
    digest = hashlib.sha256(_MAGIC + find_clang(None).version.encode())
    for part in (*cflags, (INCLUDE / "prelude.h").read_text(), (INCLUDE.parent / "translate.py").read_text(), text):
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
