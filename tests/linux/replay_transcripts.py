"""Replay one section of bpftool's transcripts in namespaces of its own: `python replay_transcripts.py FOLDER SECTION`, as root.

Prints a JSON array: for each transcript its name, the command, what was expected and what came.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PARTS = re.compile(
    r"^\$ (?P<command>.*?)\n(?:--- stdin\n(?P<stdin>.*?))?--- stdout\n(?P<out>.*?)--- stderr\n(?P<err>.*?)--- exit (?P<code>\d+)",
    re.S | re.M,
)
# What a section finds already there.
BEFORE = {"03": "bpftool prog loadall run.bpf.o /sys/fs/bpf/rpd && mv /sys/fs/bpf/rpd/rewrite /sys/fs/bpf/rp"}


def inside(folder: Path, section: str, place: Path) -> list[dict[str, object]]:
    """In the namespaces: the interfaces, the file system, then each command."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    for line in (
        "mount --make-rprivate /",
        "ip link set lo up",
        "ip link add v0 type veth peer name v1",
        "ip link set v0 up",
        "ip link set v1 up",
    ):
        subprocess.run(line.split(), check=True)
    subprocess.run("mount -t bpf bpf /sys/fs/bpf", shell=True, check=True)
    for source in sorted((folder / "inputs").glob("*.c")):
        shutil.copy(source, place)
        target = place / source.name.replace(".c", ".o")
        subprocess.run([sys.executable, "-m", "ebpf", "cc", source.name, "-o", target.name], cwd=place, check=False, **quiet)  # type: ignore[call-overload]
    if section in BEFORE:
        subprocess.run(BEFORE[section], shell=True, cwd=place, check=False, **quiet)  # type: ignore[call-overload]
    rows: list[dict[str, object]] = []
    for path in sorted((folder / "7.8").glob(f"{section}-*.txt")):
        found = PARTS.search(path.read_text())
        if found is None:
            continue
        try:
            done = subprocess.run(
                ["bash", "-c", found["command"]],
                input=found["stdin"] or "",
                capture_output=True,
                text=True,
                cwd=place,
                timeout=30,
                check=False,
            )
            got = (done.stdout, done.stderr, done.returncode)
        except subprocess.TimeoutExpired:
            got = ("", "", 124)
        rows.append(
            {"name": path.stem, "command": found["command"], "expected": (found["out"], found["err"], int(found["code"])), "got": got}
        )
    return rows


def main() -> int:
    folder, section = Path(sys.argv[1]).resolve(), sys.argv[2]
    if len(sys.argv) == 3:
        with tempfile.TemporaryDirectory() as name:
            tools = Path(name) / "bin"
            tools.mkdir()
            shim = tools / "bpftool"
            shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m ebpf.cli.bpftool "$@"\n')
            shim.chmod(0o755)
            env = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}:/usr/sbin:/sbin", "EBPF_KERNEL": "linux"}
            command = ["unshare", "--mount", "--net", sys.executable, __file__, str(folder), section, name]
            return subprocess.run(command, env=env, check=False).returncode
    json.dump(inside(folder, section, Path(sys.argv[3])), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
