"""BTF: types, parsing, building, values by type, C's spelling. Pure."""

from ebpf.btf.build import Builder, place_variables
from ebpf.btf.c import CPrinter, in_order
from ebpf.btf.names import prototype, type_name
from ebpf.btf.parse import Btf
from ebpf.btf.raw import fields, text
from ebpf.btf.types import Enumerator, Kind, Member, SectionVar, Type
from ebpf.btf.values import Address, Hex, Value, read_value, show_value, write_value

__all__ = [
    "Address",
    "Btf",
    "Builder",
    "CPrinter",
    "Enumerator",
    "Hex",
    "Kind",
    "Member",
    "SectionVar",
    "Type",
    "Value",
    "fields",
    "in_order",
    "place_variables",
    "prototype",
    "read_value",
    "show_value",
    "text",
    "type_name",
    "write_value",
]
