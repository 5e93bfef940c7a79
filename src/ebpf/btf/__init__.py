"""BTF: types, parsing, building, values by type, C's spelling. Pure."""

from typing import TYPE_CHECKING

from ebpf.btf.check import check
from ebpf.btf.index import Index, build_index, essential
from ebpf.btf.parse import Btf
from ebpf.btf.raw import fields, text
from ebpf.btf.types import Enumerator, Kind, Member, SectionVar, Type
from ebpf.lazy import names

if TYPE_CHECKING:
    from ebpf.btf.build import Builder
    from ebpf.btf.c import CPrinter
    from ebpf.btf.classes import Classes, Codec, number_codec, raw_codec
    from ebpf.btf.core import Answer, Matcher, Relo, compatible
    from ebpf.btf.edit import Editor, place_variables
    from ebpf.btf.header import c_header
    from ebpf.btf.names import prototype, type_name
    from ebpf.btf.order import in_order
    from ebpf.btf.selection import Selection, kfuncs, select
    from ebpf.btf.special import kernel_fields
    from ebpf.btf.values import Address, Hex, Value, read_value, show_value, write_value

__getattr__ = names(
    __name__,
    {
        "Builder": "build",
        "CPrinter": "c",
        "in_order": "order",
        "Classes": "classes",
        "Codec": "classes",
        "number_codec": "classes",
        "raw_codec": "classes",
        "Answer": "core",
        "Matcher": "core",
        "Relo": "core",
        "compatible": "core",
        "Editor": "edit",
        "place_variables": "edit",
        "c_header": "header",
        "prototype": "names",
        "type_name": "names",
        "Selection": "selection",
        "kfuncs": "selection",
        "select": "selection",
        "kernel_fields": "special",
        "Address": "values",
        "Hex": "values",
        "Value": "values",
        "read_value": "values",
        "show_value": "values",
        "write_value": "values",
    },
)

__all__ = [
    "Address",
    "Answer",
    "Btf",
    "Builder",
    "CPrinter",
    "Classes",
    "Codec",
    "Editor",
    "Enumerator",
    "Hex",
    "Index",
    "Kind",
    "Matcher",
    "Member",
    "Relo",
    "SectionVar",
    "Selection",
    "Type",
    "Value",
    "build_index",
    "c_header",
    "check",
    "compatible",
    "essential",
    "fields",
    "in_order",
    "kernel_fields",
    "kfuncs",
    "number_codec",
    "place_variables",
    "prototype",
    "raw_codec",
    "read_value",
    "select",
    "show_value",
    "text",
    "type_name",
    "write_value",
]
