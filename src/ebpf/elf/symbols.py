"""Where a function of a program or library lies in its file: what a uprobe asks for."""

import struct

from ebpf.elf.file import read_elf
from ebpf.errors import FormatError, NotFoundError, near

_PHDR = struct.Struct("<IIQQQQQQ")
_SYM = struct.Struct("<IBBHQQ")
_LOAD, _SYMTAB, _DYNSYM, _FUNC, _INDIRECT = 1, 2, 11, 2, 10


def file_offset(path: str, function: str) -> int:
    """The offset of a function in a file. Raises FormatError, NotFoundError, OSError."""
    data = _read(path)
    addresses = _addresses(data, path)
    if function in addresses:
        return to_file_offset(data, path, addresses[function])
    raise NotFoundError("function", function, where=path, near=near(function, addresses, cutoff=0.8))


def function_offsets(path: str) -> dict[str, int]:
    """The functions of a file by name, with their offsets in it. Raises FormatError, OSError."""
    data = _read(path)
    return {name: to_file_offset(data, path, address) for name, address in _addresses(data, path).items()}


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _addresses(data: bytes, path: str) -> dict[str, int]:
    sections = read_elf(data, path, any_machine=True).sections
    out: dict[str, int] = {}
    # The symbols of the linker first: they are all there are in a stripped library, and say no more than the others.
    for section in sorted((s for s in sections if s.type in (_SYMTAB, _DYNSYM)), key=lambda s: -s.type):
        if section.link >= len(sections) or len(section.data) % _SYM.size:
            raise FormatError("is torn", path=path, where=f"section {section.name!r}")
        strings = sections[section.link].data
        for name, info, _, index, value, _ in _SYM.iter_unpack(section.data):
            if info & 0xF in (_FUNC, _INDIRECT) and index:
                out.setdefault(strings[name : strings.find(b"\0", name)].decode("utf-8", "replace"), value)
    return out


def to_file_offset(data: bytes, path: str, address: int) -> int:
    """Where an address lies in the file, by its segments."""
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    if size < _PHDR.size or table + size * count > len(data):
        raise FormatError("has no whole table of segments", path=path)
    for number in range(count):
        kind, _, offset, begin, _, length, _, _ = _PHDR.unpack_from(data, table + number * size)
        if kind == _LOAD and begin <= address < begin + length:
            return int(address - begin + offset)
    raise FormatError(f"address {address:#x} lies in no segment", path=path)
