"""The types of a kernel: its BTF, of which only what is asked for is read."""

import hashlib
from contextlib import suppress

from ebpf.btf import Btf, Index, build_index
from ebpf.toolchain.cache import cache_folder, write_atomically

# Less than this is walked through sooner than an index is found.
_LARGE = 1 << 18


def open_types(raw: bytes, path: str = "") -> Btf:
    """Parse a BTF; of a large one an index is kept in the cache, so that the next time takes milliseconds. Raises FormatError."""
    if len(raw) < _LARGE:
        return Btf.parse(raw, path)
    file = cache_folder("btf") / f"{hashlib.sha256(raw).hexdigest()[:32]}.index"
    try:
        return Btf.parse(raw, path, Index(file.read_bytes()))
    except (OSError, ValueError):
        btf = Btf.parse(raw, path)
        index = build_index(btf)
        # A folder that cannot be written only costs time.
        with suppress(OSError):
            write_atomically(file, index)
        return Btf.parse(raw, path, Index(index))
