"""Replay one section of bpftool's transcripts in namespaces of its own: `python replay_transcripts.py FOLDER SECTION`, as root;
with --lab in the laboratory in which it is called.

Prints a JSON array: for each transcript its name, the command, what was expected and what came. Ids that a transcript has in
its command are replaced by those of the objects that stand in the same place of what was printed here.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from difflib import SequenceMatcher
from pathlib import Path

PARTS = re.compile(
    r"^\$ (?P<command>.*?)\n(?:--- stdin\n(?P<stdin>.*?))?--- stdout\n(?P<out>.*?)--- stderr\n(?P<err>.*?)--- exit (?P<code>\d+)",
    re.S | re.M,
)
_MOUNT = "mount -t bpf bpf /sys/fs/bpf"
# What a section finds already there.
BEFORE = {
    "00": "true",
    "01": "true",
    "02": _MOUNT,
    "03": f"{_MOUNT} && bpftool prog loadall run.bpf.o /sys/fs/bpf/rpd && mv /sys/fs/bpf/rpd/rewrite /sys/fs/bpf/rp",
    "05": f"{_MOUNT} && bpftool prog load hello.bpf.o /sys/fs/bpf/hello",
    "06": f"{_MOUNT} && bpftool prog loadall net.bpf.o /sys/fs/bpf/net",
}
_LINKS = f"{sys.executable} {Path(__file__).with_name('attach_links.py')} /sys/fs/bpf/net"
# The same in a laboratory, which has its file system, and some types of programs not.
BEFORE_IN_A_LAB = {
    **{section: text.removeprefix(_MOUNT).removeprefix(" && ") or "true" for section, text in BEFORE.items()},
    "06": "grep -v -e flow_dissector -e sk_lookup -e netfilter net.bpf.c > lab.bpf.c &&"
    " clang -target bpf -O2 -g -c lab.bpf.c -o lab.bpf.o && bpftool prog loadall lab.bpf.o /sys/fs/bpf/net",
}
# What transcripts that were not handed out did before one that was.
MISSING = {
    "01-084": "bpftool prog load hello-func.bpf.o /sys/fs/bpf/hello",
    "01-092": "rm -f /sys/fs/bpf/hello; sleep 0.3",
    "01-094": "rm -f /sys/fs/bpf/h*; sleep 0.3; bpftool prog load hello.bpf.o /sys/fs/bpf/h1; bpftool prog load hello.bpf.o /sys/fs/bpf/h2",
    "02-004": "rm -rf /sys/fs/bpf/trace",
    "02-007": "rm -f /sys/fs/bpf/first",
    "02-008": "rm -rf /sys/fs/bpf/m* /sys/fs/bpf/pinned_by_name",
    "02-026": "rm -f /sys/fs/bpf/h",
    "02-036": "rm -rf /sys/fs/bpf/h /sys/fs/bpf/bad /sys/fs/bpf/mybss",
    "02-037": "rm -rf /sys/fs/bpf/t",
    "02-038": "rm -f /sys/fs/bpf/h; sleep 0.3",
    "02-040": "rm -f /sys/fs/bpf/h; sleep 0.3",
    "02-042": "rm -f /sys/fs/bpf/h /sys/fs/bpf/k /sys/fs/bpf/k2; sleep 0.3",
    "06-034": _LINKS,
    "06-040": "rm -f /sys/fs/bpf/link_*; sleep 0.3",
}
# Each section compiles with the compiler that the transcripts were made with, where it is installed.
CLANG = shutil.which("clang-14")
# The interfaces of a laboratory, where nobody may make others.
IN_A_LAB = {"v0": "eth0", "v1": "lo"}
_NUMBERED = re.compile(r"\d+")


class Ids:
    """Which number of a transcript is which here."""

    def __init__(self) -> None:
        self._ours: dict[str, str] = {}

    def learn(self, expected: str, got: str) -> None:
        """Take the numbers of lines that are alike but for their numbers."""
        theirs, ours = expected.splitlines(), got.splitlines()
        shapes = [[_NUMBERED.sub("#", line) for line in lines] for lines in (theirs, ours)]
        for same in SequenceMatcher(None, *shapes, autojunk=False).get_matching_blocks():
            for i in range(same.size):
                pair = _NUMBERED.findall(theirs[same.a + i]), _NUMBERED.findall(ours[same.b + i])
                self._ours |= dict(zip(*pair, strict=True))

    def command(self, text: str) -> str:
        """A command with our ids."""
        return re.sub(r"\bid (\d{4,})\b", lambda found: f"id {self._ours.get(found[1], found[1])}", text)


def compile_all(folder: Path, place: Path) -> None:
    """The objects: clang 14's as the transcripts have them (ours where it is missing), and clang 22's in zig/."""
    (place / "zig").mkdir()
    (place / "inputs").mkdir()
    headers = place / "headers"
    headers.mkdir()
    for source in sorted([*(folder / "inputs").glob("*.c"), *Path(__file__).with_name("inputs").glob("*.c")]):
        shutil.copy(source, place)
        shutil.copy(source, place / "inputs")
    if CLANG and any("vmlinux.h" in source.read_text() for source in place.glob("*.c")):
        with (headers / "vmlinux.h").open("w") as out:
            subprocess.run(["/usr/sbin/bpftool", "btf", "dump", "file", "/sys/kernel/btf/vmlinux", "format", "c"], stdout=out, check=False)
    flags = [
        "-target",
        "bpf",
        "-O2",
        "-g",
        "-D__TARGET_ARCH_x86",
        "-I/usr/include/x86_64-linux-gnu",
        f"-I{headers}",
        "-c",
    ]
    for source in sorted(place.glob("*.c")):
        name, path = source.name.replace(".c", ".o"), f"inputs/{source.name}"
        ours = [sys.executable, "-m", "ebpf", "cc", path, "-o"]
        for command in ([*ours, f"zig/{name}"], [CLANG, *flags, path, "-o", name] if CLANG else [*ours, name]):
            subprocess.run(command, cwd=place, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    shutil.rmtree(place / "inputs")


def inside(folder: Path, section: str, place: Path, *, lab: bool) -> list[dict[str, object]]:
    """In the namespaces: the interfaces, the file system (a lab has its own), then each command."""
    for line in (
        ()
        if lab
        else (
            "mount --make-rprivate /",
            "ip link set lo up",
            "ip link add v0 type veth peer name v1",
            "ip link set v0 up",
            "ip link set v1 up",
        )
    ):
        subprocess.run(line.split(), check=True)
    compile_all(folder, place)
    ids = Ids()

    def run(command: str, stdin: str = "") -> tuple[str, str, int]:
        try:
            done = subprocess.run(["bash", "-c", command], input=stdin, capture_output=True, text=True, cwd=place, timeout=30, check=False)
        except subprocess.TimeoutExpired:
            return ("", "", 124)
        # Where the objects were compiled is in their line info.
        return done.stdout.replace(f"{place}/", ""), done.stderr.replace(f"{place}/", ""), done.returncode

    run((BEFORE_IN_A_LAB if lab else BEFORE)[section])
    rows: list[dict[str, object]] = []
    for path in sorted((folder / "7.8").glob(f"{section}-*.txt")):
        found = PARTS.search(path.read_text())
        if found is None:
            continue
        if lab and "/sys/kernel/btf" in found["command"]:
            # A file of Linux's: it says nothing of the user kernel.
            continue
        if path.name[:6] in MISSING:
            run(MISSING[path.name[:6]] + (" --lab" if lab and MISSING[path.name[:6]] == _LINKS else ""))
        theirs = [found["command"], found["out"], found["err"]]
        if lab:
            theirs = [re.sub(rf"\b({'|'.join(IN_A_LAB)})\b(?!\.)", lambda name: IN_A_LAB[name[0]], text) for text in theirs]
        command = ids.command(theirs[0])
        got = run(command, found["stdin"] or "")
        ids.learn(theirs[1], got[0])
        rows.append({"name": path.stem, "command": command, "expected": (theirs[1], theirs[2], int(found["code"])), "got": got})
    return rows


def main() -> int:
    folder, section = Path(sys.argv[1]).resolve(), sys.argv[2]
    if sys.argv[3:] == ["--lab"]:
        with tempfile.TemporaryDirectory() as name:
            json.dump(inside(folder, section, Path(name), lab=True), sys.stdout)
        return 0
    if len(sys.argv) == 3:
        with tempfile.TemporaryDirectory() as name:
            tools = Path(name) / "bin"
            tools.mkdir()
            shim = tools / "bpftool"
            shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m ebpf.cli.bpftool "$@"\n')
            shim.chmod(0o755)
            env = {"EBPF_KERNEL": "linux", **os.environ, "PATH": f"{tools}:{os.environ['PATH']}:/usr/sbin:/sbin"}
            command = ["unshare", "--mount", "--net", sys.executable, __file__, str(folder), section, name]
            return subprocess.run(command, env=env, check=False).returncode
    json.dump(inside(folder, section, Path(sys.argv[3]), lab=False), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
