"""Programs by chance: the verdict, Linux's last line and how many instructions are walked are those that Linux was recorded with."""

from itertools import groupby

import pytest

from ebpf.engine.verifier import RULES, verify
from ebpf.errors import FormatError
from support.recorded import Recorded, code_of, digest_of, read

#: What was asked with CAP_BPF and CAP_NET_ADMIN alone.
FEW = "-bpf-only"
FILES = {linux: read(linux) for linux in (*RULES, f"6.18{FEW}")}
KINDS = {(linux, kind): list(rows) for linux, (_, all_) in FILES.items() for kind, rows in groupby(all_, key=lambda row: row.kind)}
#: Where both refuse a program for more than one reason, we may name another; where Linux forgets states it may walk more.
WORDS, COUNTS = 0.97, 0.95
#: Where the last words are a state, which this release shows with marks that ours has not.
SHOWN = ("6.12", "loop")


def _ours(row: Recorded, linux: str) -> Recorded:
    case = row.case
    assert digest_of(case) == row.digest, "the generator makes another program of this seed: run tools/record-verdicts"
    try:
        code = code_of(case, FILES[linux][0], privileged=not linux.endswith(FEW))
        verdict = verify(code, rules=RULES[linux.removesuffix(FEW)])
    except FormatError as error:
        # Half of a wide instruction is none.
        return Recorded(row.kind, row.seed, row.digest, "refused", 0, error.why)
    message = verdict.says.split("\n")[-1]
    return Recorded(row.kind, row.seed, row.digest, "accepted" if verdict.accepted else "refused", verdict.processed, message)


@pytest.mark.parametrize(("linux", "kind"), KINDS)
def test_verdicts_are_those_that_linux_gave(linux: str, kind: str) -> None:
    rows = KINDS[linux, kind]
    pairs = [(row, _ours(row, linux)) for row in rows]
    assert len(rows) >= 20
    assert [(row.seed, row.verdict, ours.verdict) for row, ours in pairs if row.verdict != ours.verdict] == []
    assert {row.verdict for row in rows} == {"accepted", "refused"}
    refused = [(row, ours) for row, ours in pairs if row.verdict == "refused"]
    same = sum(row.message.strip() == ours.message.strip() for row, ours in refused)
    assert same / len(refused) >= WORDS or (linux, kind) == SHOWN, [pair for pair in refused if pair[0].message != pair[1].message][:3]
    assert sum(row.processed == ours.processed for row, ours in pairs) / len(pairs) >= COUNTS
