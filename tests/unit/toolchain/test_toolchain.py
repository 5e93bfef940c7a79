"""The cache folder is private or not used; clang is found or its absence explained; nothing is written but the output."""

import os
import stat
import sys
from pathlib import Path

import pytest

from ebpf.errors import NotFoundError, NotSupportedError
from ebpf.toolchain import cache_folder, find_clang, run, write_atomically


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def test_the_cache_folder_is_for_its_user_alone(base: Path) -> None:
    folder = cache_folder("a", "b")
    assert folder == base / "cache" / "ebpf" / "a" / "b"
    assert stat.S_IMODE((base / "cache" / "ebpf").stat().st_mode) == 0o700


def test_a_cache_folder_that_others_may_write_is_closed_to_them(base: Path) -> None:
    (base / "cache" / "ebpf").mkdir(parents=True)
    (base / "cache" / "ebpf").chmod(0o777)
    assert stat.S_IMODE(cache_folder().stat().st_mode) == 0o700


def test_a_link_in_the_cache_folders_place_is_not_followed(base: Path) -> None:
    (base / "cache").mkdir()
    (base / "elsewhere").mkdir()
    (base / "cache" / "ebpf").symlink_to(base / "elsewhere")
    assert cache_folder("x").parent == base / f"ebpf-{os.getuid()}"
    assert not list((base / "elsewhere").iterdir())


def test_without_a_home_the_cache_is_a_private_temporary_folder(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(base / "nobody"))
    assert cache_folder() == base / f"ebpf-{os.getuid()}"
    assert not (base / "nobody").exists()


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "a"
    write_atomically(target, b"old")
    with pytest.raises(TypeError):
        write_atomically(target, "text")  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert target.read_bytes() == b"old"


def test_clang_comes_from_the_package_and_says_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EBPF_CLANG", raising=False)
    clang = find_clang()
    assert clang.version.startswith("ziglang 0.")
    assert all(os.path.isdir(path) for path in clang.includes)
    assert b"bpfel" in run([*clang.command, "-print-targets"]).stdout


def test_clang_runs_with_no_home_and_writes_only_its_output(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    clang = find_clang()
    answer = run([*clang.command, "-target", "bpfel", "-c", "-o", str(tmp_path / "o"), "-x", "c", "-"], stdin=b"int f(void) { return 1; }")
    assert answer.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["o"]


@pytest.mark.parametrize(
    ("wanted", "kind", "words"),
    [
        pytest.param("no-such-clang", NotFoundError, "no compiler 'no-such-clang' in PATH", id="missing"),
        pytest.param("true", NotSupportedError, "is not a clang of 14 or later", id="no clang"),
    ],
)
def test_a_clang_that_will_not_do_is_refused(wanted: str, kind: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBPF_CLANG", wanted)
    with pytest.raises(kind, match=words):
        find_clang()


def test_without_ziglang_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from ebpf.toolchain import clang

    monkeypatch.delenv("EBPF_CLANG", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    clang._zig.cache_clear()
    with pytest.raises(NotFoundError) as caught:
        find_clang()
    assert "pip install ziglang" in (caught.value.hint or "")
    clang._zig.cache_clear()


def test_a_tool_that_hangs_or_cannot_run_is_one_error() -> None:
    with pytest.raises(NotSupportedError, match=r"gave no answer within 0 s"):
        run([sys.executable, "-c", "import time; time.sleep(60)"], timeout_s=0.2)
    with pytest.raises(NotSupportedError, match="cannot be run: no such file"):
        run(["/no/such/tool"])
