"""Transcripts of lists are compared without what others have in the kernel: plainly printed and as JSON, compact and pretty."""

import json

import pytest

from support.transcripts import without

PLAIN = "1: array  name a  flags 0x0\n\tkey 4B\n22: hash  name b  flags 0x0\n\tkey 8B\n\tbtf_id 5\n3: hash  name c  flags 0x0\n"
ROWS = [{"id": 1, "pids": [4]}, {"id": 22, "ids": [1, 3]}, {"id": 3}]


@pytest.mark.parametrize(("ids", "left"), [(set(), [1, 22, 3]), ({22}, [1, 3]), ({1, 3}, [22]), ({1, 22, 3}, []), ({4, 5}, [1, 22, 3])])
def test_entries_of_others_are_left_out(ids: set[int], left: list[int]) -> None:
    assert [int(line.split(":")[0]) for line in without(PLAIN, ids).splitlines() if line[0] != "\t"] == left
    for text in (json.dumps(ROWS, separators=(",", ":")), json.dumps(ROWS, indent=4).replace("[\n    {", "[{", 1)):
        assert [row["id"] for row in json.loads(without(text, ids))] == left


def test_what_is_no_list_stays() -> None:
    text = '{"id": 22}\n   22: (95) exit\n[1, 2]\n'
    assert without(text, {22, 1}) == text
