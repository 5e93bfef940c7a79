"""Objects: what is read out of them, and what becomes of damaged ones."""

import random
import time

import pytest

from ebpf.compile import compile_c
from ebpf.elf import object_name, read_object
from ebpf.errors import FormatError
from ebpf.isa import by_slot, decode
from ebpf.isa.opcodes import CALL
from ebpf.spec import RelocKind
from ebpf.uapi import AttachType, MapFlag, MapType, ProgType

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct key { int a; char name[12]; };
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 100); __type(key, struct key); __type(value, __u64); } table SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 8192); } ring SEC(".maps");
int counter = 0;
int limits[2] = {3, 4};
const volatile int port = 80;
static __attribute__((noinline)) int twice(int x) { volatile int y = x * 2; return y; }
__attribute__((noinline)) int thrice(int x) { return twice(x) + x; }
SEC("xdp") int first(struct xdp_md *ctx)
{
    struct key k = {.a = port};
    __u64 *v = bpf_map_lookup_elem(&table, &k);
    counter += thrice(limits[1]);
    return v ? XDP_PASS : XDP_DROP;
}
SEC("?kprobe/do_unlinkat") int second(void *ctx) { return twice(counter); }
char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""


@pytest.fixture(scope="module")
def data() -> bytes:
    return compile_c("thing.bpf.c", text=SOURCE).object


def test_programs_have_their_type_target_and_licence(data: bytes) -> None:
    spec = read_object(data, "thing.bpf.o")
    first, second = spec.programs["first"], spec.programs["second"]
    assert (first.type, first.attach_type, first.autoload, first.license) == (ProgType.XDP, AttachType.XDP, True, "Dual BSD/GPL")
    assert (second.type, second.attach_to, second.autoload) == (ProgType.KPROBE, "do_unlinkat", False)


def test_maps_have_their_shape(data: bytes) -> None:
    maps = read_object(data, "thing.bpf.o").maps
    table = maps["table"]
    assert (table.type, table.key_size, table.value_size, table.max_entries) == (MapType.HASH, 16, 8, 100)
    assert (maps["ring"].type, maps["ring"].max_entries) == (MapType.RINGBUF, 8192)
    assert (maps[".bss"].name, maps[".bss"].flags, maps[".bss"].value_size) == ("thing.bss", MapFlag.MMAPABLE, 4)
    assert (maps[".rodata"].frozen, maps[".data"].initial) == (True, (3).to_bytes(4, "little") + (4).to_bytes(4, "little"))


@pytest.mark.parametrize("number", [16, 1 << 44, (1 << 64) - 4096, "-1"])
def test_a_number_of_64_bits_is_read_where_a_map_takes_one(number: int | str) -> None:
    text = f"""#include <linux/bpf.h>
    #include <bpf/bpf_helpers.h>
    struct {{ __uint(type, BPF_MAP_TYPE_ARENA); __uint(map_flags, BPF_F_MMAPABLE); __uint(max_entries, 10); __ulong(map_extra, {number}); }}
        arena SEC(".maps");"""
    assert read_object(compile_c("a.c", text=text).object).maps["arena"].map_extra == int(number) & (1 << 64) - 1


def test_a_function_of_no_section_is_not_loaded_unless_it_is_taken_for_a_program() -> None:
    data = compile_c("a.c", text="int f(void *ctx) { return 1; }").object
    assert [program.autoload for program in read_object(data).programs.values()] == [False]
    assert [program.autoload for program in read_object(data, section="xdp").programs.values()] == [True]


PINNED = """#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct inner { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u32); __uint(pinning, %d); };
struct { __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS); __uint(max_entries, 1); __type(key, __u32); __array(values, struct inner); } outer SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); __uint(pinning, %d); } ring SEC(".maps");
"""


@pytest.mark.parametrize(
    ("inner", "outer", "why"), [(0, 2, "'ring', pinning: is 2; it is"), (1, 1, "'outer.inner', pinning: an inner map is not pinned")]
)
def test_a_map_is_pinned_by_its_name_or_not_at_all(inner: int, outer: int, why: str) -> None:
    assert read_object(compile_c("a.c", text=PINNED % (0, 1)).object).maps["ring"].pinning == 1
    with pytest.raises(FormatError, match=why):
        read_object(compile_c("a.c", text=PINNED % (inner, outer)).object)


def test_subprograms_are_appended_and_their_calls_lead_to_them(data: bytes) -> None:
    first = read_object(data, "thing.bpf.o").programs["first"]
    slots = by_slot(decode(first.insns))
    starts = {info.slot for info in first.func_infos}
    calls = {slot + 1 + insn.imm for slot, insn in enumerate(slots) if insn is not None and insn.opcode == CALL and insn.src == 1}
    assert len(starts) == 3
    assert calls == starts - {0}


def test_relocations_name_maps_and_variables(data: bytes) -> None:
    relocs = {(r.kind, r.symbol) for r in read_object(data, "thing.bpf.o").programs["first"].relocs}
    assert {(RelocKind.MAP_FD, "table"), (RelocKind.MAP_VALUE, ".bss"), (RelocKind.MAP_VALUE, ".data")} <= relocs


def test_lines_belong_to_the_source(data: bytes) -> None:
    first = read_object(data, "thing.bpf.o").programs["first"]
    assert {line.path for line in first.line_infos} == {"thing.bpf.c"}
    assert any("bpf_map_lookup_elem" in line.text for line in first.line_infos)


def test_the_same_bytes_give_the_same_spec(data: bytes) -> None:
    one, two = read_object(data, "thing.bpf.o"), read_object(data, "thing.bpf.o")
    assert (one.programs, one.maps) == (two.programs, two.maps)


@pytest.mark.parametrize(
    ("path", "name"), [("a/hello.bpf.o", "hello"), ("hello.o", "hello"), ("x.y.o", "x"), ("my-prog.bpf.o", "my_prog"), ("", "obj")]
)
def test_the_name_of_an_object(path: str, name: str) -> None:
    assert object_name(path) == name


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda d: b"", "is not an ELF object"),
        (lambda d: d[:20], "is cut off"),
        (lambda d: b"\x7fELF\x01" + d[5:], "not a 64-bit"),
        (lambda d: d[:5] + b"\x02" + d[6:], "big-endian"),
        (lambda d: d[:18] + b"\x3e\x00" + d[20:], "another machine"),
        (lambda d: d[:-200], "section table"),
    ],
    ids=["empty", "head", "32-bit", "big-endian", "x86", "tail"],
)
def test_what_is_no_object_is_said(data: bytes, change, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        read_object(change(data), "x.o")


def test_two_thousand_damaged_objects_end_in_a_format_error_or_a_spec(data: bytes) -> None:
    r = random.Random(1)
    refused = 0
    for _ in range(2000):
        damaged = bytearray(data)
        kind = r.random()
        for _ in range(r.choice([1, 1, 2, 8])):
            damaged[r.randrange(len(damaged))] = r.randrange(256)
        if kind < 0.15:
            damaged = damaged[: r.randrange(len(damaged))]
        elif kind < 0.25:
            at, size = r.randrange(len(damaged)), r.randrange(64)
            damaged[at : at + size] = damaged[r.randrange(len(damaged)) :][:size]
        begin = time.process_time()
        try:
            read_object(bytes(damaged), "x.o")
        except FormatError:
            refused += 1
        assert time.process_time() - begin < 1
    assert refused > 100
