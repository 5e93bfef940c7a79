"""Both kernels: a test that takes `kernel_name` runs on the user kernel, and on Linux's where bpf(2) is permitted."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

import pytest

from ebpf.kernels import open_kernel
from ebpf.sys.kernel import Kernel

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(params=["user", pytest.param("linux", marks=pytest.mark.linux)])
def kernel_name(request: pytest.FixtureRequest) -> str:
    """user or linux."""
    return str(request.param)


@pytest.fixture(params=["jit", "interp"])
def engine(request: pytest.FixtureRequest, kernel_name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What runs the programs: each engine of the user kernel, and Linux's one (see below)."""
    monkeypatch.setenv("EBPF_ENGINE", request.param)
    return str(request.param)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run on Linux, whose engine is not ours to choose, only one test of two that differ by the engine."""

    def twice(item: pytest.Item) -> bool:
        params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        return (params.get("kernel_name"), params.get("engine")) == ("linux", "interp")

    left_out = [item for item in items if twice(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if not twice(item)]


@pytest.fixture
def kernel(kernel_name: str) -> Iterator[Kernel]:
    """An open kernel; what a test leaves attached is detached."""
    with open_kernel(kernel_name) as opened:
        yield opened


@pytest.fixture
def ebpf(kernel_name: str) -> Run:
    """The `ebpf` command on this kernel."""

    def run(
        *words: str, stdin: str | None = None, timeout: float = 60, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        command: Sequence[str] = [sys.executable, "-m", "ebpf", "--kernel", kernel_name, *words]
        source = subprocess.DEVNULL if stdin is None else None
        return subprocess.run(
            command,
            input=stdin,
            stdin=source,
            capture_output=True,
            text=True,
            timeout=timeout,
            # A line of a script is one write: the command writes to the same pipe.
            env={**os.environ, "PYTHONUNBUFFERED": "", **(env or {})},
            check=False,
        )

    return run
