"""What maps answer to every operation, right or wrong: the rules in map_rules/, whose answers are Linux's."""

from pathlib import Path

import pytest

from ebpf.sys.kernel import Kernel
from support.map_rules import cases, play

RULES = {
    f"{path.stem}: {title.split(': ', 1)[1]}": rows
    for path in sorted((Path(__file__).parent / "map_rules").glob("*.txt"))
    for title, rows in cases(path)
}


@pytest.mark.parametrize("case", RULES)
def test_a_map_answers_as_linux_did(kernel: Kernel, case: str) -> None:
    rows = RULES[case]
    got = play(kernel, [operation for operation, _ in rows])
    assert [f"{row[0]} => {answer}" for row, answer in zip(rows, got, strict=True)] == [f"{row[0]} => {row[1]}" for row in rows]
