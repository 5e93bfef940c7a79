"""A program that ran before starts without importing LLVM and without running clang; importing the package is light."""

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[3] / "examples"
SECOND = """
import subprocess, sys
def never(*words, **options):
    raise AssertionError(f"a process was started: {words}")
subprocess.run = subprocess.Popen = never
from ebpf.cli.main import main
status = main(["--kernel", "user", "run", sys.argv[1], "--", "/bin/true"])
print("llvmlite" in sys.modules, status)
"""


def test_the_second_start_needs_neither_clang_nor_llvm(tmp_path: Path) -> None:
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    first = [sys.executable, "-m", "ebpf", "--kernel", "user", "run", str(EXAMPLES / "exec_counts_exact.py"), "--", "/bin/true"]
    subprocess.run(first, env=env, check=True, capture_output=True)
    answer = subprocess.run(
        [sys.executable, "-c", SECOND, str(EXAMPLES / "exec_counts_exact.py")], env=env, capture_output=True, text=True, check=False
    )
    assert answer.stderr == ""
    assert answer.stdout.splitlines() == [f"uid {os.getuid()} started 1 programs", "False 0"]


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, ebpf; print([m for m in ('llvmlite', 'rich', 'ctypes', 'ebpf.uapi', 'ziglang') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"


def test_a_damaged_cache_is_compiled_anew(tmp_path: Path) -> None:
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "ebpf", "--kernel", "user", "run", str(EXAMPLES / "exec_counts_exact.py"), "--", "/bin/true"]
    for _ in range(2):
        answer = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        assert answer.stdout == f"uid {os.getuid()} started 1 programs\n"
        for folder in ("jit", "bcc"):
            for path in (tmp_path / "ebpf" / folder).iterdir():
                path.write_bytes(path.read_bytes()[:60])
