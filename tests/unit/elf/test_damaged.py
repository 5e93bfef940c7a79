"""Damaged objects end in an error of ours: the quick part of fuzz/objects.py, from another seed than its long runs."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))


def test_five_hundred_damaged_objects_end_in_an_error_or_are_read() -> None:
    from fuzz.objects import campaign

    ended, wrong = campaign(500, seed=77)
    assert wrong == []
    assert ended["FormatError"] > 100
    assert ended["read"] > 100
