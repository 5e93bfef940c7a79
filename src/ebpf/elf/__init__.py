"""Bytes of an eBPF object file to an ObjectSpec."""

from ebpf.elf.file import ElfFile, Section, SectionType, Symbol, read_elf
from ebpf.elf.read import object_name, read_object
from ebpf.elf.symbols import file_offset

__all__ = ["ElfFile", "Section", "SectionType", "Symbol", "file_offset", "object_name", "read_elf", "read_object"]
