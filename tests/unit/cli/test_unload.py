"""`ebpf prog unload`: what holds a program lets it go, or is told."""

import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpf.cli.main import main
from ebpf.isa import asm, encode
from ebpf.kernels import open_kernel
from ebpf.sys.calls import ObjPin, ProgLoad
from ebpf.sys.kernel import Kernel
from ebpf.uapi import ProgType

CODE = encode(asm("r0 = 0\nexit"))


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    kernel = open_kernel("user", lasting=True)
    yield kernel
    kernel.shutdown()


def loaded(kernel: Kernel, name: str) -> int:
    return kernel.bpf(ProgLoad(ProgType.RAW_TRACEPOINT, CODE, "GPL", name=name)).fd


def test_pins_are_removed_and_the_program_is_gone(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    fd = loaded(kernel, "unload_me")
    for name in ("one", "two"):
        kernel.bpf(ObjPin(f"/sys/fs/bpf/unload_{name}", fd))
    kernel.close(fd)
    assert main(["--kernel", "user", "prog", "unload", "name", "unload_me"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["removed /sys/fs/bpf/unload_one", "removed /sys/fs/bpf/unload_two"]
    assert lines[2].startswith("unloaded unload_me (id ")
    assert main(["--kernel", "user", "prog", "unload", "name", "unload_me"]) == 255


def test_who_still_holds_it_is_told(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    fd = loaded(kernel, "held_by_me")
    assert main(["--kernel", "user", "prog", "unload", "name", "held_by_me"]) == 1
    assert "is still held by " in capsys.readouterr().err
    kernel.close(fd)


SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("xdp") int NAME(struct xdp_md *ctx) { return XDP_PASS; }
char LICENSE[] SEC("license") = "GPL";
"""
HOLD = """
import sys
from ebpf.kernels import open_kernel
from ebpf.sys.calls import ObjGet
with open_kernel("linux") as kernel:
    kernel.bpf(ObjGet(sys.argv[1]))
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.linux
def test_on_linux_interfaces_and_pins_let_go_and_processes_are_named(tmp_path: Path) -> None:
    name = f"u{uuid.uuid4().hex[:10]}"
    (tmp_path / "x.bpf.c").write_text(SOURCE.replace("NAME", name))
    path = f"/sys/fs/bpf/{name}"
    ebpf = f"{sys.executable} -m ebpf --kernel linux"
    script = f"""set -e
ip link set lo up
{ebpf} cc x.bpf.c -o x.o
{ebpf} prog load x.o {path}
{ebpf} net attach xdp pinned {path} dev lo
mkfifo hold
{sys.executable} -c '{HOLD}' {path} < hold > said &
exec 3> hold
while ! grep -q held said; do sleep 0.05; done
{ebpf} prog unload pinned {path} || echo status $?
exec 3>&-
wait
"""
    command = ["unshare", "--net", "--mount", "sh", "-c", f"mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf\n{script}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.splitlines() == ["detached from lo", f"removed {path}", "status 1"], done.stderr
    assert f"program '{name}'" in done.stderr
    assert re.search(r" is still held by python\S* \(pid \d+\)", done.stderr)
    assert main(["--kernel", "linux", "prog", "show", "name", name]) == 255
