"""`ebpf cc` takes the command lines that tutorials print, and leaves no half-written object."""

import os
from pathlib import Path

import pytest

from ebpf.compile import cc
from ebpf.elf import read_object
from ebpf.errors import CompileError, NotFoundError, UsageError

SOURCE = """#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
int counter = 0;
SEC("xdp") int hello(void *ctx) { bpf_printk("Hello World %d", counter); counter++; return XDP_PASS; }
char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hello.bpf.c").write_text(SOURCE)
    (tmp_path / "bad.c").write_text("int f(void) {\n  return x;\n}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "out", "notes"),
    [
        pytest.param("hello.bpf.c -o hello.bpf.o", "hello.bpf.o", [], id="plain"),
        pytest.param("hello.bpf.c", "hello.bpf.o", [], id="no -o"),
        pytest.param("-c hello.bpf.c -ox.o", "x.o", [], id="glued -o"),
        pytest.param("-target bpf -O2 -g -Wall -c hello.bpf.c -o x.o", "x.o", [], id="usual"),
        pytest.param("--target=bpf -g -O2 -mcpu=v3 hello.bpf.c -o x.o", "x.o", [], id="--target="),
        pytest.param("-O2 -march=bpf hello.bpf.c -o x.o", "x.o", ["-march=bpf"], id="-march"),
        pytest.param("-O0 hello.bpf.c -o x.o", "x.o", ["verifier"], id="-O0"),
        pytest.param(
            "-D__TARGET_ARCH_x86 -I/usr/include/x86_64-linux-gnu hello.bpf.c -o x.o", "x.o", ["headers come with"], id="host headers"
        ),
        pytest.param("-nostdinc -fno-stack-protector -I . -D A=1 -UB -include linux/types.h hello.bpf.c -o x.o", "x.o", [], id="more"),
    ],
)
def test_tutorial_command_lines_compile(line: str, out: str, notes: list[str], folder: Path) -> None:
    written = cc(line.split())
    assert written.path == Path(out)
    assert len(written.notes) == len(notes)
    assert all(word in note for word, note in zip(notes, written.notes))
    assert read_object((folder / out).read_bytes()).programs["hello"].section == "xdp"


@pytest.mark.parametrize(
    ("line", "kind", "words"),
    [
        pytest.param("", UsageError, "which file", id="nothing"),
        pytest.param("a.c b.c", UsageError, "one file at a time, not a.c and b.c", id="two files"),
        pytest.param("none.c", NotFoundError, "no file 'none.c'", id="missing"),
        pytest.param("hello.bpf.c -o", UsageError, "-o needs a value", id="no value"),
        pytest.param("hello.bpf.c -o no/x.o", NotFoundError, "no folder 'no'", id="no folder"),
        pytest.param("hello.bpf.c -o .", UsageError, "is a folder", id="folder"),
        pytest.param("hello.bpf.c -target x86_64", UsageError, "another machine", id="another machine"),
        pytest.param("hello.bpf.c -target bpfeb", UsageError, "big-endian", id="big-endian"),
        pytest.param("hello.bpf.c -S", UsageError, "writes eBPF objects", id="assembly"),
        pytest.param("bad.c", CompileError, r"^bad.c:2:10: error: use of undeclared identifier 'x'$", id="bad C"),
        pytest.param("hello.bpf.c -fbogus", CompileError, "unknown argument: '-fbogus'", id="bad flag"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_writes_nothing(line: str, kind: type[Exception], words: str, folder: Path) -> None:
    with pytest.raises(kind, match=words) as caught:
        cc(line.split())
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in folder.iterdir()) == ["bad.c", "hello.bpf.c"]


def test_a_failure_leaves_the_former_object(folder: Path) -> None:
    (folder / "bad.o").write_bytes(b"old")
    with pytest.raises(CompileError):
        cc(["bad.c", "-o", "bad.o"])
    assert (folder / "bad.o").read_bytes() == b"old"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc, where no file can be made")
def test_an_output_that_cannot_be_written_is_named(folder: Path) -> None:
    with pytest.raises(OSError) as caught:
        cc(["hello.bpf.c", "-o", "/proc/x.o"])
    assert caught.value.filename == "/proc/x.o"


def test_the_object_is_as_readable_as_other_files(folder: Path) -> None:
    before = os.umask(0o022)
    try:
        cc(["hello.bpf.c", "-o", "x.o"])
        cc(["hello.bpf.c", "-o", os.devnull])
    finally:
        os.umask(before)
    assert (folder / "x.o").stat().st_mode & 0o777 == 0o644
    assert not Path(os.devnull).is_file()
