"""Damaged objects end in an error of ours: the quick part of fuzz/objects.py, from other seeds than its long runs."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3]))


@pytest.mark.parametrize("seed", range(77, 82))
def test_a_thousand_damaged_objects_end_in_an_error_or_are_read(seed: int) -> None:
    from fuzz.objects import campaign

    ended, wrong = campaign(1000, seed=seed)
    assert wrong == []
    assert ended["FormatError"] > 200
    assert ended["read"] > 200
