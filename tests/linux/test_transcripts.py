"""bpftool's transcripts, replayed: what `ebpf` prints under bpftool's name, and with which status, is what bpftool 7.8 does.

The transcripts stand beside the checkout (shared/transcripts); they are read, not kept here.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.transcripts import normal, without

HERE = Path(__file__).parent
TRANSCRIPTS = HERE.parents[2] / "shared" / "transcripts"
ORDER = "a hash's order depends on its random seed: this key may be its last"
PARTS = "bpftool names the optional parts that it was built with, and these are not ours"
MOUNTS = "bpftool mounts a bpffs over the folder"
FIRST = "bpftool leaves out the first type of a sorted list where no other needs it"
INVALID = "bpftool's JSON is invalid where a flow dissector is attached"
TOKEN = "no BPF token is asked for: that step of libbpf's is not there"
# By section: what differs yet, and why. The list only shrinks.
DIFFERENT = {
    "00": dict.fromkeys(
        ("00-002-version", "00-003-v", "00-004-version", "00-005-j-version", "00-006-p-version", "00-020-version-extra"), PARTS
    ),
    "01": {},
    "02": {
        "02-014-verifier-fail-debug": TOKEN,
        "02-016-load-debug": TOKEN,
        "02-023-load-pin-not-bpffs-mounts-over": MOUNTS,
        "02-024-load-pin-relative": MOUNTS,
        "02-048-pin-not-bpffs": MOUNTS,
    },
    "03": {
        "03-044-hash-getnext": ORDER,
        "03-045-hash-getnext-pretty": ORDER,
        "03-058-err-byte-overflow": "bpftool stores 300 as 44 silently",
        "03-076-err-create-dup-name": "bpftool takes the second of two names silently",
        "03-077-err-create-not-bpffs": MOUNTS,
    },
    "05": {
        "05-015-dump-file-maps-c": FIRST,
        "05-017-dump-file-maps-pretty": "bpftool prints an unsigned enumerator as if it had 64 bits",
        "05-023-vmlinux-c-head": FIRST,
    },
    "06": {"06-035-list-links-json": INVALID, "06-036-list-links-pretty": INVALID},
}
# What the compiler of the transcripts made: without it their tags and sizes cannot be equal.
NEEDS_CLANG_14 = ("01", "02")


def _others() -> set[int]:
    """The maps and types of others that the kernel has: lists show them too."""
    command = [sys.executable, "-m", "ebpf", "--kernel", "linux", "--json", "map", "list"]
    rows = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {row[key] for row in rows for key in ("id", "btf_id") if key in row}


@pytest.mark.linux
@pytest.mark.slow
@pytest.mark.skipif(not TRANSCRIPTS.is_dir(), reason="no shared/transcripts beside this checkout")
@pytest.mark.parametrize("section", DIFFERENT)
def test_what_is_printed_is_what_bpftool_prints(section: str) -> None:
    if section in NEEDS_CLANG_14 and shutil.which("clang-14") is None:
        pytest.skip("needs clang-14, whose code the transcripts hold")
    command = [sys.executable, str(HERE / "replay_transcripts.py"), str(TRANSCRIPTS), section]
    others = _others()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert len(rows) > 30
    different = {}
    for row in rows:
        (out, err, code), (our_out, our_err, our_code) = row["expected"], row["got"]
        theirs = (normal(out, row["command"]), normal(err, row["command"]), code)
        ours = (normal(without(our_out, others), row["command"]), normal(our_err, row["command"]), our_code)
        if theirs != ours:
            different[row["name"]] = f"$ {row['command']}\n- {theirs}\n+ {ours}"
    unknown = {name: text for name, text in different.items() if name not in DIFFERENT[section]}
    assert not unknown, "\n".join(unknown.values())
    by_chance = {name for name, why in DIFFERENT[section].items() if why == ORDER}
    assert set(DIFFERENT[section]) - by_chance <= set(different)
