"""Subprograms, maps that C fills, and what cannot be linked."""

import struct
import time

import pytest

from ebpf.btf import Kind
from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.elf.static import link_objects
from ebpf.errors import FormatError
from ebpf.spec import ObjectSpec
from ebpf.uapi import MapFlag

HEAD = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#define SUB static __attribute__((noinline)) int
char LICENSE[] SEC("license") = "GPL";
"""
CALLS = """
SUB leaf(int x) { volatile int y = x; return y; }
SUB left(int x) { volatile int y = x; return leaf(y); }
SUB right(int x) { volatile int y = x; return leaf(y) + left(y); }
__attribute__((noinline)) int global(int x) { volatile int y = x; return right(y); }
SUB called_back(__u32 i, void *ctx) { volatile int y = i; return y + leaf(y); }
SEC("xdp") int main_right(struct xdp_md *ctx) { volatile int y = 1; return right(y) + left(y) + global(y); }
SEC("xdp") int main_loop(struct xdp_md *ctx) { return bpf_loop(3, called_back, 0, 0) + global(2); }
SEC("xdp") int alone(struct xdp_md *ctx) { return 2; }
"""
FILLED = """
struct inner { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u64); };
struct inner one SEC(".maps"), two SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS); __uint(max_entries, 4); __type(key, __u32); __array(values, struct inner); }
    outer SEC(".maps") = {.values = {[1] = &one, [3] = &two}};
int tail(struct xdp_md *ctx);
struct { __uint(type, BPF_MAP_TYPE_PROG_ARRAY); __uint(max_entries, 4); __uint(key_size, 4); __array(values, int (struct xdp_md *)); }
    jumps SEC(".maps") = {.values = {[2] = (void *)&tail}};
SEC("xdp") int tail(struct xdp_md *ctx) { return 3; }
"""


def read(text: str) -> ObjectSpec:
    return read_object(compile_c("t.bpf.c", text=HEAD + text).object, "t.bpf.o")


@pytest.mark.parametrize(
    ("program", "functions"),
    [
        ("main_right", ["main_right", "right", "leaf", "left", "global"]),
        ("main_loop", ["main_loop", "called_back", "leaf", "global", "right", "left"]),
        ("alone", ["alone"]),
    ],
)
def test_subprograms_follow_where_they_are_first_reached(program: str, functions: list[str]) -> None:
    spec = read(CALLS)
    assert spec.btf is not None
    found = spec.programs[program].func_infos
    assert [spec.btf.type(info.type_id).name for info in found] == functions
    assert [info.slot for info in found] == sorted(info.slot for info in found)


def test_lines_of_subprograms_follow_their_code() -> None:
    spec = read(CALLS).programs["main_right"]
    slots = [line.slot for line in spec.line_infos]
    assert slots == sorted(slots)
    assert {info.slot for info in spec.func_infos} <= set(slots)


def test_hidden_functions_are_static_for_a_kernel() -> None:
    btf = read("""
__hidden __attribute__((noinline)) int hidden(int x) { volatile int y = x; return y; }
__attribute__((noinline)) int global(int x) { volatile int y = x; return y; }
SEC("xdp") int p(struct xdp_md *ctx) { return hidden(1) + global(2); }
""").btf
    assert btf is not None
    found = {t.name: t.info for t in btf if t.kind == Kind.FUNC}
    assert found == {"hidden": 0, "global": 1, "p": 1}


@pytest.mark.parametrize("order", [1, -1])
def test_a_function_that_one_object_hides_is_hidden_in_all_that_are_linked(order: int) -> None:
    """Whether it is hidden where it is defined or where it is called, before the definition or after it."""
    texts = {
        "one": "int shown(int x) { return x; } int here(int x) { return x; } __hidden extern int there(int x);"
        'SEC("xdp") int a(struct xdp_md *ctx) { return there(1); }',
        "two": "int there(int x) { return x; } __hidden extern int here(int x); extern int shown(int x);"
        'SEC("xdp") int b(struct xdp_md *ctx) { return here(1) + shown(2); }',
    }
    objects = [(name, compile_c(f"{name}.c", text=HEAD + text).object) for name, text in texts.items()]
    btf = read_object(link_objects(objects[::order])).btf
    assert btf is not None
    assert {t.name: t.info for t in btf if t.kind == Kind.FUNC} == {"here": 0, "there": 0, "shown": 1, "a": 1, "b": 1}


def test_variables_of_each_object_begin_as_the_strictest_does() -> None:
    texts = {"one": "int a; __u64 b; __u32 c;", "two": "int d;", "three": "char e;"}
    objects = [(name, compile_c(f"{name}.c", text=HEAD + text).object) for name, text in texts.items()]
    variables = {v.name: v.offset for v in read_object(link_objects(objects)).maps[".bss"].variables}
    assert variables == {"a": 0, "b": 8, "c": 16, "d": 24, "e": 32}


def test_maps_that_c_fills_say_with_what() -> None:
    maps = read(FILLED).maps
    assert maps["outer"].slots == ((1, "one"), (3, "two"))
    assert maps["jumps"].slots == ((2, "tail"),)
    assert maps["outer"].inner is not None
    assert (maps["outer"].value_size, maps["outer"].inner.value_size) == (4, 8)


def test_sections_of_variables_are_maps_that_can_be_mapped() -> None:
    maps = read('static volatile int hidden; const volatile int port = 1; int mine SEC(".data.my-own") = 7; SEC("xdp") int p(void *c) '
                "{ hidden += port + mine; return 2; }").maps  # fmt: skip
    assert {key: (m.name, m.flags, m.frozen) for key, m in maps.items()} == {
        ".bss": ("t.bss", MapFlag(0), False),
        ".rodata": ("t.rodata", MapFlag.MMAPABLE | MapFlag.RDONLY_PROG, True),
        ".data.my-own": (".data.my_own", MapFlag.MMAPABLE, False),
    }


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('SEC("xdp") __attribute__((used)) static int p(void *c) { return 0; }', "static function cannot be a program"),
        ('struct { int x; } m SEC("maps"); SEC("xdp") int p(void *c) { return (long)&m; }', "legacy map definitions"),
        ('struct { __uint(max_entries, 1); } m SEC(".maps"); SEC("xdp") int p(void *c) { return (long)&m; }', "map 'm': has no type"),
        ('struct { __uint(type, 1); int *odd; } m SEC(".maps");', "map 'm', odd: is no field"),
        ('struct { __uint(type, 1); __uint(key_size, 4); __type(key, long); } m SEC(".maps");', "8 bytes, but key_size says 4"),
        ('struct { __uint(type, 1); __type(value, char[1u << 31][4]); } m SEC(".maps");', "larger than 4 GiB"),
    ],
    ids=["static program", "legacy", "no type", "field", "key size", "4 GiB"],
)
def test_what_cannot_be_read_is_said(text: str, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        read(text)


@pytest.mark.parametrize(
    ("text", "programs"),
    [
        ('SEC("nosuch") int p(void *c) { return 0; } SEC("xdp") int q(void *c) { return 2; }', {"p": 0, "q": 6}),
        ("int p(void *c) { return 0; }", {"p": 0}),
        ('int p(void *c) { return 0; } SEC("xdp") int q(void *c) { return 2; }', {"q": 6}),
    ],
    ids=["free-form", "alone without SEC", "beside a program without SEC"],
)
def test_a_section_that_says_nothing_gives_a_program_without_a_type(text: str, programs: dict[str, int]) -> None:
    assert {name: program.type for name, program in read(text).programs.items()} == programs


def test_a_section_that_says_nothing_is_what_the_reader_says() -> None:
    object_ = compile_c("t.bpf.c", text=HEAD + 'SEC("nosuch") int p(void *c) { return 0; }').object
    assert read_object(object_, section="xdp").programs["p"].type == 6


def elf(code: bytes, functions: list[tuple[int, int]], *, name: bytes = b"f", section: bytes = b"xdp") -> bytes:
    """An object with one section of code and (offset, size) functions in it, all of one name."""
    strings = b"\0" + section + b"\0.s\0" + name + b"\0"
    symbols = b"".join(struct.pack("<IBBHQQ", 5 + len(section), 0x12, 0, 1, at, size) for at, size in [(0, 0), *functions])
    at = 64 + 64 * 4
    rows, body = [bytes(64)], b""
    for kind, flags, data, link in [(1, 4, code, 0), (3, 0, strings, 0), (2, 0, symbols, 2)]:
        where = 1 if kind == 1 else 2 + len(section)
        rows.append(struct.pack("<IIQQQQIIQQ", where, kind, flags, 0, at + len(body), len(data), link, 0, 8, 0))
        body += data
    head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 1, 247, 1, 0, 0, 64, 0, 64, 0, 0, 64, 4, 2)
    return head + b"".join(rows) + body


EXIT = struct.pack("<BBhi", 0x95, 0, 0, 0)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (elf(EXIT * 30_000, [(8 * i, 8 * (30_000 - i)) for i in range(30_000)]), "overlaps"),
        (elf(EXIT * 30_000, [(8 * i, 8) for i in range(30_000)]), "is defined twice"),
        (elf(EXIT, [(0, 8)] * 10, name=b"x" * 1_000_000), "string"),
        (elf(EXIT, [(4, 8)]), "does not lie in its section"),
        (elf(EXIT, [(0, 16)]), "does not lie in its section"),
        (elf(EXIT[:7], [(0, 8)]), "not a whole number"),
        (elf(struct.pack("<BBhi", 0x85, 0x10, 0, 77) + EXIT, [(0, 16)]), "calls slot 78 of its section, where no function begins"),
    ],
    ids=["overlapping", "many", "long name", "misaligned", "too long", "torn", "wild call"],
)
def test_hostile_functions_are_refused_without_work_that_grows_with_their_square(data: bytes, why: str) -> None:
    begin = time.process_time()
    with pytest.raises(FormatError, match=why):
        read_object(data, "x.o")
    assert time.process_time() - begin < 5


def test_a_chain_of_twenty_thousand_subprograms_is_linked() -> None:
    """Each calls the next one: no recursion of ours, and no second look at all of them."""
    count = 20_000
    code = b"".join(struct.pack("<BBhi", 0x85, 0x10, 0, 1) + EXIT for _ in range(count - 1)) + EXIT * 2
    begin = time.process_time()
    with pytest.raises(FormatError, match="is defined twice"):
        read_object(elf(code, [(16 * i, 16) for i in range(count)]), "x.o")
    assert time.process_time() - begin < 3
