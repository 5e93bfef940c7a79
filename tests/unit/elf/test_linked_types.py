"""The types of a linked object: each once, as libbpf's linker leaves them."""

import shutil
import subprocess
from pathlib import Path

import pytest

from ebpf.btf import Btf, Kind
from ebpf.btf.dedup import canonical
from ebpf.compile import compile_c
from ebpf.elf.static import link_objects
from ebpf.elf.types import read_types

BPFTOOL = shutil.which("bpftool") or shutil.which("bpftool", path="/usr/sbin:/sbin")
HEAD = "#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n"
#: Between them: graphs that go round, structs that one file only declares, enums, prototypes, declarations before and after the
#: definition (of another type's name too), sections that only one of them gives, variables of a file's own.
SOURCES = {
    "first": """
struct node; struct list { struct node *head; int n; };
struct shared { int a; struct list *up; enum { X, Y } e; };
enum named { P, Q = 7 }; typedef int number_t; struct full { int a; };
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 4); __type(key, int); __type(value, struct shared); } table SEC(".maps");
int counter; static int own = 3; struct list list; enum named named;
extern number_t defined; extern const int constant; extern struct full full; extern int LINUX_KERNEL_VERSION __kconfig;
extern int other(struct shared *, const char *); extern int missing(int) __weak;
__weak int both(int a) { return a + 1; }
SEC("xdp") int first(struct xdp_md *c) {
    struct shared s = {counter + own}; list.n = 1;
    return other(&s, (void *)0) + named + defined + constant + full.a + LINUX_KERNEL_VERSION + both(2) + (missing ? 1 : 0);
}
char LICENSE[] SEC("license") = "GPL";""",
    "second": """
struct node { struct list *up; struct node *next; int v; }; struct list { struct node *head; int n; };
struct shared { int a; struct list *up; enum { X, Y } e; };
enum named { P, Q = 7 }; struct full { int a; };
extern int counter; static int own = 4; long extra[3]; enum named again; struct node some; struct list few[2];
int defined; const int constant = 5; struct full full; extern int LINUX_KERNEL_VERSION __kconfig;
__noinline int other(struct shared *s, const char *c) { return s ? s->a + counter + own++ + extra[1] + LINUX_KERNEL_VERSION : 0; }
__weak int both(int b) { return b + 2; }
SEC("tc") int second(struct __sk_buff *c) { struct shared s = {1}; some.v = few[1].n; return other(&s, "a") + again + both(1); }
char _license[] SEC("license") = "GPL";""",
    "third": """
union u { int a; short b; }; typedef void (*callback_t)(const char *, ...); struct bits { int a : 3; unsigned b : 5; };
union u u; callback_t callback; struct bits bits; const volatile int limit = 3; double wide SEC(".data.wide");
SEC("xdp") int third(struct xdp_md *c) { return limit + u.a + bits.b; }""",
}


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("objects")
    out = {}
    for name, text in SOURCES.items():
        out[name] = folder / f"{name}.bpf.o"
        out[name].write_bytes(compile_c(f"{name}.bpf.c", text=HEAD + text).object)
    return out


def linked(paths: list[Path]) -> bytes:
    return link_objects([(str(path), path.read_bytes()) for path in paths])


ORDERS = [("first", "second"), ("second", "first"), ("first",), ("third", "second", "first"), ("first", "third", "second")]


@pytest.mark.skipif(BPFTOOL is None, reason="bpftool is not installed")
@pytest.mark.parametrize("names", ORDERS, ids="+".join)
def test_types_are_those_that_bpftool_links(names: tuple[str, ...], objects: dict[str, Path], tmp_path: Path) -> None:
    paths = [objects[name] for name in names]
    theirs, ours = tmp_path / "theirs.o", tmp_path / "ours.o"
    subprocess.run([str(BPFTOOL), "gen", "object", str(theirs), *map(str, paths)], check=True)
    ours.write_bytes(linked(paths))
    shown = [
        subprocess.run([str(BPFTOOL), "btf", "dump", "file", str(path)], capture_output=True, text=True, check=True).stdout
        for path in (ours, theirs)
    ]
    assert shown[0] == shown[1]


def test_a_declaration_becomes_the_struct_that_another_file_has(objects: dict[str, Path]) -> None:
    types = read_types(linked([objects["first"], objects["second"]]), "both.o")
    assert [types.kind(id_) for id_ in types.named("node")] == [Kind.STRUCT]
    for name in ("list", "shared", "named", "full", "__u32", "both", "other"):
        # A variable may be called as its struct is.
        assert [types.kind(id_) for id_ in types.named(name) if types.kind(id_) != Kind.VAR][1:] == [], name
    assert [types.type(id_).info for id_ in types.named("counter")] == [1]


def test_types_that_are_said_once_stay(objects: dict[str, Path]) -> None:
    types = read_types(linked([objects["first"], objects["second"], objects["third"]]), "all.o")
    assert canonical(types) == list(range(len(types)))


def test_a_string_is_there_once(objects: dict[str, Path]) -> None:
    types: Btf = read_types(linked([objects["first"], objects["second"]]), "both.o")
    strings = types.all_strings().split(b"\0")[1:-1]
    assert sorted(strings) == sorted(set(strings))
