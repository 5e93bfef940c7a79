"""The .BTF.ext section: which function, source line and CO-RE record belongs to which instruction."""

import struct

from ebpf.btf import Btf
from ebpf.errors import FormatError

_HEADER = struct.Struct("<HBBIIIII")
_BLOCK = struct.Struct("<II")


class Ext:
    """Records by section name, each a tuple of u32 words whose first is the offset in bytes from the section's beginning."""

    def __init__(self) -> None:
        self.funcs: dict[str, list[tuple[int, ...]]] = {}
        self.lines: dict[str, list[tuple[int, ...]]] = {}
        self.core: dict[str, list[tuple[int, ...]]] = {}


def read_ext(data: bytes, btf: Btf, path: str) -> Ext:
    """Parse .BTF.ext. Raises FormatError for anything malformed."""

    def bad(why: str) -> FormatError:
        return FormatError(why, path=path, where=".BTF.ext")

    ext = Ext()
    if len(data) < _HEADER.size:
        raise bad(f"{len(data)} bytes are too few for a header")
    magic, _, _, header, func_off, func_len, line_off, line_len = _HEADER.unpack_from(data)
    if magic != 0xEB9F or header < _HEADER.size:
        raise bad("has a wrong header")
    core_off = core_len = 0
    if header >= _HEADER.size + 8 and len(data) >= _HEADER.size + 8:
        core_off, core_len = struct.unpack_from("<II", data, _HEADER.size)

    def table(offset: int, length: int, least: int, into: dict[str, list[tuple[int, ...]]]) -> None:
        if not length:
            return
        begin, end = header + offset, header + offset + length
        if end > len(data) or length < 4:
            raise bad("a table reaches past the end")
        (size,) = struct.unpack_from("<I", data, begin)
        if size < least or size % 4 or size > 256:
            raise bad(f"records of {size} bytes")
        at = begin + 4
        layout = struct.Struct(f"<{size // 4}I")
        while at < end:
            if at + _BLOCK.size > end:
                raise bad("a block is cut off")
            name_off, count = _BLOCK.unpack_from(data, at)
            at += _BLOCK.size
            if at + count * size > end:
                raise bad(f"{count} records do not fit")
            name = btf.string(name_off)
            into.setdefault(name, []).extend(layout.unpack_from(data, at + i * size) for i in range(count))
            at += count * size

    table(func_off, func_len, 8, ext.funcs)
    table(line_off, line_len, 16, ext.lines)
    table(core_off, core_len, 16, ext.core)
    return ext
