"""The tutorial's commands on Linux's kernel, each compared with Debian's bpftool in the same namespaces."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TUTORIAL = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
int counter = 0;
SEC("xdp")
int hello(struct xdp_md *ctx) {
    bpf_printk("Hello World %d", counter);
    counter++;
    return XDP_PASS;
}
char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""
#: Programs of this name are ours alone, whoever else works on the machine.
N = f"e{os.getpid() % 10**6}"
BPFTOOL = shutil.which("bpftool") or shutil.which("bpftool", path="/usr/sbin:/sbin")
pytestmark = [
    pytest.mark.linux,
    pytest.mark.skipif(BPFTOOL is None, reason="bpftool is not installed"),
    pytest.mark.skipif(shutil.which("ip") is None and not Path("/sbin/ip").exists(), reason="iproute2 is not installed"),
]


class Shell:
    """A shell in a network namespace and a mount namespace of its own, with a bpffs on a folder of its own."""

    def __init__(self, folder: Path, netns: str) -> None:
        self.bpffs = folder / "bpffs"
        self.bpffs.mkdir()
        self._netns = netns

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run lines of sh; $EBPF is our command, $B the bpffs, $BPFTOOL bpftool."""
        head = f"mount -t bpf bpf {self.bpffs}; ip link set lo up; "
        env = {**os.environ, "EBPF": f"{sys.executable} -m ebpf --kernel linux", "B": str(self.bpffs), "N": N, "BPFTOOL": str(BPFTOOL)}
        env["PATH"] += ":/usr/sbin:/sbin"
        command = ["nsenter", f"--net=/run/netns/{self._netns}", "unshare", "-m", "sh", "-c", head + script]
        return subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=False)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    name = f"ebpf-{os.getpid()}"
    env = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
    subprocess.run(["ip", "netns", "add", name], check=True, env=env)
    try:
        yield Shell(tmp_path, name)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True, env=env)


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    source, target = tmp_path / f"{N}.bpf.c", tmp_path / f"{N}.bpf.o"
    source.write_text(TUTORIAL.replace("hello", N))
    subprocess.run([sys.executable, "-m", "ebpf", "cc", str(source), "-o", str(target)], check=True)
    return target


LOAD = "$EBPF prog load {o} $B/hello && $EBPF net attach xdp name $N dev lo && ping -c 2 -q 127.0.0.1 >/dev/null; "
SAME = [
    "prog show pinned $B/hello",
    "map show name $N.bss",
    "map show name $N.rodata",
    "-j map show name $N.bss",
    "prog dump xlated pinned $B/hello",
    "prog dump xlated pinned $B/hello opcodes",
    "prog dump xlated pinned $B/hello linum",
    "-j prog dump xlated pinned $B/hello",
    "-p prog dump xlated pinned $B/hello opcodes",
    "map dump name $N.bss",
    "map dump name $N.rodata",
    "-j map dump name $N.bss",
    "-p map dump name $N.bss",
    "map lookup name $N.bss key 0 0 0 0",
]


def test_what_is_printed_equals_bpftools(shell: Shell, hello: Path) -> None:
    parts = [f"echo '=== {words}'; $EBPF {words}; echo '---'; $BPFTOOL {words}" for words in SAME]
    answer = shell.run(LOAD.format(o=hello) + "; ".join(parts))
    assert answer.stderr == ""
    for section in answer.stdout.split("=== ")[1:]:
        words, _, rest = section.partition("\n")
        ours, _, theirs = rest.partition("---\n")
        assert ours == theirs, words
        assert ours.strip(), words


def test_packets_count_and_the_map_can_be_changed(shell: Shell, hello: Path) -> None:
    answer = shell.run(
        LOAD.format(o=hello)
        + "$EBPF -j map dump name $N.bss; $EBPF map update name $N.bss key 0 0 0 0 value 255 0 0 0; $BPFTOOL -j map dump name $N.bss"
    )
    before, after = answer.stdout.splitlines()
    assert '"counter":4' in before
    assert '"counter":255' in after


def test_attach_list_and_detach(shell: Shell, hello: Path) -> None:
    answer = shell.run(
        LOAD.format(o=hello)
        + "$BPFTOOL net list | head -2; $EBPF net list | head -2; $EBPF net detach xdp dev lo; $BPFTOOL net list | head -2"
    )
    first, second, third = answer.stdout.split("xdp:\n")[1:]
    assert first == second
    assert first.startswith("lo(1) generic id ")
    assert third.strip() == ""


def test_a_second_program_is_busy(shell: Shell, hello: Path) -> None:
    answer = shell.run(
        LOAD.format(o=hello) + "$EBPF net attach xdp name $N dev lo; echo $?; $EBPF net attach xdp name $N dev lo overwrite; echo $?"
    )
    assert "XDP program already attached" in answer.stderr
    assert answer.stdout.split() == ["240", "0"]


def test_nothing_is_left_when_the_pin_is_gone(shell: Shell, hello: Path) -> None:
    names = "$BPFTOOL prog show name $N | wc -l"
    answer = shell.run(f"{names}; " + LOAD.format(o=hello) + f"$EBPF net detach xdp dev lo; rm $B/hello; sleep 0.2; {names}")
    before, after = answer.stdout.split()
    assert before == after


def test_a_pin_that_exists_is_said(shell: Shell, hello: Path) -> None:
    answer = shell.run(f"$EBPF prog load {hello} $B/hello; $EBPF prog load {hello} $B/hello; echo $?")
    assert "can't pin BPF object: path" in answer.stderr
    assert "already exists" in answer.stderr
    assert answer.stdout.split() == ["255"]


def test_images_in_files_are_bpftools(shell: Shell, hello: Path, tmp_path: Path) -> None:
    answer = shell.run(
        f"$EBPF prog load {hello} $B/hello; for k in xlated jited; do $EBPF prog dump $k pinned $B/hello file {tmp_path}/$k.ours;"
        f" $BPFTOOL prog dump $k pinned $B/hello file {tmp_path}/$k.theirs; done; $EBPF prog dump xlated pinned $B/hello file /nosuch/x; echo $?"
    )
    xlated = (tmp_path / "xlated.ours").read_bytes()
    assert len(xlated) % 8 == 0
    assert xlated == (tmp_path / "xlated.theirs").read_bytes()
    assert (tmp_path / "jited.ours").stat().st_size > len(xlated) // 4
    assert "can't open file /nosuch/x: No such file or directory" in answer.stderr
    assert answer.stdout.split() == ["255"]


def test_pins_are_listed_as_bpftool_lists_them(shell: Shell, hello: Path) -> None:
    answer = shell.run(
        f"$EBPF prog loadall {hello} $B/all pinmaps $B/maps; $EBPF prog pin pinned $B/all/$N $B/again;"
        " for t in '-f prog' '-f -p map' '-f map'; do case \"$t\" in *map) n=$N.bss;; *) n=$N;; esac;"
        " $EBPF $t show name $n; echo ---; $BPFTOOL $t show name $n; echo ===; done"
    )
    pairs = [piece.split("---\n") for piece in answer.stdout.split("===\n") if piece.strip()]
    assert len(pairs) == 3, answer.stdout + answer.stderr
    for ours, theirs in pairs:
        assert "again" in ours or "bss" in ours
        # Which of several pins comes first is the directory's order.
        assert sorted(ours.replace(",", "").split()) == sorted(theirs.replace(",", "").split())
