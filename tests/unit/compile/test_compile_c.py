"""C becomes an object, and clang's complaints name the user's own text."""

from pathlib import Path

import pytest

from ebpf.compile import Pch, ast_json, compile_c, tree_and_diagnostics
from ebpf.elf import read_object
from ebpf.errors import CompileError, NotFoundError, UsageError

HEADER = """#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
typedef __u64 u64;
#define FIELD(x) ((x)->nosuch)
static inline int from_header(int x) { return x * 3; }
"""
BODY = """SEC("kprobe/x") int f(struct pt_regs *ctx) {
  u64 t = bpf_get_current_pid_tgid();
  bpf_printk("hé %d", from_header(t));
  return 0;
}
char LICENSE[] SEC("license") = "GPL";
"""


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def paths(data: bytes) -> set[str]:
    return {info.path for program in read_object(data).programs.values() for info in program.line_infos}


@pytest.mark.parametrize("name", ["hello.c", "<text>", 'a "quoted" \\ name.c', "/some/where/a.c"])
def test_text_keeps_its_name_in_line_information_and_messages(name: str) -> None:
    assert paths(compile_c(name, text=HEADER + BODY).object) == {name}
    with pytest.raises(CompileError) as caught:
        compile_c(name, text="int f(void) {\n  return x;\n}")
    row = caught.value.diagnostics[0]
    assert (row.path, row.line, row.column) == (name, 2, 10)


def test_the_same_text_gives_the_same_object_wherever_it_is_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = compile_c("a.c", text=HEADER + BODY).object
    monkeypatch.chdir(tmp_path)
    assert compile_c("a.c", text=HEADER + BODY).object == here


def test_a_precompiled_header_gives_the_same_code(tmp_path: Path) -> None:
    pch = Pch.build(HEADER, "prelude.h")
    whole = read_object(compile_c("a.c", text=HEADER + BODY).object)
    object_ = compile_c("a.c", text=BODY, pch=pch).object
    assert read_object(object_).programs["f"].insns == whole.programs["f"].insns
    assert paths(object_) == {"a.c", "prelude.h"}
    assert pch.path.is_relative_to(tmp_path / "cache")
    assert Pch.build(HEADER, "prelude.h").path == pch.path
    assert Pch.build(HEADER + "\n", "prelude.h").path != pch.path


def test_messages_point_into_a_precompiled_header_by_its_name() -> None:
    with pytest.raises(CompileError) as caught:
        compile_c("a.c", text=BODY.replace("return 0", "return FIELD(ctx)"), pch=Pch.build(HEADER, "prelude.h"))
    error, note = caught.value.diagnostics
    assert str(error) == "a.c:4:10: error: no member named 'nosuch' in 'struct pt_regs'"
    assert str(note) == "prelude.h:5:24: note: expanded from macro 'FIELD'"
    assert error.excerpt.splitlines() == ["    4 |   return FIELD(ctx);", "      |          ^~~~~~~~~~"]


def test_a_header_that_does_not_compile_is_refused_by_its_name() -> None:
    with pytest.raises(CompileError, match=r"^prelude.h:1:1: error: unknown type name 'nonsense'"):
        Pch.build("nonsense x;", "prelude.h")


def test_the_syntax_tree_has_only_the_texts_declarations_and_byte_offsets() -> None:
    tree = ast_json(BODY, pch=Pch.build(HEADER, "prelude.h"))
    assert [(node["kind"], node["name"]) for node in tree["inner"]] == [("FunctionDecl", "f"), ("VarDecl", "LICENSE")]
    text = BODY.encode()
    for node in tree["inner"]:
        at = node["loc"]
        assert text[at["offset"] : at["offset"] + at["tokLen"]].decode() == node["name"]


def test_a_text_with_errors_gives_its_tree_only_when_asked_for() -> None:
    text = "int f(void) { return x; }\nint g(void) { return 1; }\n"
    with pytest.raises(CompileError, match=r"^a.c:1:22: error: use of undeclared identifier 'x'"):
        ast_json(text, name="a.c")
    tree, diagnostics = tree_and_diagnostics(text, name="a.c")
    assert "g" in [node.get("name") for node in tree["inner"]]
    assert [row.severity for row in diagnostics] == ["error"]


def test_text_includes_files_beside_its_name(tmp_path: Path) -> None:
    (tmp_path / "own.h").write_text("#define ANSWER 42\n")
    compile_c(tmp_path / "a.c", text='#include "own.h"\nint f(void) { return ANSWER; }')
    compile_c("a.c", text='#include "own.h"\nint f(void) { return ANSWER + MORE; }', includes=[tmp_path], defines=["MORE=1"])


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        pytest.param('char a[] __attribute__((section("a"), used)) = "x";', "a variable cannot be named as", id="section's name"),
        pytest.param("int f(void) { return x; }", None, id="no hint"),
    ],
)
def test_an_error_hints_where_we_know_better(text: str, hint: str | None) -> None:
    with pytest.raises(CompileError) as caught:
        compile_c("a.c", text=text)
    assert (caught.value.hint or "").startswith(hint) if hint else caught.value.hint is None


def test_warnings_come_with_the_object() -> None:
    compiled = compile_c("a.c", text="int f(void) { int unused; return 1; }", flags=["-Wall"])
    assert [str(row) for row in compiled.diagnostics] == ["a.c:1:19: warning: unused variable 'unused' [-Wunused-variable]"]


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        pytest.param("-fbogus", r"^error: unknown argument: '-fbogus'", id="unknown flag"),
        pytest.param("-mcpu=v9", r"^error: unknown target CPU 'v9'", id="unknown cpu"),
    ],
)
def test_a_flag_that_clang_refuses_is_shown_in_its_words(flag: str, words: str) -> None:
    with pytest.raises(CompileError, match=words):
        compile_c("a.c", text="int x;", flags=[flag])


def test_requests_that_make_no_sense_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no file"):
        compile_c(tmp_path / "none.c")
    with pytest.raises(UsageError, match="clang was told to write no object"):
        compile_c("a.c", text="int x;", flags=["-fsyntax-only"])


@pytest.mark.parametrize("arch", ["x86", "arm64"])
def test_the_traced_machine_can_be_chosen(arch: str) -> None:
    text = f"#ifndef __TARGET_ARCH_{arch}\n#error not chosen\n#endif\n" + "".join(
        f"#ifdef __TARGET_ARCH_{other}\n#error two machines\n#endif\n" for other in ("x86", "arm64") if other != arch
    )
    compile_c("a.c", text=text, defines=[f"__TARGET_ARCH_{arch}"])
    compile_c("a.c", text=text, flags=[f"-D__TARGET_ARCH_{arch}"])


FIXED = """#include <linux/bpf.h>
#include <string.h>
#include <bpf/bpf_helpers.h>
char name[16] = "a name";
SEC("raw_tp/x") int f(void *ctx) { char comm[16]; bpf_get_current_comm(comm, 16); return %s(name, comm, 16) < 0; }
"""
LOOP = """#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("raw_tp/x") int f(unsigned long *ctx)
{
    char to[64], from[64];
    unsigned long n = ctx[0] & 63;
    bpf_get_current_comm(to, 64);
    bpf_get_current_comm(from, 64);
    for (unsigned long i = 0; i < n; i++)
        to[i] = %s;
    return to[5];
}
"""


@pytest.mark.parametrize("function", ["memcmp", "__builtin_memcmp"])
def test_memory_of_a_fixed_size_is_compared_in_place(function: str) -> None:
    program = read_object(compile_c("a.c", text=FIXED % function, flags=["-Wall", "-Werror"]).object).programs["f"]
    assert program.insns[::8].count(0x85) == 1


@pytest.mark.parametrize("value", ["0", "from[i]"])
def test_a_loop_over_memory_becomes_no_call_of_a_function_that_there_is_not(value: str) -> None:
    program = read_object(compile_c("a.c", text=LOOP % value, flags=["-Wall", "-Werror"]).object).programs["f"]
    assert program.insns[::8].count(0x85) == 2
