"""bpftool's transcripts on the user kernel, in a laboratory without root: where they have a meaning there, the same is printed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.transcripts import normal

TESTS = Path(__file__).parents[2]
TRANSCRIPTS = TESTS.parents[1] / "shared" / "transcripts"
PARTS = "bpftool names the optional parts that it was built with, and these are not ours"
BPFFS = "a laboratory has its pins from the beginning, and no BPF file system"
CODE = "the machine code is another compiler's"
LINUX = "iproute2 asks Linux"
TYPES = "maps of type cpumap and sockhash are not built in the user kernel"
KERNEL = "its program is on a tracepoint by the kernel's types, and the user kernel has no structures of its own"
DEBUG = "Linux's bpffs has maps.debug and progs.debug"
CONFIG = "the user kernel has no configuration"
TOKEN = "a step (BPF tokens) that is not taken"
VMLINUX = "the user kernel has no types of its own"
LINKS = "the user kernel has no links of network namespaces and of netfilter"
BUG = "a fault of bpftool's that is not copied"
# By section: what differs, and why. The list only shrinks.
DIFFERENT = {
    "00": dict.fromkeys(
        ("00-002-version", "00-003-v", "00-004-version", "00-005-j-version", "00-006-p-version", "00-020-version-extra"), PARTS
    ),
    "01": {
        "01-001-no-bpffs-mounted": BPFFS,
        "01-002-load-nomount": BPFFS,
        "01-003-load": BPFFS,
        "01-004-bpffs-automounted": BPFFS,
        "01-005-ls-bpffs": BPFFS,
        "01-038-jited-plain": CODE,
        "01-039-jited-opcodes": CODE,
        "01-040-jited-linum": CODE,
        "01-041-jited-opcodes-linum": CODE,
        "01-042-jited-pretty": CODE,
        "01-043-jited-pretty-opcodes-linum": CODE,
        "01-045-jited-visual": CODE,
        "01-068-ip-link-show": LINUX,
    },
    "02": {
        **dict.fromkeys((f"02-00{i}" for i in ("1-loadall", "2-loadall-ls", "3-loadall-show")), KERNEL),
        **dict.fromkeys((f"02-00{i}" for i in ("4-load-multi-prog", "5-load-multi-ls", "6-load-multi-show")), KERNEL),
        "02-036-autoattach": KERNEL,
        "02-007-pinmaps": DEBUG,
        "02-026-load-pin-subdir": DEBUG,
        "02-037-autoattach-xdp": DEBUG,
        "02-038-use-loader": DEBUG,
        "02-045-pin-second": DEBUG,
        "02-014-verifier-fail-debug": TOKEN,
        "02-016-load-debug": TOKEN,
        "02-023-load-pin-not-bpffs-mounts-over": BPFFS,
        "02-024-load-pin-relative": BPFFS,
        "02-048-pin-not-bpffs": BPFFS,
        "02-040-kconfig-ksym-core": CONFIG,
    },
    "03": {
        "03-013-create-cpu": TYPES,
        "03-017-create-sk": TYPES,
        "03-020-list": TYPES,
        "03-021-list-json": TYPES,
        "03-022-list-pretty": TYPES,
        "03-023-list-f": TYPES,
        "03-180-sockhash-dump": TYPES,
        "03-181-cpumap-dump": TYPES,
        "03-058-err-byte-overflow": BUG,
        "03-076-err-create-dup-name": BUG,
        "03-077-err-create-not-bpffs": BPFFS,
    },
    "05": {
        **dict.fromkeys(("05-001-list", "05-002-list-json", "05-003-list-pretty"), VMLINUX),
        "05-015-dump-file-maps-c": BUG,
        "05-017-dump-file-maps-pretty": BUG,
    },
    "06": {
        "06-001-links": LINUX,
        **dict.fromkeys((f"06-0{i}" for i in ("17-tc-setup", "18-list-tc", "19-list-tc-json", "20-list-tc-pretty", "21-tc-del")), LINUX),
        **dict.fromkeys((f"06-03{i}" for i in ("4-list-links", "5-list-links-json", "6-list-links-pretty")), LINKS),
        **dict.fromkeys((f"06-03{i}" for i in ("7-link-list", "8-link-list-json", "9-link-list-pretty")), LINKS),
    },
}
# Which key follows which depends on the hash's seed in Linux; the others end by a signal, after one second of a busy machine.
BY_CHANCE = {"03-044-hash-getnext", "03-045-hash-getnext-pretty", "01-070-tracelog", "01-071-tracelog-json", "03-175-event-pipe"}


def refused() -> str:
    """Why a lab can have no namespaces here ("" if it can)."""
    done = subprocess.run(["unshare", "-Urnm", "true"], capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""


@pytest.mark.slow
@pytest.mark.skipif(not TRANSCRIPTS.is_dir(), reason="no shared/transcripts beside this checkout")
@pytest.mark.skipif(bool(refused()), reason=f"user namespaces: {refused()}")
@pytest.mark.parametrize("section", DIFFERENT)
def test_the_user_kernel_prints_what_bpftool_prints(section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if section != "00" and shutil.which("clang-14") is None:
        pytest.skip("needs clang-14, whose code the transcripts hold")
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    for name in ("EBPF_DAEMON", "EBPF_LAB", "EBPF_KERNEL"):
        monkeypatch.delenv(name, raising=False)
    replay = [sys.executable, str(TESTS / "linux" / "replay_transcripts.py"), str(TRANSCRIPTS), section, "--lab"]
    command = [sys.executable, "-m", "ebpf", "lab", "-q", "--", *replay]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert len(rows) > 30
    different = {}
    for row in rows:
        theirs, ours = (_normal(row["command"], *row[which]) for which in ("expected", "got"))
        if theirs != ours:
            different[row["name"]] = f"$ {row['command']}\n- {theirs}\n+ {ours}"
    unknown = {name: text for name, text in different.items() if name not in DIFFERENT[section] and name not in BY_CHANCE}
    assert not unknown, "\n".join(unknown.values())
    assert set(DIFFERENT[section]) <= set(different)


def _normal(command: str, out: str, err: str, code: int) -> tuple[str, str, int]:
    """A command's answer as it can be compared: who loaded something is another user here."""
    for text in (f"uid {os.getuid()}", f'"uid":{os.getuid()}', f'"uid": {os.getuid()}'):
        out = out.replace(text, text.replace(str(os.getuid()), "0"))
    return normal(out, command), normal(err, command), code
