"""vmlinux.h is made of a kernel's BTF when a program includes it: what the program needs is there, and nothing need be installed."""

from pathlib import Path

import pytest

from ebpf.btf import Btf, Builder, Kind
from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import CompileError, NotSupportedError
from ebpf.spec import ObjectSpec

HEAD = '#include "vmlinux.h"\n#include <bpf/bpf_helpers.h>\n#include <bpf/bpf_core_read.h>\n#define TASK ((struct task_struct *)bpf_get_current_task())\n'


def kernel() -> bytes:
    """A kernel's types: a task that leads to a file, a function that programs may call, and two structs that nobody names."""
    b = Builder()
    word, byte, wide = b.integer("unsigned int", 4), b.integer("char", 1, signed=True), b.integer("unsigned long long", 8)
    small = b.integer("unsigned char", 1)
    for name, of in (("__u8", small), ("__u32", word), ("__u64", wide), ("u32", word), ("__s32", word), ("__be16", word), ("__be32", word)):
        b.typedef(name, of)
    b.typedef("__u16", word), b.typedef("__s64", wide), b.typedef("__wsum", word)
    inode = b.struct("inode", 8, [("i_ino", wide, 0)])
    file = b.struct("file", 8, [("f_inode", b.ptr(inode), 0)])
    hidden = b.struct("hidden", 8, [("secret", wide, 0)])
    parent = b.ptr(0)
    b.struct(
        "task_struct",
        56,
        [("pid", word, 0), ("comm", b.array(byte, 16, word), 4), ("exe", b.ptr(file), 24), ("hid", b.ptr(hidden), 32), ("p", parent, 40)],
    )
    b.enum("", [("TASK_COMM_LEN", 16)])
    b.enum("colour", [("RED", 1), ("GREEN", 2)])
    found = b.func("bpf_find", b.func_proto(b.ptr(file), [("pid", word)]), 1)
    b.tag("bpf_kfunc", found)
    b.func("hidden_function", b.func_proto(word, []), 1)
    return b.raw()


@pytest.fixture
def header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "kernel.btf"
    path.write_bytes(kernel())
    monkeypatch.setenv("EBPF_BTF", str(path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def built(body: str, **more: object) -> ObjectSpec:
    return read_object(compile_c("a.bpf.c", text=HEAD + body, flags=["-Wall", "-Werror"], **more).object)  # type: ignore[arg-type]


def made(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted(folder.glob("cache/ebpf/vmlinux/*/vmlinux.h"), key=lambda p: p.stat().st_mtime_ns)]


def test_members_that_are_followed_are_there_and_what_nobody_names_is_not(header: Path) -> None:
    spec = built('SEC("raw_tp/x") int f(void *ctx) { return BPF_CORE_READ(TASK, exe, f_inode, i_ino); }')
    assert [r.access for r in spec.programs["f"].core_relocs] == ["0:2", "0:0", "0:0"]
    (text,) = made(header)
    assert "i_ino" in text
    assert "struct hidden;" in text
    assert "secret" not in text


def test_enumerators_have_their_values_whether_the_enum_has_a_name_or_not(header: Path) -> None:
    built('char name[TASK_COMM_LEN]; int value = GREEN; enum colour c; _Static_assert(sizeof(name) + GREEN == 18, "");')


def test_the_kernels_functions_have_prototypes_and_what_they_return_has_members(header: Path) -> None:
    spec = built('SEC("raw_tp/x") int f(void *ctx) { return bpf_find(1) != 0 && bpf_find(2)->f_inode != 0; }')
    assert list(spec.externs) == ["bpf_find"]
    assert "hidden_function" not in made(header)[0]


def test_a_function_of_the_kernels_that_the_program_declares_is_as_it_says(header: Path) -> None:
    """Prototypes differ between kernels; what the program was written for is what it was compiled with elsewhere."""
    body = """#define KEPT(x) \\
        (x)
    extern int bpf_find(const char *name, __u64 flags) __ksym;
    SEC("raw_tp/x") int f(void *ctx) { return KEPT(bpf_find("a", 1)); }"""
    assert built(body).programs["f"].relocs
    (text,) = made(header)
    assert "bpf_find" not in text
    (header / "mine.h").write_text("struct file *bpf_find(int pid, int more) __weak __ksym;")
    built('#include "mine.h"\nSEC("raw_tp/x") int f(void *ctx) { return !bpf_find(1, 2); }', includes=[header])
    built("#define MADE(x) struct x##_of\n" + body)  # whose vmlinux.h has all types
    assert ["bpf_find" in text for text in made(header)] == [False, False, False]


def test_macros_that_a_kernels_types_do_not_have_are_there_when_the_program_does_not_define_them(header: Path) -> None:
    built('_Static_assert(ETH_P_IP == 0x800 && AF_INET6 == 10 && MINOR(3) == 3 && S_ISREG(0100000) && EPERM == 1, "");')
    built('#define AF_INET 77\nenum { ETH_P_IP = 3, AF_UNIX };\n_Static_assert(AF_INET == 77 && ETH_P_IP == 3 && AF_UNIX == 4, "");')
    built('_Static_assert(AF_INET == 5, "");', defines=["AF_INET=5"])


def test_a_function_of_the_programs_that_has_the_name_of_such_a_macro_is_no_macro(header: Path) -> None:
    built("""static inline int IS_ERR(const void *pointer)
    {
        return !pointer;
    }
    static __always_inline unsigned long *BIT(unsigned long (*of)(int), int nr) { return nr > 1 && of ? (void *)8 : 0; }
    SEC("raw_tp/x") int f(void *ctx) { if (IS_ERR(ctx)) { return ARRAY_SIZE(((struct task_struct *)0)->comm); } return !BIT(0, 1); }""")


def test_a_type_whose_name_a_macro_makes_is_found(header: Path) -> None:
    spec = built('#define OF(x) struct x##_struct\nSEC("raw_tp/x") int f(void *ctx) { return ((OF(task) *)ctx)->pid; }')
    assert len(spec.programs["f"].core_relocs) == 1
    assert "secret" in made(header)[-1]


def test_a_header_of_the_users_own_goes_first_and_words_are_looked_for_in_all_that_is_included(header: Path) -> None:
    (header / "mine.h").write_text('#include "vmlinux.h"\nstatic inline int of(struct task_struct *t) { return t->exe->f_inode->i_ino; }\n')
    (header / "a.bpf.c").write_text(
        '#include "mine.h"\n#include <bpf/bpf_helpers.h>\nSEC("raw_tp/x") int f(void *ctx) { return of(ctx); }\n'
    )
    assert read_object(compile_c(header / "a.bpf.c").object).programs["f"].core_relocs
    (header / "vmlinux.h").write_text("struct task_struct { int own; };\n")
    with pytest.raises(CompileError, match="exe"):
        compile_c(header / "a.bpf.c")


def test_what_is_not_there_is_the_programs_error_with_its_line(header: Path) -> None:
    with pytest.raises(CompileError) as caught:
        built('SEC("raw_tp/x") int f(void *ctx) { return TASK->none_such; }')
    assert (caught.value.diagnostics[0].path, caught.value.diagnostics[0].line) == ("a.bpf.c", 5)


def test_the_object_says_nothing_of_the_folder_that_the_header_was_in(header: Path) -> None:
    data = compile_c("a.bpf.c", text=HEAD + 'SEC("raw_tp/x") int f(struct task_struct *t) { return t->pid; }').object
    assert str(header).encode() not in data


def test_without_a_kernels_types_it_is_refused_and_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBPF_BTF", str(tmp_path / "none"))
    with pytest.raises(NotSupportedError, match=r"vmlinux\.h: there is no BTF on this machine") as caught:
        built("")
    assert "EBPF_BTF" in str(caught.value.hint)


def test_the_types_are_laid_out_as_the_kernels(header: Path) -> None:
    spec = built('SEC("raw_tp/x") int f(struct task_struct *t) { return t->pid + t->p; }'.replace(" + t->p", " + (t->p != 0)"))
    assert spec.btf is not None
    ours, theirs = spec.btf.find("task_struct", Kind.STRUCT), Btf.parse(kernel()).find("task_struct", Kind.STRUCT)
    assert ours is not None
    assert theirs is not None
    assert [(m.name, m.bits) for m in ours.members] == [(m.name, m.bits) for m in theirs.members]
    assert ours.size == theirs.size
