"""BTF: what is parsed is what was built or compiled; values go both ways; damaged types end in a FormatError."""

import random
import struct
import time

import pytest

from ebpf.btf import Address, Btf, Builder, Kind, prototype, read_value, show_value, type_name, write_value
from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import FormatError

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
enum color { RED, GREEN = 5, NEG = -3 };
enum wide { SMALL = 1, BIG = 0x100000000ULL };
typedef const int number;
struct in { short s; unsigned char u; _Bool b; };
struct all {
    char name[8]; signed char c; enum color color; enum wide wide; struct in *p; number n; unsigned long u; struct in two[2];
    union { int i; unsigned j; }; struct { int k; }; int b1:3; unsigned b2:5; long b3:20; int grid[2][3]; double d; __int128 big;
    int (*fn)(int, struct in *);
};
struct all value;
__attribute__((noinline)) int helper(struct all *a, const char *s) { return a->n + s[0]; }
SEC("xdp") int count(struct xdp_md *ctx) { return helper(&value, (const char *)&value) ? 1 : 2; }
char LICENSE[] SEC("license") = "GPL";
"""


@pytest.fixture(scope="module")
def btf() -> Btf:
    found = read_object(compile_c("t.bpf.c", text=SOURCE).object, "t.bpf.o").btf
    assert found is not None
    return found


def whole(btf: Btf) -> int:
    found = btf.find("all", Kind.STRUCT)
    assert found is not None
    return found.id


PLAIN = {
    "name": "hello", "c": -1, "color": -3, "wide": 1 << 32, "p": 0xFFFF888000000000, "n": -7, "u": (1 << 64) - 1,
    "two": [{"s": -2, "u": 255, "b": True}, {"s": 3, "u": 0, "b": False}], "i": -1, "j": 0xFFFFFFFF, "k": 9, "b1": -2, "b2": 31, "b3": -5,
    "grid": [[1, 2, 3], [4, 5, 6]], "d": 1.5, "big": -(1 << 100), "fn": 0,
}  # fmt: skip


def test_a_value_that_is_written_is_read_back(btf: Btf) -> None:
    assert read_value(btf, whole(btf), write_value(btf, whole(btf), PLAIN)) == PLAIN


def test_a_value_is_shown_as_bpftool_shows_it(btf: Btf) -> None:
    shown = show_value(btf, whole(btf), write_value(btf, whole(btf), PLAIN))
    assert isinstance(shown, dict)
    assert (shown["name"], shown["color"], shown["wide"], shown["b1"]) == ("hello", "NEG", "BIG", "0x6")
    assert shown[""] == {"i": -1, "j": 0xFFFFFFFF, "k": 9}
    assert isinstance(shown["p"], Address)
    assert shown["big"] == hex((1 << 128) - (1 << 100))


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"abc\0\1\2\3\4", "abc"),
        (bytes(8), ""),
        (b"abcdefgh", [97, 98, 99, 100, 101, 102, 103, 104]),
        (b"a\n\0\0\0\0\0\0", [97, 10, 0, 0, 0, 0, 0, 0]),
        (b"\xff" * 8, [-1] * 8),
    ],
    ids=["text", "empty", "no NUL", "newline", "bytes"],
)
def test_a_char_array_is_text_only_if_it_prints(btf: Btf, raw: bytes, shown: object) -> None:
    value = show_value(btf, whole(btf), raw.ljust(btf.size_of(whole(btf)), b"\0"))
    assert isinstance(value, dict)
    assert value["name"] == shown


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"n": 1 << 32}, "does not fit 32 bits"),
        ({"b2": 32}, "does not fit 5 bits"),
        ({"nosuch": 1}, "no member 'nosuch'"),
        ({"color": "BLUE"}, "no 'BLUE'"),
        ({"name": "far too long"}, "12 bytes do not fit"),
        ({"n": "x"}, "is not a number"),
        (3, "is no struct all"),
    ],
)
def test_a_value_that_does_not_fit_is_said(btf: Btf, value, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        write_value(btf, whole(btf), value)


def test_too_few_bytes_are_said(btf: Btf) -> None:
    with pytest.raises(FormatError, match="are wanted, of 7"):
        read_value(btf, whole(btf), bytes(7))


def test_types_are_spelled_as_c_spells_them(btf: Btf) -> None:
    members = {m.name: type_name(btf, m.type_id) for m in btf.type(whole(btf)).members}
    assert (members["p"], members["color"], members["n"], members["two"]) == ("struct in *", "enum color", "number", "struct in[2]")
    assert members["fn"] == "int (int, struct in *)*"
    helper = btf.find("helper", Kind.FUNC)
    assert helper is not None
    assert prototype(btf, helper.id) == "int helper(struct all * a, const char * s)"


def test_a_data_section_has_its_size_and_its_variables_their_offsets(btf: Btf) -> None:
    bss = btf.find(".bss", Kind.DATASEC)
    assert bss is not None
    assert (bss.size, [v.size for v in bss.variables]) == (btf.size_of(whole(btf)), [bss.size])


def test_all_kinds_are_read_from_bytes() -> None:
    strings = b"\0a\0b\0"

    def one(kind: Kind, ref: int, extra: tuple[int, ...] = (), *, count: int = 0, flag: int = 0, name: int = 1) -> bytes:
        return struct.pack(f"<III{len(extra)}I", name, flag << 31 | kind << 24 | count, ref, *extra)

    rows = [
        one(Kind.INT, 4, (1 << 24 | 32,)),
        one(Kind.PTR, 1, name=0),
        one(Kind.ARRAY, 0, (1, 1, 7), name=0),
        one(Kind.STRUCT, 8, (1, 1, 3 << 24 | 5, 3, 1, 32), count=2, flag=1),
        one(Kind.UNION, 4, (1, 1, 0), count=1),
        one(Kind.ENUM, 4, (1, 0xFFFFFFFF), count=1, flag=1),
        one(Kind.FWD, 0, flag=1),
        one(Kind.TYPEDEF, 1),
        one(Kind.VOLATILE, 8, name=0),
        one(Kind.CONST, 9, name=0),
        one(Kind.RESTRICT, 10, name=0),
        one(Kind.FUNC_PROTO, 1, (1, 2, 0, 0), count=2, name=0),
        one(Kind.FUNC, 12, count=1),
        one(Kind.VAR, 11, (1,)),
        one(Kind.DATASEC, 4, (14, 0, 4), count=1),
        one(Kind.FLOAT, 8),
        one(Kind.DECL_TAG, 4, (1,)),
        one(Kind.TYPE_TAG, 1),
        one(Kind.ENUM64, 8, (1, 5, 0xFFFFFFFF), count=1, flag=1),
    ]
    types = b"".join(rows)
    btf = Btf.parse(struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings)) + types + strings)
    assert [t.kind for t in btf][1:7] == [Kind.INT, Kind.PTR, Kind.ARRAY, Kind.STRUCT, Kind.UNION, Kind.ENUM]
    assert len(btf) == len(rows) + 1 == len(Kind)
    assert [(m.bits, m.bitfield) for m in btf.type(4).members] == [(5, 3), (32, 0)]
    assert (btf.type(6).enumerators[0].value, btf.type(19).enumerators[0].value) == (-1, 5 - (1 << 32))
    assert (btf.size_of(14), btf.size_of(3), btf.size_of(2), btf.resolve(11).name) == (4, 28, 8, "a")


def test_what_is_built_is_parsed() -> None:
    b = Builder()
    number = b.integer("int", 4, signed=True)
    pair = b.struct("pair", 8, [("x", number, 0), ("y", number, 4)])
    name = b.typedef("pair_t", pair)
    built = b.build()
    assert (built.size_of(name), built.resolve(name).name) == (8, "pair")
    assert read_value(built, name, struct.pack("<ii", -1, 2)) == {"x": -1, "y": 2}
    assert Btf.parse(built.raw).types == built.types


def looped() -> Btf:
    b = Builder()
    b.typedef("a", 2)
    b.typedef("b", 1)
    return b.build()


def test_a_loop_of_typedefs_is_said() -> None:
    with pytest.raises(FormatError, match="refers to itself"):
        looped().size_of(1)


def nested(levels: int, width: int) -> Btf:
    """Structs of no size, each `width` times in the next one."""
    b = Builder()
    inner = b.integer("int", 0)
    for level in range(levels):
        inner = b.struct(f"s{level}", 0, [(f"m{i}", inner, 0) for i in range(width)])
    return b.build()


@pytest.mark.parametrize(("levels", "width"), [(5000, 1), (60, 2), (4, 300)], ids=["deep", "doubling", "wide"])
def test_types_within_types_end_soon(levels: int, width: int) -> None:
    built = nested(levels, width)
    begin = time.monotonic()
    with pytest.raises(FormatError, match=r"too deeply|too many values"):
        read_value(built, len(built) - 1, bytes(8))
    assert time.monotonic() - begin < 10


def test_function_types_within_function_types_end_soon() -> None:
    b = Builder()
    inner = b.integer("int", 4)
    for _ in range(40):
        inner = b.ptr(b.func_proto(inner, [("a", inner), ("b", inner)]))
    assert "..." in type_name(b.build(), inner)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda r: r[:10], "too few for a header"),
        (lambda r: b"\xeb\x9f" + r[2:], "big-endian"),
        (lambda r: b"PK" + r[2:], "magic"),
        (lambda r: r[:2] + b"\x07" + r[3:], "version 7"),
        (lambda r: r[:-5], "past the end"),
        (lambda r: r[:24] + b"\xff" * 4 + r[28:], "string offset"),
        (lambda r: r[:31] + b"\x1f" + r[32:], "kind 31"),
        (lambda r: r[:-1] + b"x", "begin and end with NUL"),
    ],
    ids=["header", "big-endian", "magic", "version", "torn", "name", "kind", "strings"],
)
def test_what_is_no_btf_is_said(change, why: str) -> None:
    b = Builder()
    b.typedef("t", b.integer("int", 4))
    with pytest.raises(FormatError, match=why):
        Btf.parse(change(b.raw()), "x.o")


def test_a_thousand_damaged_types_end_in_a_format_error_or_a_value(btf: Btf) -> None:
    r = random.Random(3)
    refused = 0
    for _ in range(1000):
        raw = bytearray(btf.raw)
        for _ in range(r.choice([1, 2, 8])):
            raw[r.randrange(len(raw))] = r.randrange(256)
        try:
            read = Btf.parse(bytes(raw))
            for id_ in range(len(read)):
                type_name(read, id_)
                read_value(read, id_, bytes(256))
        except FormatError:
            refused += 1
    assert refused > 500
