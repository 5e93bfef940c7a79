"""What the documents show is typed and compared: `$` lines as anybody, `#` lines as root in a network of their own.

Numbers, and what `...` stands for, may differ; so may the width of gaps.
"""

import os
import re
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PAGES = sorted([TOP / "README.md", *(TOP / "docs").rglob("*.md")])
# The programs of the tutorial that the pages speak of.
FILES = {
    "hello.py": """#!/usr/bin/python3
from bcc import BPF

program = r\"\"\"
int hello(void *ctx) {
    bpf_trace_printk("Hello World!");
    return 0;
}
\"\"\"

b = BPF(text=program)
syscall = b.get_syscall_fnname("execve")
b.attach_kprobe(event=syscall, fn_name="hello")

b.trace_print()
""",
    "hello.bpf.c": """#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

int counter = 0;

SEC("xdp")
int hello(struct xdp_md *ctx) {
    bpf_printk("Hello World %d", counter);
    counter++;
    return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
""",
}
_MARK = "-- typed:"
_NUMBER = r"\d[\d.,]*(?: ?[kMG]\b)?"


@dataclass(frozen=True)
class Snippet:
    """A command and the lines that a page shows after it."""

    command: str
    shown: tuple[str, ...]


PROMPTS = ("$", "#", "lab$")


def snippets(page: Path, prompt: str) -> list[Snippet]:
    """The commands of a page with one prompt."""
    found: list[tuple[str, list[str]]] = []
    others = tuple(f"{other} " for other in PROMPTS if other != prompt)
    current: list[str] | None = None
    for line in page.read_text().splitlines():
        if not line.startswith("    "):
            current = None
        elif line[4:].startswith(f"{prompt} "):
            # What stands behind a wide gap is a remark.
            current = []
            found.append((re.split(r"\s{3,}", line[5 + len(prompt) :])[0], current))
        elif line[4:].startswith(others):
            current = None
        elif current is not None:
            current.append(line[4:])
    return [Snippet(command, tuple(shown)) for command, shown in found]


def normal(line: str) -> str:
    """A line without what differs each time."""
    return re.sub(r"\s+", " ", re.sub(_NUMBER, "N", line)).strip()


def pattern(shown: tuple[str, ...]) -> str:
    """A regular expression for the normal lines that are shown: `...` alone stands for lines, else for a part of one."""
    lines = [r"(?:.*\n)*" if line.strip() == "..." else re.escape(normal(line)).replace(r"\.\.\.", ".*") + r"\n" for line in shown]
    return "".join(lines)


def fits(shown: tuple[str, ...], printed: str) -> bool:
    """Whether what was printed is what is shown."""
    return re.fullmatch(pattern(shown), "".join(normal(line) + "\n" for line in printed.splitlines())) is not None


def capture() -> bytes:
    """A thousand datagrams, each tenth to port 9999."""
    frames = []
    for i in range(1000):
        port = 9999 if i % 10 == 0 else 53
        udp = struct.pack(">HHHH", 4000, port, 30, 0) + bytes(22)
        ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 50, i, 0, 64, 17, 0, bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2)))
        frame = bytes(12) + b"\x08\x00" + ip + udp
        frames.append(struct.pack("<IIII", i, 0, len(frame), len(frame)) + frame)
    return struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1) + b"".join(frames)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with what a reader has."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    # A page may show a C file whole, under the name that the text before gives it.
    for name, text in re.findall(r"`(\w+\.bpf\.c)`\):\n\n```c\n(.*?)^```", "".join(p.read_text() for p in PAGES), re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(text)
    (tmp_path / "traffic.pcap").write_bytes(capture())
    shutil.copytree(TOP / "examples", tmp_path / "examples")
    return tmp_path


def environment(place: Path, kernel: str) -> dict[str, str]:
    bin_ = place / "bin"
    bin_.mkdir(exist_ok=True)
    command = bin_ / "ebpf"
    command.write_text(f"#!{sys.executable}\nimport sys\nfrom ebpf.cli.main import main\nsys.exit(main())\n")
    command.chmod(0o755)
    return {**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}", "EBPF_KERNEL": kernel}


@pytest.mark.parametrize("page", [p for p in PAGES if snippets(p, "$")], ids=lambda p: str(p.relative_to(TOP)))
def test_what_is_typed_prints_what_is_shown(page: Path, place: Path) -> None:
    env = environment(place, "user")
    for snippet in snippets(page, "$"):
        if "activate" in snippet.command:
            continue
        if " lab " in snippet.command and (reason := no_laboratory()):
            pytest.skip(f"user namespaces: {reason}")
        answer = subprocess.run(snippet.command, shell=True, cwd=place, env=env, capture_output=True, text=True, timeout=60, check=False)
        refused = any(": refused [" in line for line in snippet.shown)
        assert answer.returncode == int(refused), f"{snippet.command}\n{answer.stdout}{answer.stderr}"
        if snippet.shown:
            assert fits(snippet.shown, answer.stdout), f"$ {snippet.command}\n{answer.stdout}{answer.stderr}"


# README's laboratory is the tutorial's, which tests/both types through a terminal.
LABS = [p for p in PAGES if snippets(p, "lab$") and p.name != "README.md"]


@pytest.mark.parametrize("page", LABS, ids=lambda p: str(p.relative_to(TOP)))
def test_what_is_typed_in_a_laboratory_prints_what_is_shown(page: Path, place: Path) -> None:
    if reason := no_laboratory():
        pytest.skip(f"user namespaces: {reason}")
    typed = snippets(page, "lab$")
    script = "".join(f"{snippet.command}\necho {_MARK} $?\n" for snippet in typed)
    (place / "typed.sh").write_text(script)
    answer = subprocess.run(
        ["ebpf", "lab", "-q", "--", "bash", "typed.sh"],
        cwd=place,
        env=environment(place, "user"),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    printed = re.split(rf"{_MARK} (\d+)\n", answer.stdout)
    assert len(printed) == 2 * len(typed) + 1, answer.stdout + answer.stderr
    for number, snippet in enumerate(typed):
        text, status = printed[2 * number], printed[2 * number + 1]
        assert status == "0", f"lab$ {snippet.command}\n{text}{answer.stderr}"
        if snippet.shown:
            assert fits(snippet.shown, text), f"lab$ {snippet.command}\n{text}{answer.stderr}"


def no_laboratory() -> str:
    """Why a laboratory can have no namespaces here ("" if it can)."""
    done = subprocess.run(["unshare", "-Urnm", "true"], capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""


@pytest.mark.linux
@pytest.mark.parametrize("page", [p for p in PAGES if snippets(p, "#")], ids=lambda p: str(p.relative_to(TOP)))
def test_what_root_types_works_in_a_network_of_its_own(page: Path, place: Path) -> None:
    commands = [s.command for s in snippets(page, "#") if " -- " in s.command or " run " not in s.command]
    bpffs = "mount -t bpf bpf /sys/fs/bpf && ip link set lo up"
    # An object of the page before may be there already.
    make = "ebpf cc hello.bpf.c -o hello.bpf.o"
    script = "\n".join(["set -e", bpffs, make, *commands])
    answer = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", script],
        cwd=place,
        env=environment(place, "auto"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_what_is_shown_can_be_missed() -> None:
    shown = ("b'  ebpf-4105  [001] ....1 1234.567890: text'", "...")
    assert fits(shown, "b' ebpf-7 [000] ....1 1.5: text'\nmore\nand more")
    assert not fits(shown, "b' ebpf-7 [000] ....1 1.5: other'\nmore")
    assert not fits(("counter = 5",), "counter = x")
    assert not fits(("counter = 5",), "counter = 5\nmore")
    assert fits(("packets/s 3.0 M",), "  packets/s             112.2 k")


PYTHON = [
    pytest.param(text, id=f"{page.relative_to(TOP)}:{number}")
    for page in PAGES
    for number, text in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL))
]


@pytest.mark.parametrize("text", PYTHON)
def test_python_that_is_shown_runs(text: str, place: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", text], cwd=place, env=environment(place, "user"), capture_output=True, text=True, timeout=60, check=False
    )
    assert answer.returncode == 0, answer.stderr
