"""BTF: types, parsing, building, values by type, C's spelling. Pure."""

from ebpf.btf.build import Builder
from ebpf.btf.c import CPrinter, in_order
from ebpf.btf.check import check
from ebpf.btf.classes import Classes, Codec, number_codec, raw_codec
from ebpf.btf.core import Answer, Matcher, Relo, compatible
from ebpf.btf.edit import Editor, place_variables
from ebpf.btf.fields import kernel_fields
from ebpf.btf.header import c_header
from ebpf.btf.index import Index, build_index, essential
from ebpf.btf.names import prototype, type_name
from ebpf.btf.parse import Btf
from ebpf.btf.raw import fields, text
from ebpf.btf.select import Selection, kfuncs, select
from ebpf.btf.types import Enumerator, Kind, Member, SectionVar, Type
from ebpf.btf.values import Address, Hex, Value, read_value, show_value, write_value

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
    "fields",
    "in_order",
    "kernel_fields",
    "build_index",
    "check",
    "c_header",
    "compatible",
    "essential",
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
