"""What a run on Linux's kernel leaves behind: nothing."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ebpf.errors import KernelError
from ebpf.kernels import open_kernel
from ebpf.sys.calls import NextId
from ebpf.uapi import Cmd

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.linux


def ids() -> dict[str, int]:
    """How many programs, maps and links there are."""
    count = {}
    with open_kernel("linux") as kernel:
        for cmd in (Cmd.PROG_GET_NEXT_ID, Cmd.MAP_GET_NEXT_ID, Cmd.LINK_GET_NEXT_ID):
            last, number = 0, 0
            while True:
                try:
                    last = kernel.bpf(NextId(cmd, last))
                except KernelError:
                    break
                number += 1
            count[cmd.name] = number
    return count


@pytest.mark.parametrize("ending", ["exit 0", "kill -KILL $$"])
def test_programs_maps_links_and_cgroups_go_with_the_script(ending: str) -> None:
    before = ids()
    command = [
        sys.executable,
        "-m",
        "ebpf",
        "--kernel",
        "linux",
        "run",
        str(EXAMPLES / "exec_counts_exact.py"),
        "--",
        "/bin/sh",
        "-c",
        ending,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        child.communicate()
    assert f"ebpf-{child.pid}" not in cgroups()
    # Linux frees maps a little after their last holder has gone.
    deadline = time.monotonic() + 5
    while any(now > then for now, then in zip(ids().values(), before.values(), strict=True)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert all(now <= then for now, then in zip(ids().values(), before.values(), strict=True))


def cgroups() -> list[str]:
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if " - cgroup2 " in line:
            found += [name for name in os.listdir(line.split()[4]) if name.startswith("ebpf-")]
    return found


def test_only_the_commands_tree_is_reported(tmp_path: Path) -> None:
    """Another process starts programs all the while; none of them is counted."""
    noise = subprocess.Popen(["/bin/sh", "-c", "while :; do /bin/true; done"])
    try:
        command = [sys.executable, "-m", "ebpf", "--kernel", "linux", "run", str(EXAMPLES / "exec_counts_exact.py"), "--"]
        answer = subprocess.run([*command, "/bin/sh", "-c", "/bin/true; /bin/sleep 0.3; :"], capture_output=True, text=True, check=False)
    finally:
        noise.kill()
        noise.wait()
    assert answer.stdout.splitlines()[-1] == "uid 0 started 3 programs"


def test_a_32_bit_call_with_the_same_number_is_another_call(tmp_path: Path) -> None:
    """int 0x80 with 59 is no execve: its numbers are of another table."""
    from ebpf.toolchain import find_clang, run

    source = tmp_path / "x.s"
    source.write_text(".globl _start\n_start:\n mov $59, %eax\n xor %ebx, %ebx\n int $0x80\n mov $60, %eax\n xor %edi, %edi\n syscall\n")
    clang = find_clang(None)
    out, target = tmp_path / "x.o", tmp_path / "x"
    assert not run([*clang.command, "-target", "x86_64-linux-gnu", "-c", str(source), "-o", str(out)]).returncode
    assert not run([*clang.linker, "-o", str(target), str(out)]).returncode
    command = [sys.executable, "-m", "ebpf", "--kernel", "linux", "run", str(EXAMPLES / "exec_counts_exact.py"), "--", str(target)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (answer.stdout.splitlines()[-1], answer.returncode) == ("uid 0 started 1 programs", 0)
