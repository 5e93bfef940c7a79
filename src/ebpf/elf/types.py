"""The types of a file, and what an object asks of a kernel's."""

from ebpf.btf import Btf
from ebpf.elf.ext import read_ext
from ebpf.elf.file import read_elf
from ebpf.errors import FormatError

_ELF = b"\x7fELF"


def read_types(data: bytes, path: str) -> Btf:
    """The types of a file of BTF, or of an ELF file (an object, a vmlinux). Raises FormatError."""
    if not data.startswith(_ELF):
        return Btf.parse(data, path)
    section = read_elf(data, path, any_machine=True).section(".BTF")
    if section is None:
        raise FormatError("has no section .BTF", path=path)
    return Btf.parse(section.data, path)


def core_records(data: bytes, path: str) -> tuple[Btf, list[tuple[int, str, int]]]:
    """An object's types, and its CO-RE records as (type, access, kind). Raises FormatError."""
    btf = read_types(data, path)
    section = read_elf(data, path).section(".BTF.ext")
    ext = read_ext(section.data, btf, path) if section is not None else None
    return btf, [(row[1], btf.string(row[2]), row[3]) for rows in (ext.core.values() if ext is not None else ()) for row in rows]
