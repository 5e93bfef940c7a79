"""`ebpf verify` and `ebpf explain`: exit statuses, what is not judged, names that are nearly right."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ebpf.btf.build import Builder
from ebpf.cli.main import main

Write = Callable[..., str]
HEAD = """#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
char LICENSE[] SEC("license") = "GPL";
"""
GOOD = HEAD + 'SEC("xdp")\nint passes(struct xdp_md *ctx) { return XDP_PASS; }\n'
BAD = GOOD + 'SEC("xdp")\nint reads(struct xdp_md *ctx) { return *(char *)(long)ctx->data; }\n'
#: A function that no kernel has: nothing can be said of a program that calls it.
FOREIGN = (
    GOOD + "extern int ebpf_no_such_function(struct xdp_md *ctx) __ksym;\n"
    'SEC("xdp")\nint calls(struct xdp_md *ctx) { return ebpf_no_such_function(ctx); }\n'
)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def made(text: str, name: str = "p.bpf.c") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return made


@pytest.mark.parametrize(("text", "status"), [(GOOD, 0), (BAD, 1), (FOREIGN, 3), ("int x = ;", 2), (HEAD, 2)])
def test_the_exit_status_tells_the_verdict(write: Write, text: str, status: int) -> None:
    assert main(["verify", write(text)]) == status


@pytest.mark.parametrize(("kind", "status"), [("", 3), ("xdp", 0), ("cgroup/dev", 1), ("no_such_type", 2)])
def test_what_no_section_says_is_said(write: Write, kind: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(GOOD.replace('SEC("xdp")', 'SEC("mine")').replace("return XDP_PASS", "return ctx->rx_queue_index > 5"))
    assert main(["verify", path, *(["--type", kind] if kind else [])]) == status
    told = capsys.readouterr()
    assert {0: "passes: accepted", 1: "passes: refused", 2: "'no_such_type' is no section name of a program", 3: "--type"}[
        status
    ] in told.out + told.err


@pytest.mark.parametrize("text", ["", "no ELF at all"])
def test_what_is_no_object_cannot_be_used(write: Write, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", write(text, "p.o")]) == 2
    assert "p.o" in capsys.readouterr().err


def test_a_missing_file_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path / "none.o")]) == 2
    assert "none.o" in capsys.readouterr().err


def test_what_is_not_judged_says_so_and_puts_no_words_into_linux_s_mouth(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    main(["verify", write(FOREIGN), "--prog", "calls"])
    out = capsys.readouterr().out
    assert "calls: not judged: " in out
    assert " says: " not in out
    main(["verify", write(FOREIGN), "--prog", "calls", "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["verdict"], row["kernel_says"]) == ("unknown", "")


@pytest.mark.parametrize(("wanted", "meant"), [("pases", "did you mean 'passes'?"), ("quite_another", "no program 'quite_another'")])
def test_only_near_names_are_suggested(write: Write, wanted: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", write(BAD), "--prog", wanted]) == 2
    said = capsys.readouterr().err
    assert meant in said
    assert ("did you mean" in said) == ("did you mean" in meant)


@pytest.mark.parametrize(("wanted", "suggested"), [("maybe-nul", True), ("zzz", False)])
def test_explain_suggests_only_near_names(wanted: str, suggested: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", wanted]) == 1
    assert ("did you mean 'maybe-null'" in capsys.readouterr().err) == suggested


#: A tracepoint's task, of which this program believes that its number comes first.
TRACED = (
    HEAD
    + """
struct task_struct { int pid; } __attribute__((preserve_access_index));
SEC("tp_btf/wakes")
int wakes(unsigned long long *ctx) { return ((struct task_struct *)ctx[0])->pid; }
"""
)


def _kernel(path: Path, field: str) -> str:
    """Types of a kernel whose tasks have an int named `field` behind 16 other bytes."""
    build = Builder()
    number = build.integer("int", 4, signed=True)
    pointer = build.ptr(number + 2)
    build.struct("task_struct", 20, [(field, number, 16)])
    build.typedef("btf_trace_wakes", build.ptr(build.func_proto(0, [("__data", pointer), ("p", pointer)])))
    path.write_bytes(build.raw())
    return str(path)


@pytest.mark.parametrize(("field", "status"), [("pid", 0), ("tgid", 1), (None, 3)])
def test_kernel_objects_are_judged_by_the_types_that_are_named(write: Write, tmp_path: Path, field: str | None, status: int) -> None:
    named = ["--btf", _kernel(tmp_path / "kernel.btf", field)] if field else []
    assert main(["verify", write(TRACED), "--linux", "6.1", *named]) == status


@pytest.mark.parametrize(("there", "words"), [(True, "refused"), (False, "accepted")])
def test_a_function_that_may_be_missing_is_asked_for_by_its_address(
    write: Write, tmp_path: Path, there: bool, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # What is done where the kernel has the function is judged only there; ___x is no part of its name.
    text = HEAD + (
        "extern void there___x(void) __ksym __weak;\n"
        'SEC("xdp") int f(struct xdp_md *ctx) { return bpf_ksym_exists(there___x) ? *(char *)(long)ctx->data : 0; }\n'
    )
    build = Builder()
    build.func("there" if there else "elsewhere", build.func_proto(0, []), 1)
    (tmp_path / "kernel.btf").write_bytes(build.raw())
    main(["verify", write(text), "--linux", "6.1", "--btf", str(tmp_path / "kernel.btf")])
    assert f"f: {words}" in capsys.readouterr().out


#: Asks for one thing of the kernel; what is done where it is not so is refused everywhere.
ASKS = 'extern {type} {name} __kconfig __weak; SEC("xdp") int f(struct xdp_md *ctx) {{ return {what} ? XDP_PASS : *(char *)(long)ctx->data; }}\n'


@pytest.mark.parametrize(
    ("type_", "name", "what", "refused"),
    [
        ("int", "LINUX_KERNEL_VERSION", "LINUX_KERNEL_VERSION >= KERNEL_VERSION(6, 12, 0)", ["6.1"]),
        ("int", "LINUX_KERNEL_VERSION", "LINUX_KERNEL_VERSION < KERNEL_VERSION(6, 2, 0)", ["6.18", "6.12"]),
        ("_Bool", "LINUX_HAS_SYSCALL_WRAPPER", "LINUX_HAS_SYSCALL_WRAPPER", []),
        ("_Bool", "CONFIG_OF_SOME_KERNELS", "CONFIG_OF_SOME_KERNELS", ["6.18", "6.12", "6.1"]),
        ("_Bool", "CONFIG_OF_SOME_KERNELS", "!CONFIG_OF_SOME_KERNELS", ["6.18", "6.12", "6.1"]),
    ],
)
def test_what_a_program_asks_of_its_kernel_is_that_of_the_version(
    write: Write, type_: str, name: str, what: str, refused: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["verify", write(HEAD + ASKS.format(type=type_, name=name, what=what)), "--linux", "6.18,6.12,6.1", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [row["linux"] for row in rows if row["verdict"] == "refused"] == refused
    assert {row["verdict"] for row in rows} <= {"accepted", "refused"}


def test_damaged_types_cannot_be_used(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", write(TRACED), "--btf", write("no types", "kernel.btf")]) == 2
    assert "kernel.btf" in capsys.readouterr().err
