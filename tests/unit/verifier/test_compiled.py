"""The wheel of EBPF_MYPYC=1: its modules are compiled ones, and judge as their sources do, word for word."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from bench import wheel

TOP = Path(__file__).parents[3]
#: Says where each module of the verifier comes from.
WHERE = """
import pkgutil, importlib
import ebpf.engine.verifier as verifier
for row in pkgutil.iter_modules(verifier.__path__):
    print(row.name, importlib.import_module(f"{verifier.__name__}.{row.name}").__file__)
"""
#: Says all that the verifier says of programs by chance, with the states after each instruction.
SAID = """
import hashlib
from bench.agreement.generate import KINDS
from ebpf.engine.verifier import RULES, verify
from ebpf.errors import FormatError
from support.recorded import code_of
for kind, make in KINDS.items():
    for seed in range(5000, 5000 + (10 if kind == "loop" else 60)):
        for rules in RULES.values():
            try:
                found = verify(code_of(make(seed), 2), log_level=2, limit=20_000, rules=rules)
            except FormatError as error:
                print(kind, seed, rules.name, error)
                continue
            log = hashlib.sha256(found.log.encode()).hexdigest()
            print(kind, seed, rules.name, found.accepted, found.unknown, found.processed, found.says, found.path[-9:], log)
"""


def _env(*first: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*first, TOP, TOP / "tests"))), "PYTHONDONTWRITEBYTECODE": "1"}


def _say(script: str, *first: Path) -> list[str]:
    return subprocess.run(
        [sys.executable, "-c", script], env=_env(*first), cwd=TOP, check=True, capture_output=True, text=True
    ).stdout.splitlines()


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel has, built from a copy of the sources."""
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        pytest.skip("this Python has no C headers (Debian: python3-dev)")
    return wheel.unpacked(tmp_path_factory.mktemp("compiled"))


def test_the_hot_modules_are_compiled_and_the_others_are_not(unpacked: Path) -> None:
    where = dict(line.split(" ", 1) for line in _say(WHERE, unpacked))
    assert all(path.startswith(str(unpacked)) for path in where.values())
    compiled = {name for name, path in where.items() if path.endswith(".so")}
    assert {"num", "reg", "state", "compare", "precision", "explore"} <= compiled
    assert "refusal" in where.keys() - compiled


def test_verdicts_and_logs_are_those_of_the_sources(unpacked: Path) -> None:
    ours, theirs = _say(SAID), _say(SAID, unpacked)
    assert len(ours) > 500
    assert ours == theirs


def test_the_verifiers_tests_pass(unpacked: Path) -> None:
    # The walk of test_states_hold is one whose methods it replaces, which compiled classes do not allow.
    left_out = [f"--ignore=tests/unit/verifier/{name}" for name in ("test_compiled.py", "test_states_hold.py")]
    words = [sys.executable, "-m", "pytest", "-q", "-m", "not linux", "tests/unit/verifier", "tests/unit/debug", *left_out]
    said = subprocess.run(words, cwd=TOP, env=_env(unpacked), capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout


def test_an_editable_install_is_not_compiled(tmp_path: Path) -> None:
    shutil.copy(TOP / "setup.py", tmp_path)
    words = [sys.executable, "setup.py", "build_ext", "--inplace"]
    said = subprocess.run(words, cwd=tmp_path, env={**os.environ, "EBPF_MYPYC": "1"}, capture_output=True, text=True, check=False)
    assert said.returncode == 1
    assert "stays pure Python" in said.stderr
