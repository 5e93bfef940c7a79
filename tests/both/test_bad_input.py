"""Bad input gets one line that says what, where and what to do, the right exit status, and never a traceback."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
EXAMPLE = Path(__file__).parents[2] / "examples" / "hello.bpf.c"
HEAD = "from bcc import BPF\n"


def script_of(tmp_path: Path, c_text: str, rest: str) -> str:
    path = tmp_path / "script.py"
    path.write_text(f"{HEAD}b = BPF(text=r'''{c_text}''')\n{rest}\n")
    return str(path)


def assert_one_line(answer: subprocess.CompletedProcess[str], status: int, *parts: str) -> None:
    assert answer.returncode == status, answer.stderr
    assert "Traceback" not in answer.stderr
    first = answer.stderr.splitlines()[0]
    assert all(part in first for part in parts), answer.stderr


CASES = [
    ("int f(void *ctx) { return x; }", "", 1, ["/virtual/main.c:1:27", "use of undeclared identifier 'x'"]),
    ("\n\nint f(void *ctx) {\n  u64 a = 1\n  return 0;\n}", "", 1, ["/virtual/main.c:4:12", "expected ';'"]),
    ("int f(void *ctx) { return 0; }", "b.attach_kprobe(event='no_such_function_x', fn_name='f')", 1, ["no_such_function_x"]),
    ("int f(void *ctx) { return 0; }", "b.attach_kprobe(event=b.get_syscall_fnname('execve'), fn_name='g')", 1, ["no function 'g'"]),
    ("int f(void *ctx) { return bpf_no_such(1); }", "", 1, ["/virtual/main.c:1:27", "bpf_no_such"]),
    ("BPF_STACK_TRACE(s, 10); int f(void *ctx) { return 0; }", "", 1, ["BPF_STACK_TRACE", "not built yet"]),
    ("int f(struct pt_regs *ctx) { return *(char *)ctx->di; }", "b.load_func('f', BPF.KPROBE)", 1, ["program 'f' refused"]),
]


@pytest.mark.parametrize(
    ("c_text", "rest", "status", "parts"), CASES, ids=["c-error", "syntax", "function", "fn_name", "helper", "macro", "verifier"]
)
def test_scripts(ebpf: Run, tmp_path: Path, c_text: str, rest: str, status: int, parts: list[str]) -> None:
    assert_one_line(ebpf("run", script_of(tmp_path, c_text, rest), "--", "/bin/true"), status, *parts)


COMMANDS = [
    (("run", "nosuch.py", "--", "/bin/true"), 1, ["no script 'nosuch.py'"]),
    (("run",), 0, []),
    (("cc", "nosuch.c"), 1, ["no file 'nosuch.c'"]),
    (("cc", __file__), 2, ["is no C source"]),
    (("cc", str(EXAMPLE), "-o", "/dev/full"), 1, ["/dev/full: no space left on device"]),
    (("prog", "run", "nosuch.o", "--pcap", "x"), 255, ["no file 'nosuch.o'"]),
    (("prog", "nosuch"), 255, ["unknown command 'prog nosuch'"]),
    (("net", "detach", "xdp", "dev", "nosuch0"), 234, ["invalid devname nosuch0"]),
    (("nosuch",), 2, ["unknown command 'nosuch'"]),
    (("map", "dump", "name", "a_name_that_is_too_long"), 255, ["at most 15 characters"]),
]


@pytest.mark.parametrize(("words", "status", "parts"), COMMANDS, ids=lambda v: "-".join(v) if isinstance(v, tuple) else "")
def test_commands(ebpf: Run, words: tuple[str, ...], status: int, parts: list[str]) -> None:
    answer = ebpf(*words)
    if parts:
        assert_one_line(answer, status, *parts)
    assert answer.returncode == status


@pytest.mark.parametrize("cut", [0, 3, 40, 100, 700])
def test_a_truncated_object_is_one_line(ebpf: Run, tmp_path: Path, cut: int) -> None:
    source = tmp_path / "x.bpf.c"
    source.write_text('#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\nSEC("xdp") int x(struct xdp_md *c) { return 2; }\n')
    target = tmp_path / "x.bpf.o"
    assert ebpf("cc", str(source), "-o", str(target)).returncode == 0
    target.write_bytes(target.read_bytes()[:cut])
    assert_one_line(ebpf("prog", "run", str(target), "--pcap", "x.pcap"), 255, str(target))
