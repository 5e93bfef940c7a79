"""BTF: types, parsing, building, values by type, C's spelling. Pure."""

from ebpf.btf.build import Builder, place_variables
from ebpf.btf.names import prototype, type_name
from ebpf.btf.parse import Btf
from ebpf.btf.types import Enumerator, Kind, Member, SectionVar, Type
from ebpf.btf.values import Value, read_value, write_value

__all__ = [
    "Btf",
    "Builder",
    "Enumerator",
    "Kind",
    "Member",
    "SectionVar",
    "Type",
    "Value",
    "place_variables",
    "prototype",
    "read_value",
    "type_name",
    "write_value",
]
