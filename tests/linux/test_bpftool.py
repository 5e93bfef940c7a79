"""The tutorial's commands on Linux's kernel, each compared with Debian's bpftool in the same namespaces."""

import json
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


SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct key { __u32 pid; char comm[8]; };
struct val { __u64 n; struct { short a, b; } in[2]; _Bool ok; };
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 8); __type(key, struct key); __type(value, struct val); } h SEC(".maps");
int counter, other = 3;
static __attribute__((noinline)) int odd(struct xdp_md *c, int n) { if (n & 1) return c->data_end - c->data; return n * 3; }
SEC("xdp") int PROG(struct xdp_md *ctx)
{
    struct key k = {};
    unsigned char *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    if (data + 1 > end)
        return XDP_ABORTED;
    data[0] ^= 0xff;
    bpf_map_lookup_elem(&h, &k);
    counter += odd(ctx, other);
    return XDP_TX;
}
char LICENSE[] SEC("license") = "GPL";
"""
# Without what takes a time of its own.
RUNS = [
    "prog run pinned $B/p data_in in.bin",
    "prog run pinned $B/p data_in in.bin data_out -",
    "prog run pinned $B/p data_in in.bin data_out - repeat 10",
    "-j prog run pinned $B/p data_in in.bin data_out -",
    "-p prog run pinned $B/p data_in in.bin data_out - data_size_out 8",
    "prog run pinned $B/p",
    "prog run pinned $B/p data_in",
    "prog run pinned $B/p data_in nosuch",
    "prog run pinned $B/p bogus 1",
    "prog run pinned $B/p data_in in.bin repeat x",
    "batch file bad.txt",
    "-j batch file bad.txt",
    "batch file nosuch",
    "batch bogus x",
    "prog dump xlated pinned $B/p",
    "prog dump xlated pinned $B/p linum",
    "btf dump prog pinned $B/p",
    "btf dump map name $N.bss value",
    "-j btf dump file p.o",
]


def test_runs_batches_and_types_are_bpftools_too(shell: Shell, tmp_path: Path) -> None:
    source, target = tmp_path / f"{N}.bpf.c", tmp_path / f"{N}.bpf.o"
    source.write_text(SOURCE.replace("PROG", N))
    subprocess.run([sys.executable, "-m", "ebpf", "cc", str(source), "-o", str(target)], check=True)
    (tmp_path / "in.bin").write_bytes(bytes(range(40, 100)))
    (tmp_path / "bad.txt").write_text("prog show id 99999999\nmap list\n")
    ours = f"{sys.executable} -m ebpf.cli.bpftool"
    quiet = "sed -E 's/[0-9]+ns/Nns/; s/(\"duration\":) ?[0-9]+/\\1N/'"
    parts = [
        f"echo '=== {words}'; {{ EBPF_KERNEL=linux {ours} {words}; echo $?; }} 2>&1 | {quiet}; echo '---'; "
        f"{{ $BPFTOOL {words}; echo $?; }} 2>&1 | {quiet}"
        for words in RUNS
    ]
    head = f"cd {tmp_path}; cp {target} p.o; $EBPF prog load {target} $B/p && "
    answer = shell.run(head + "; ".join(parts))
    assert answer.stderr == ""
    sections = answer.stdout.split("=== ")[1:]
    assert len(sections) == len(RUNS)
    for section in sections:
        words, _, texts = section.partition("\n")
        ours_text, theirs = texts.split("---\n")
        assert ours_text == theirs, words


def test_a_batch_ends_with_how_many_commands_there_were(shell: Shell, hello: Path, tmp_path: Path) -> None:
    # bpftool 7.8 ends it with "Bad file descriptor" and 255, after all went well.
    (tmp_path / "good.txt").write_text(f"# a comment\nprog show name {N}\n\nmap \\\n  dump name {N}.bss\n")
    done = shell.run(
        f"$EBPF prog load {hello} $B/hello; $EBPF batch file {tmp_path}/good.txt; echo $?; $EBPF -j batch file {tmp_path}/good.txt"
    )
    *lines, document = done.stdout.splitlines()
    assert lines[-2:] == ["processed 2 commands", "0"]
    assert [row["command"][:2] for row in json.loads(document)] == [["prog", "show"], ["map", "dump"]]


def test_keys_and_values_are_typed_in_json(shell: Shell, tmp_path: Path) -> None:
    source, target = tmp_path / f"{N}.bpf.c", tmp_path / f"{N}.bpf.o"
    source.write_text(SOURCE.replace("PROG", N))
    subprocess.run([sys.executable, "-m", "ebpf", "cc", str(source), "-o", str(target)], check=True)
    done = shell.run(
        f"$EBPF prog load {target} $B/p pinmaps $B/m && "
        """$EBPF map update pinned $B/m/h key '{"pid": 1, "comm": "bash"}' value '{"n": 7, "in": [{"a": 1, "b": -2}], "ok": true}' && """
        """$EBPF map update pinned $B/m/_bss value '{"counter": 41}' && """
        "$BPFTOOL -j map dump pinned $B/m/h && $BPFTOOL -j map dump pinned $B/m/_bss; "
        """$EBPF map update pinned $B/m/h key '{"pid": 1, "com": ""}' value 1; $EBPF map update pinned $B/m/h key '{"pid": x' value 1; """
        """$EBPF map update pinned $B/m/h key '{"pid": 1, "comm": "ninechars"}' value 1"""
    )
    entry, data = (json.loads(line)[0]["formatted"] for line in done.stdout.splitlines())
    assert entry == {
        "key": {"pid": 1, "comm": "bash"},
        "value": {"n": 7, "in": [{"a": 1, "b": -2}, {"a": 0, "b": 0}], "ok": True},
    }
    assert data["value"][".bss"] == [{"counter": 41}]
    errors = done.stderr.splitlines()
    assert [line.startswith("Error: key {") for line in errors] == [True] * 3
    assert "has no member 'com'" in errors[0]
    assert "not JSON" in errors[1]
    assert "do not fit an array of 8" in errors[2]
