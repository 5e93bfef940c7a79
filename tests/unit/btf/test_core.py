"""CO-RE answers: what a program asks of its own types, answered by a kernel's, is what the compiler says of the kernel's types."""

import struct

import pytest

from ebpf.btf import Btf, Builder, Index, Kind, Matcher, build_index, essential
from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import FormatError
from ebpf.spec import ObjectSpec

HEAD = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
char LICENSE[] SEC("license") = "GPL";
"""
#: The kernel: types, and what the compiler knows of them.
KERNEL = (
    HEAD
    + """
struct leaf { short a; int b; };
typedef int (*callback)(struct leaf *l, unsigned n);
typedef long number;
enum color { RED, GREEN = 7, BLUE = -2 };
enum wide { W = 0x100000005ULL };
struct late { long first; union { struct { int hidden; struct leaf leaf; }; long other; }; unsigned f1:5; int f2:20; unsigned long f3:40;
              struct leaf many[4]; enum color color; struct leaf *next; unsigned tail[]; };
struct twice { int a; }; struct twice___b { int pad; int a; };
struct same { int a; }; struct same___b { int a; int b; };
struct moved { int x; number n; }; union either { int i; long l; }; struct array { int a[3]; };
struct late late; callback c; number n; enum color color; enum wide wide; struct twice t1; struct twice___b t2; struct moved m;
struct same s1; struct same___b s2; union either e; struct array ar;
long known[] = { __builtin_offsetof(struct late, hidden), __builtin_offsetof(struct late, leaf.b), __builtin_offsetof(struct late, many[2].b),
                 __builtin_offsetof(struct late, tail), sizeof(struct late), sizeof(struct leaf), __builtin_offsetof(struct late, color) };
"""
)
PROGRAM = (
    HEAD
    + """
#define CORE __attribute__((preserve_access_index))
struct leaf { int b; } CORE;
struct late___mine { int hidden; struct leaf leaf; struct leaf many[3]; int f2:20; unsigned f1:5; unsigned long f3:40;
                     enum color { GREEN___x = 1, PURPLE, BLUE = 1 } color; struct leaf *next; int none; float other; unsigned tail[]; } CORE;
struct twice { int a; } CORE; struct same { int a; } CORE;
typedef int (*callback)(struct leaf *l, unsigned n); typedef int (*callback___two)(int a, int b, int c); typedef int number;
enum wide { W };
struct moved { long n; } CORE; struct moved___bad { int *n; } CORE; union either { int i; } CORE; struct array { int a[3]; }; struct array___b { int a[4]; };
struct either___struct { int i; } CORE; struct none { int x; } CORE;
long out[40];
#define L ((struct late___mine *)ctx)
SEC("raw_tp") int asks(void *ctx)
{
    BODY
    return 0;
}
"""
)


def compiled(text: str) -> ObjectSpec:
    return read_object(compile_c("core.bpf.c", text=text).object, "core.bpf.o")


@pytest.fixture(scope="module")
def kernel() -> tuple[Btf, tuple[int, ...]]:
    spec = compiled(KERNEL)
    assert spec.btf is not None
    data = spec.maps[".data"]
    place = next(v for v in data.variables if v.name == "known")
    assert data.initial is not None
    return spec.btf, struct.unpack_from("<7q", data.initial, place.offset)


def asked(kernel: Btf, question: str, *, index: bool = False) -> tuple[object, ...]:
    """The answers to the records that a statement leaves, in order."""
    spec = compiled(PROGRAM.replace("BODY", f"out[0] = {question};"))
    assert spec.btf is not None
    target = Btf.parse(kernel.raw, index=Index(build_index(kernel))) if index else kernel
    matcher = Matcher(spec.btf, lambda: [target])
    records = list(spec.programs["asks"].core_relocs)
    assert records
    answers = [matcher.answer(r.type_id, r.access, r.kind) for r in records]
    return tuple(None if a.poisoned else a.new for a in answers)


OFFSET = "__builtin_preserve_field_info({}, BPF_FIELD_BYTE_OFFSET)"


@pytest.mark.parametrize("index", [False, True], ids=["walked", "indexed"])
@pytest.mark.parametrize(
    ("field", "at"),
    [("L->hidden", 0), ("L->leaf.b", 1), ("L->many[2].b", 2), ("L->tail[0]", 3), ("L->color", 6)],
)
def test_an_offset_is_the_compilers(kernel: tuple[Btf, tuple[int, ...]], field: str, at: int, index: bool) -> None:
    assert asked(kernel[0], OFFSET.format(field), index=index) == (kernel[1][at],)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("bpf_core_type_size(struct leaf)", 8),
        ("bpf_core_type_exists(struct late___mine)", 1),
        ("bpf_core_type_exists(struct none)", 0),
        ("bpf_core_type_exists(callback)", 1),
        ("bpf_core_type_exists(callback___two)", 0),
        ("bpf_core_type_exists(struct either___struct)", 0),
        ("bpf_core_type_exists(number)", 1),
        ("bpf_core_type_matches(number)", 0),
        ("bpf_core_type_matches(struct leaf)", 1),
        ("bpf_core_type_matches(struct array)", 1),
        ("bpf_core_type_matches(struct array___b)", 0),
        ("bpf_core_type_matches(struct moved)", 1),
        ("bpf_core_type_matches(callback)", 1),
        ("bpf_core_field_exists(L->hidden)", 1),
        ("bpf_core_field_exists(L->none)", 0),
        ("bpf_core_field_exists(L->other)", 0),
        ("bpf_core_field_exists(((struct moved *)ctx)->n)", 1),
        ("bpf_core_field_exists(((struct moved___bad *)ctx)->n)", 0),
        ("bpf_core_field_exists(L->many[2])", 1),
        ("bpf_core_field_exists(((struct array *)ctx)->a)", 1),
        ("bpf_core_field_size(L->many)", 32),
        ("bpf_core_field_size(L->many[1])", 8),
        ("bpf_core_field_size(((union either *)ctx)->i)", 4),
        ("bpf_core_enum_value(enum color, GREEN___x)", 7),
        ("bpf_core_enum_value(enum color, BLUE)", (1 << 64) - 2),
        ("bpf_core_enum_value(enum color, PURPLE)", None),
        ("bpf_core_enum_value_exists(enum color, PURPLE)", 0),
        ("bpf_core_enum_value(enum wide, W)", 0x100000005),
        ("bpf_core_enum_value_exists(enum wide, W)", 1),
        ("bpf_core_field_offset(L->none)", None),
        ("__builtin_preserve_field_info(L->f2, BPF_FIELD_SIGNED)", 1),
        ("__builtin_preserve_field_info(L->f1, BPF_FIELD_SIGNED)", 0),
        ("__builtin_preserve_field_info(L->f2, BPF_FIELD_RSHIFT_U64)", 44),
        ("__builtin_preserve_field_info(L->f3, BPF_FIELD_BYTE_SIZE)", 8),
    ],
)
def test_a_question_has_its_answer(kernel: tuple[Btf, tuple[int, ...]], question: str, answer: int | None) -> None:
    assert asked(kernel[0], question) == (answer,)


@pytest.mark.parametrize("field", ["f1", "f2", "f3"])
def test_a_bit_field_is_read_by_the_answers(kernel: tuple[Btf, tuple[int, ...]], field: str) -> None:
    ask = "__builtin_preserve_field_info(L->{}, BPF_FIELD_{})"
    at, size, left, right = (
        asked(kernel[0], ask.format(field, what))[0] for what in ("BYTE_OFFSET", "BYTE_SIZE", "LSHIFT_U64", "RSHIFT_U64")
    )
    assert isinstance(at, int)
    assert isinstance(size, int)
    assert isinstance(left, int)
    assert isinstance(right, int)
    late = kernel[0].find("late", Kind.STRUCT)
    assert late is not None
    place = next(m for m in late.members if m.name == field)
    pattern = 0x5A5A5A5A5A5A5A5A & ((1 << place.bitfield) - 1)
    memory = (pattern << place.bits).to_bytes(late.size + 8, "little")
    value = int.from_bytes(memory[at : at + size], "little") << left & (1 << 64) - 1
    assert value >> right == pattern


def test_candidates_that_disagree_are_refused_and_those_that_agree_taken(kernel: tuple[Btf, tuple[int, ...]]) -> None:
    with pytest.raises(FormatError, match=r"struct twice\.a: is ambiguous: it would be 0 by type \d+, and 4 by type \d+"):
        asked(kernel[0], OFFSET.format("((struct twice *)ctx)->a"))
    assert asked(kernel[0], OFFSET.format("((struct same *)ctx)->a")) == (0,)


def simple() -> Btf:
    b = Builder()
    number = b.integer("int", 4, signed=True)
    b.struct("s", 4, [("a", number, 0)])
    b.struct("", 4, [("a", number, 0)])
    return b.build()


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ((2, "0:1", 0), "names member 1 of 1"),
        ((2, "0:0:0", 0), "goes into a int"),
        ((2, "", 0), "is no list of numbers"),
        ((2, "0:x", 0), "is no list of numbers"),
        ((2, "-1", 0), "is no list of numbers"),
        ((2, "1", 8), "is not 0"),
        ((1, "0", 10), "is no enumerator"),
        ((2, "0:0", 13), "relocation kind 13 is not known"),
        ((9, "0:0", 0), "type id 9 of 4"),
        ((3, "0:0", 0), "has no name"),
        ((2, ":".join(["0"] * 100), 0), "is no list of numbers"),
    ],
)
def test_a_record_without_sense_is_said(record: tuple[int, str, int], why: str) -> None:
    with pytest.raises(FormatError, match=why):
        Matcher(simple(), lambda: [simple()]).answer(*record)


@pytest.mark.parametrize(
    ("name", "is_"),
    [("a", "a"), ("a___b", "a"), ("a___", "a___"), ("___a", "___a"), ("a____b", "a____b"), ("a___b___c", "a___b"), ("a___b____c", "a")],
)
def test_a_flavour_is_what_follows_three_underscores(name: str, is_: str) -> None:
    assert essential(name) == is_


def test_a_module_goes_on_where_the_kernel_ends() -> None:
    base = simple()
    # A struct with two members of the base's types: `a` is a string of the base, the names `m` and `b` are its own.
    strings = b"m\0b\0"
    first = base.strings_end
    a = base.all_strings().index(b"a\0")
    types = struct.pack("<III", first, Kind.STRUCT << 24 | 2, 8) + struct.pack("<IIIIII", a, 1, 0, first + 2, 2, 32)
    module = base.split(struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings)) + types + strings)
    found = module.find("m", Kind.STRUCT)
    assert found is not None
    assert (found.id, [(m.name, module.name(m.type_id)) for m in found.members]) == (len(base), [("a", "int"), ("b", "s")])
    assert (module.type(1), module.size_of(2), len(module), module.own) == (base.type(1), 4, len(base) + 1, range(len(base), len(base) + 1))
    assert module.find("s", Kind.STRUCT) is None


def test_an_index_that_is_torn_is_none() -> None:
    whole = build_index(simple())
    for data in (b"", whole[:-4], b"1234" + whole[4:]):
        with pytest.raises(ValueError, match="index"):
            Index(data)
