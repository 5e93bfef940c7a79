"""bpftool's transcripts, replayed: what `ebpf` prints under bpftool's name, and with which status, is what bpftool 7.8 does.

The transcripts stand beside the checkout (shared/transcripts); they are read, not kept here.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TRANSCRIPTS = HERE.parents[2] / "shared" / "transcripts"
ORDER = "the order of a hash depends on its random seed"
# By section: what differs yet, and why. The list only shrinks.
DIFFERENT = {
    "03": {
        "03-043-hash-getnext-first": ORDER,
        "03-044-hash-getnext": ORDER,
        "03-045-hash-getnext-pretty": ORDER,
        "03-046-hash-getnext-miss-restarts": ORDER,
        "03-058-err-byte-overflow": "bpftool stores 300 as 44 silently",
        "03-069-err-dump-noarg": "bpftool prints its whole grammar where a handle is missing",
        "03-071-err-dump-longname": "ours says which name, and how long it may be",
        "03-076-err-create-dup-name": "bpftool takes the second of two names silently",
        "03-077-err-create-not-bpffs": "bpftool mounts a bpffs over the folder",
        "03-079-err-create-negative": "bpftool takes a negative number for an option",
        "03-084-err-pin-nofile": "bpftool's status is 234 here, and 255 where it says the same of other commands",
        "03-161-progarray-show": "the owner's type (fdinfo) is not asked for yet",
        "03-162-progarray-show-pretty": "the owner's type (fdinfo) is not asked for yet",
        "03-164-progarray-update-noid": "ours says that it is a program's id",
        "03-175-event-pipe": "map event_pipe is not built yet",
        "03-176-event-pipe-wrong-type": "map event_pipe is not built yet",
    }
}
_VOLATILE = (
    (r'("(?:id|bytes_memlock|btf_id|inner_map_id)":\s*)\d+', r"\1N"),
    (r"(memlock|btf_id|inner_map_id:) \d+", r"\1 N"),
    (r"(?m)^\d+: ", "N: "),
)
# The id of a map or program, as the bytes of a value.
_ID_BYTES = re.compile(r"(?:[0-9a-f]{2} ){4}|[0-9a-f]{2} [0-9a-f]{2} 0[01] 00(?=\n)")
_ID_LIST = re.compile(r'"value":\s*\["0x..","0x..","0x0[01]","0x00"\s*\]')


def normal(text: str, command: str) -> str:
    """A text without what differs each time: ids, sizes of memory, and the order of a hash's elements."""
    for pattern, to in _VOLATILE:
        text = re.sub(pattern, to, text)
    if re.search(r"name (mprogs|maom)", command):
        text = _ID_LIST.sub('"value": [ID]', _ID_BYTES.sub("ID", text))
    if re.search(r"dump (pinned /sys/fs/bpf/hash|name mhash|name mphash)", command):
        if text.startswith("["):
            return json.dumps(sorted(json.loads(text), key=json.dumps))
        return "\n".join(sorted(text.splitlines()))
    return text


@pytest.mark.linux
@pytest.mark.slow
@pytest.mark.skipif(not TRANSCRIPTS.is_dir(), reason="no shared/transcripts beside this checkout")
@pytest.mark.parametrize("section", DIFFERENT)
def test_what_is_printed_is_what_bpftool_prints(section: str) -> None:
    command = [sys.executable, str(HERE / "replay_transcripts.py"), str(TRANSCRIPTS), section]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert len(rows) > 100
    different = {}
    for row in rows:
        (out, err, code), (our_out, our_err, our_code) = row["expected"], row["got"]
        theirs = (normal(out, row["command"]), normal(err, row["command"]), code)
        ours = (normal(our_out, row["command"]), normal(our_err, row["command"]), our_code)
        if theirs != ours:
            different[row["name"]] = f"$ {row['command']}\n- {theirs}\n+ {ours}"
    order = {name for name, why in DIFFERENT[section].items() if why == ORDER}
    unknown = {name: text for name, text in different.items() if name not in DIFFERENT[section]}
    assert not unknown, "\n".join(unknown.values())
    # By chance the order may be the same.
    assert set(DIFFERENT[section]) - order <= set(different)
