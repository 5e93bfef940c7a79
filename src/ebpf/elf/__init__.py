"""Bytes of an eBPF object file to an ObjectSpec."""

from typing import TYPE_CHECKING

from ebpf.elf.file import ElfFile, Section, SectionType, Symbol, read_elf
from ebpf.elf.read import object_name, read_object
from ebpf.lazy import names

if TYPE_CHECKING:
    from ebpf.elf.symbols import file_offset, function_offsets
    from ebpf.elf.usdt import Probe, read_probes

__getattr__ = names(
    __name__,
    {
        "file_offset": "symbols",
        "function_offsets": "symbols",
        "Probe": "usdt",
        "read_probes": "usdt",
    },
)

__all__ = [
    "ElfFile",
    "Probe",
    "Section",
    "SectionType",
    "Symbol",
    "file_offset",
    "function_offsets",
    "object_name",
    "read_elf",
    "read_object",
    "read_probes",
]
