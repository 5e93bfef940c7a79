"""bpftool's grammar: prefixes, options anywhere, numbers, and the JSON layout."""

import pytest

from ebpf.cli.jsonw import dumps
from ebpf.cli.words import Words, match, number, split_flags
from ebpf.errors import UsageError

VERBS = {"show": 1, "list": 2, "help": 3, "dump": 4, "delete": 5}


@pytest.mark.parametrize(
    ("word", "found"), [("s", 1), ("li", 2), ("d", 4), ("de", 5), ("dump", 4), ("dumps", None), ("", None), ("x", None)]
)
def test_the_first_row_that_begins_with_the_word_wins(word: str, found: int | None) -> None:
    assert match(word, VERBS) == found


@pytest.mark.parametrize(
    ("argv", "words", "flags"),
    [
        (["-j", "list"], ["list"], {"json"}),
        (["list", "-p"], ["list"], {"pretty"}),
        (["-jp", "list"], ["list"], {"json", "pretty"}),
        (["show", "--", "-j"], ["show", "-j"], set()),
        (["show", "-z"], ["show", "-z"], set()),
    ],
)
def test_options_stand_anywhere_before_two_dashes(argv: list[str], words: list[str], flags: set[str]) -> None:
    assert split_flags(argv) == (words, flags)


@pytest.mark.parametrize(("word", "value"), [("10", 10), ("0x1f", 31), ("010", 8), ("0", 0)])
def test_numbers_read_as_strtoul_reads_them(word: str, value: int) -> None:
    assert number(word, "id") == value


@pytest.mark.parametrize("word", ["", "x", "0x", "08", "1e3"])
def test_what_is_no_number_is_a_usage_error(word: str) -> None:
    with pytest.raises(UsageError, match="can't parse id"):
        number(word, "id")


def test_words_left_over_are_named() -> None:
    words = Words(["a", "b"])
    words.take("first")
    with pytest.raises(UsageError, match="what is 'b'"):
        words.end()


def test_pretty_json_is_laid_out_as_bpftool_does() -> None:
    value = [{"id": 1, "map_ids": [2, 3], "tc": [], "formatted": {"value": {".bss": [{"counter": 0}]}}}]
    assert dumps(value, pretty=True) == (
        '[{\n        "id": 1,\n        "map_ids": [2,3\n        ],\n        "tc": [],\n        "formatted": {\n'
        '            "value": {\n                ".bss": [{\n                        "counter": 0\n                    }\n'
        "                ]\n            }\n        }\n    }\n]"
    )


def test_compact_json_has_no_spaces() -> None:
    assert dumps([{"a": [1, 2]}], pretty=False) == '[{"a":[1,2]}]'
