"""C headers for an object: letter for letter bpftool's, and what a C compiler makes of them."""

import shutil
import subprocess
from pathlib import Path

import pytest

from ebpf.cli.main import main
from ebpf.compile import compile_c

BPFTOOL = shutil.which("bpftool") or shutil.which("bpftool", path="/usr/sbin:/sbin")
COMPILER = shutil.which("cc")
LIBBPF = Path("/usr/include/bpf/libbpf.h")
HEAD = "#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n"
TABLE = 'struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, int); __type(value, long); } table SEC(".maps");\n'
#: name: source. Between them they have each kind of section, of type and of place.
OBJECTS = {
    "empty": 'SEC("xdp") int pass(struct xdp_md *c) { return 2; }',
    "only-maps": TABLE + "const volatile unsigned char bytes[5];",
    "a-library": TABLE
    + """int shared = 1; static int own; const volatile int limit = 3; long many[4]; int *pointed;
__weak int add(int a) { int k = 0; long *v = bpf_map_lookup_elem(&table, &k); if (v) *v += a + shared + own + limit + many[a & 3];
    own++; return a; }""",
    "only-strings": 'SEC("xdp") int p(struct xdp_md *c) { bpf_printk("hello %d", 3); return 2; }\nchar LICENSE[] SEC("license") = "GPL";',
    "every-type": """typedef int array_t[3]; typedef void (*function_t)(const char *);
struct __attribute__((packed)) packed { char a; long b; };
struct bits { int a : 3; unsigned b : 5; long long c : 40; };
array_t array; function_t function; const char *volatile names[3]; struct packed packed; struct bits bits; double wide SEC(".data.float");
void (*plain)(int); union { int a; struct { short b, c; }; } nameless = {3};
char c1; short s1; long l1; char c2; const int *const volatile pointer; void *nothing; long long none[0]; _Bool yes = 1;
long aligned __attribute__((aligned(64))); __int128 wider; extern int LINUX_KERNEL_VERSION __kconfig;
const volatile struct { const int x; const char *n; } constant = {1};
const volatile enum { A, B = 9 } number = B;
const volatile int matrix[2][3];
int inner(void) { static int within; return within++ + LINUX_KERNEL_VERSION; }
SEC("xdp") int p(struct xdp_md *c) { array[0] = matrix[1][1]; return 2 + number + constant.x + inner(); }
SEC("?tp/x/y") int q2(void *c) { return 0; }""",
}


@pytest.fixture(params=OBJECTS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    target = tmp_path / "some.bpf.o"
    target.write_bytes(compile_c("some.bpf.c", text=HEAD + OBJECTS[request.param]).object)
    return target


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 0
    return capsys.readouterr().out


@pytest.mark.skipif(BPFTOOL is None, reason="bpftool is not installed")
@pytest.mark.parametrize("kind", ["skeleton", "subskeleton"])
def test_the_header_is_bpftools(kind: str, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ((), ("name", "other_one")):
        theirs = subprocess.run([str(BPFTOOL), "gen", kind, str(path), *words], capture_output=True, text=True, check=True)
        assert printed(capsys, "gen", kind, str(path), *words) == theirs.stdout


@pytest.mark.skipif(COMPILER is None or not LIBBPF.exists(), reason="no C compiler, or no libbpf-dev")
def test_a_program_in_c_compiles_with_the_header(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "lib.bpf.o"
    target.write_bytes(compile_c("lib.bpf.c", text=HEAD + OBJECTS["a-library"]).object)
    for kind in ("skeleton", "subskeleton"):
        (tmp_path / f"{kind}.h").write_text(printed(capsys, "gen", kind, str(target), "name", f"by_{kind}"))
    (tmp_path / "use.c").write_text(
        '#include "skeleton.h"\n#include "subskeleton.h"\n'
        "int main(void) { struct by_skeleton *held = by_skeleton__open(); if (!held) return 1; held->data->shared = held->rodata->limit;\n"
        "  struct by_subskeleton *part = by_subskeleton__open(held->obj); if (part) *part->data.shared += (*part->bss.many)[1];\n"
        "  by_subskeleton__destroy(part); by_skeleton__destroy(held); return 0; }\n"
    )
    done = subprocess.run(
        [str(COMPILER), "-Wall", "-Werror", "-Wno-unused-function", "-fsyntax-only", "use.c"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["skeleton"], "'skeleton' needs at least 1 arguments, 0 found"),
        (["skeleton", "none.o"], "can't read none.o: no such file or directory"),
        (["subskeleton", "/dev/null"], "null: is not an ELF object"),
        (["skeleton", "some.o", "name", "a-b"], "'a-b' can be no name in C"),
        (["skeleton", "some.o", "other"], "what is 'other'?"),
    ],
)
def test_a_wrong_request_is_one_line(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gen", *words]) != 0
    assert line in capsys.readouterr().err
