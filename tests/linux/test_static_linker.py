"""`ebpf gen object`: objects linked into one have the programs, maps and variables that bpftool's have."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.elf.static import link_objects
from ebpf.errors import FormatError
from ebpf.kernels import open_kernel
from ebpf.object import Collection
from ebpf.spec import ObjectSpec
from support import libbpf

HEAD = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
char LICENSE[] SEC("license") = "GPL";
struct pair { int a, b; };
struct task_struct { int pid; } __attribute__((preserve_access_index));
"""
#: What the first object offers and the second uses, and the other way round.
FIRST = """
extern int shared; extern struct pair two; extern _Bool CONFIG_NET __kconfig __weak;
int mine = 4; const volatile int limit = 9; static volatile int hidden = 2;
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 8); __type(key, int); __type(value, struct pair); } table SEC(".maps");
int doubled(int x);
static __attribute__((noinline)) int local(int x) { volatile int y = x; return y + hidden; }
__attribute__((noinline)) int offered(int x) { volatile int y = x; return local(y) + limit; }
__weak __attribute__((noinline)) int chosen(int x) { volatile int y = x; return y + 1000; }
SEC("tc") int first(struct __sk_buff *skb) { mine++; return doubled(3) + shared + two.b + chosen(0) + CONFIG_NET; }
SEC("xdp") int plain(struct xdp_md *ctx) { return local(1); }
"""
SECOND = """
extern int mine; extern _Bool CONFIG_NET __kconfig __weak;
extern struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 8); __type(key, int); __type(value, struct pair); } table SEC(".maps");
int shared = 50; struct pair two = {6, 7}; static volatile int hidden = 90;
int offered(int x);
static __attribute__((noinline)) int local(int x) { volatile int y = x; return y + hidden; }
__attribute__((noinline)) int doubled(int x) { volatile int y = x; return 2 * offered(y) + local(0); }
__attribute__((noinline)) int chosen(int x) { volatile int y = x; return y + 2000; }
static int each(__u32 i, void *ctx) { shared += i; return 0; }
SEC("tc") int second(struct __sk_buff *skb) {
    int key = mine; struct pair *found = bpf_map_lookup_elem(&table, &key);
    bpf_loop(3, each, 0, 0);
    return found ? found->b : offered(1) + CONFIG_NET;
}
SEC("raw_tp/sys_enter") int third(void *ctx) {
    struct task_struct *task = (void *)bpf_get_current_task();
    return BPF_CORE_READ(task, pid) + shared;
}
"""


def objects() -> list[tuple[str, bytes]]:
    return [(f"{name}.bpf.o", compile_c(f"{name}.bpf.c", text=HEAD + text).object) for name, text in (("one", FIRST), ("two", SECOND))]


@pytest.fixture(scope="module")
def linked() -> bytes:
    return link_objects(objects())


def test_one_object_has_what_all_have(linked: bytes) -> None:
    spec = read_object(linked, "linked.bpf.o")
    assert sorted(spec.programs) == ["first", "plain", "second", "third"]
    assert spec.maps["table"].max_entries == 8
    assert {v.name for v in spec.maps[".data"].variables} == {"mine", "shared", "two", "hidden"}
    assert list(spec.externs) == ["CONFIG_NET"]
    assert link_objects([("linked.bpf.o", linked)]) == link_objects([("linked.bpf.o", linked)])
    again = read_object(link_objects([("linked.bpf.o", linked)]), "linked.bpf.o")
    assert {n: p.insns for n, p in again.programs.items()} == {n: p.insns for n, p in spec.programs.items()}


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        ("int f(int x) { return x; }", "int f(int x) { return 2 * x; }", r"two.o: symbol 'f': is defined in one.o too"),
        ("int __attribute__((aligned(8))) v = 1; int *p = &v;", "int v = 2;", r"two.o: symbol 'v': is defined in one.o too"),
    ],
)
def test_what_does_not_go_together_is_named(first: str, second: str, why: str) -> None:
    parts = [("one.o", compile_c("one.c", text=HEAD + first).object), ("two.o", compile_c("two.c", text=HEAD + second).object)]
    with pytest.raises(FormatError, match=why):
        link_objects(parts)


def test_a_licence_that_differs_is_refused() -> None:
    other = HEAD.replace('"GPL"', '"MIT"').replace("LICENSE", "L2")
    parts = [("one.o", compile_c("one.c", text=HEAD + "int a;").object), ("two.o", compile_c("two.c", text=other + "int b;").object)]
    with pytest.raises(FormatError, match=r"two.o: section 'license': differs from the other objects'"):
        link_objects(parts)


@pytest.mark.linux
def test_the_linked_programs_run(linked: bytes) -> None:
    with open_kernel("linux") as kernel, Collection.load(read_object(linked, "linked.bpf.o"), kernel) as held:
        # offered(3) is 3 + 2 + 9; twice that, 90, then shared, two.b, the strong chosen() and CONFIG_NET.
        assert held.programs["first"].run(bytes(64)).retval == 28 + 90 + 50 + 7 + 2000 + 1
        assert held.variables()["mine"] == 5
        assert held.programs["second"].run(bytes(64)).retval == 12 + 1
        assert held.variables()["shared"] == 53


BPFTOOL = shutil.which("bpftool") or shutil.which("bpftool", path="/usr/sbin:/sbin")


def loaded(spec: ObjectSpec) -> dict[str, tuple[str, int]]:
    with open_kernel("linux") as kernel, Collection.load(spec, kernel) as held:
        return {name: (program.info().tag.hex(), program.info().xlated_len) for name, program in held.programs.items()}


@pytest.mark.linux
@pytest.mark.skipif(BPFTOOL is None, reason="bpftool is not installed")
def test_programs_have_the_tags_of_those_that_bpftool_links(tmp_path: Path, linked: bytes) -> None:
    paths = []
    for name, data in objects():
        (tmp_path / name).write_bytes(data)
        paths.append(str(tmp_path / name))
    theirs, ours = tmp_path / "theirs.bpf.o", tmp_path / "ours.bpf.o"
    subprocess.run([str(BPFTOOL), "gen", "object", str(theirs), *paths], check=True)
    command = [sys.executable, "-m", "ebpf", "gen", "object", str(ours), *paths]
    assert subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ)).returncode == 0
    assert ours.read_bytes()[64:] == linked[64:] or len(ours.read_bytes()) == len(linked)
    assert loaded(read_object(ours.read_bytes(), str(ours))) == loaded(read_object(theirs.read_bytes(), str(theirs)))
    library = libbpf.library()
    if library is not None:
        mine = {name: verdict.tag for name, verdict in libbpf.verdicts(library, str(ours)).items()}
        his = {name: verdict.tag for name, verdict in libbpf.verdicts(library, str(theirs)).items()}
        assert mine == his
        assert all(mine.values())


#: What one object defines, and how the other declares it; whether they go together.
MEANT = [
    ("int x = 1;", "extern int x;", True),
    ("int x = 1;", "extern const volatile int x;", True),
    ("int x = 1;", "extern unsigned x;", True),
    ("int x = 1;", "extern long x;", False),
    ("int x = 1;", "extern int *x;", False),
    ("int x[4] = {1};", "extern int x[];", True),
    ("int x[4] = {1};", "extern short x[4];", False),
    ("struct s { int a, b; } x = {1, 2};", "struct s { int a, b; }; extern struct s x;", True),
    ("struct s { int a, b; } x = {1, 2};", "struct s { int b, a; }; extern struct s x;", False),
    ("struct s { int a, b; } x = {1, 2};", "struct s { int a; }; extern struct s x;", False),
    ("struct s { int a, b; } x = {1, 2};", "struct other { int a, b; }; extern struct other x;", False),
    ("struct s { int a; }; struct s *x = (void *)1;", "struct s; extern struct s *x;", True),
    ("struct s { int a; }; struct s *x = (void *)1;", "struct s { long more; }; extern struct s *x;", True),
    ("struct s { int a; }; struct s *x = (void *)1;", "union s; extern union s *x;", False),
    ("enum e { A, B } x = B;", "enum e { C }; extern enum e x;", True),
    ("enum e { A, B } x = B;", "enum f { A, B }; extern enum f x;", False),
    ("__noinline int x(int a) { return a; }", "extern int x(int other_name);", True),
    ("__noinline int x(int a) { return a; }", "extern int x(long a);", False),
    ("__noinline int x(int a) { return a; }", "extern int x(int a, int b);", False),
    ("__noinline int x(int a) { return a; }", "extern long x(int a);", False),
    ("__noinline int x(int a) { return a; }", "extern int x;", False),
    ("int x __weak = 1;", "long x __weak = 2;", False),
    ("int x __weak = 1;", "int x = 2;", True),
]


@pytest.mark.parametrize(("defined", "declared", "together"), MEANT, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_linked_means_the_same(defined: str, declared: str, together: bool, tmp_path: Path) -> None:
    """As bpftool's linker has it, in either order."""
    use = 'SEC("xdp") int use%d(void *ctx) { return (long)&x; }'
    paths = [tmp_path / "one.o", tmp_path / "two.o"]
    for number, (path, text) in enumerate(zip(paths, (defined, declared), strict=True)):
        path.write_bytes(compile_c(f"{number}.c", text=HEAD + text + use % number).object)
    for order in (paths, paths[::-1]):
        try:
            link_objects([(str(path), path.read_bytes()) for path in order])
            linked = True
        except FormatError as error:
            linked = "symbol 'x'" not in str(error)
        assert linked == together
        if BPFTOOL is not None:
            done = subprocess.run([BPFTOOL, "gen", "object", tmp_path / "out.o", *order], capture_output=True, check=False)
            assert (done.returncode == 0) == together
