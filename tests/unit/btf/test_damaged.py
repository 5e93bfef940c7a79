"""Damaged types: printed as C, in order, or as bpftool lists them, they end in a FormatError or a text, and soon."""

import random
import struct
import time

import pytest

from ebpf.btf import Btf, Builder, CPrinter, Editor, Kind, in_order, place_variables, text
from ebpf.errors import FormatError


def built() -> Builder:
    """Types of many kinds, small, so that most changes of a byte change one."""
    b = Builder()
    int_ = b.integer("int", 4)
    char = b.integer("char", 1)
    name = b.typedef("name_t", b.array(char, 16, int_))
    inner = b.struct("inner", 24, [("at", int_, 0), ("name", name, 64)])
    node = b.struct("node", 40, [("next", b.ptr(inner), 0), ("inner", inner, 64), ("last", int_, 256)])
    b.func("count", b.func_proto(int_, [("node", b.ptr(node)), ("name", name)]))
    b.datasec(".data", 40, [(b.var("value", node), 0, 40)])
    return b


def whole(btf: Btf) -> str:
    """Everything that is printed of types."""
    c = "".join(CPrinter(btf).definitions(in_order(btf)))
    return c + "".join(CPrinter(btf).definitions(range(1, len(btf)))) + "\n".join(text(btf, type_) for type_ in btf)


def test_thousands_of_damaged_types_end_in_a_format_error_or_a_text() -> None:
    raw, r = built().raw(), random.Random(7)
    refused, printed, longest = 0, 0, 0.0
    for _ in range(2000):
        damaged = bytearray(raw)
        for _ in range(r.choice([1, 1, 2, 4])):
            damaged[r.randrange(24, len(damaged))] = r.choice([0, 1, 2, 0x7F, 0x80, 0xFF, r.randrange(256)])
        begin = time.process_time()
        try:
            printed += bool(whole(Btf.parse(bytes(damaged), "x.o")))
        except FormatError:
            refused += 1
        longest = max(longest, time.process_time() - begin)
    assert printed > 200
    assert refused > 200
    assert longest < 2


def test_a_damaged_size_does_not_become_a_million_lines_of_padding() -> None:
    b = Builder()
    b.struct("far", 0xFFFFFFF0, [("i", b.integer("int", 4), 0)])
    with pytest.raises(FormatError, match=r"x\.o.*bits of padding are too many"):
        list(CPrinter(Btf.parse(b.raw(), "x.o")).definitions([2]))


def test_a_large_gap_is_padded() -> None:
    b = Builder()
    b.struct("wide", 1 << 16, [("i", b.integer("int", 4), 0)])
    assert "".join(CPrinter(b.build()).definitions([2])).count("\tlong: 64;\n") == (1 << 16) // 8 - 1


def test_a_member_of_a_type_that_is_not_there_is_said() -> None:
    b = Builder()
    b.struct("torn", 4, [("i", 77, 0)])
    with pytest.raises(FormatError, match=r"x\.o.*refers to type 77 of 2"):
        list(CPrinter(Btf.parse(b.raw(), "x.o")).definitions([1]))


def test_a_struct_of_integers_without_a_size_is_printed() -> None:
    b = Builder()
    b.struct("empty", 4, [("i", b.integer("none", 0), 0)])
    assert "none i;" in "".join(CPrinter(b.build()).definitions([2]))


def test_an_empty_struct_is_printed() -> None:
    b = Builder()
    b.struct("empty", 0, [])
    assert "".join(CPrinter(b.build()).definitions([1])) == "struct empty {};\n\n"


@pytest.mark.parametrize("value", [-1, 1 << 32, 1 << 63])
def test_a_word_that_is_too_large_is_said(value: int) -> None:
    btf = Btf.parse(built().raw(), "x.o")
    with pytest.raises(FormatError, match=rf"x\.o.*{value} does not fit into 32 bits"):
        Editor(btf).set(1, 2, value)


def test_a_variable_that_lies_too_far_away_is_said() -> None:
    btf = Btf.parse(built().raw(), "x.o")
    with pytest.raises(FormatError, match="does not fit into 32 bits"):
        place_variables(btf, {".data": 40}, {"value": 1 << 32})
    placed = place_variables(btf, {".data": 40}, {"value": (1 << 32) - 1})
    section = placed.find(".data", Kind.DATASEC)
    assert section is not None
    assert section.variables[0].offset == (1 << 32) - 1
    assert struct.unpack_from("<H", placed.raw)[0] == 0xEB9F


def test_what_no_wanted_type_leads_to_is_not_read() -> None:
    # The types of a kernel are a hundred thousand: a header for one program reads those that it prints.
    b = Builder()
    level = b.struct("leveled", 4, [("level", b.enum("", [("LOW", 0), ("HIGH", 1)]), 0)])
    b.struct("broken", 4, [("nothing", 999, 0)])
    btf = b.build()
    assert "\tenum {\n\t\tLOW = 0,\n\t\tHIGH = 1,\n\t} level;" in "".join(CPrinter(btf).definitions([level]))
    with pytest.raises(FormatError, match="refers to type 999"):
        list(CPrinter(btf).definitions(range(1, len(btf))))
