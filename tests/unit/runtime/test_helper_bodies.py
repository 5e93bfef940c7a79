"""Which helpers work in user space: each has a body or a reason, and the documentation says so."""

from pathlib import Path

import pytest

from ebpf.kernels.user.helpers import CALLING_BACK, CALLING_LATER, REASONS, WITH_OBJECTS, page, why_not
from ebpf.uapi import HELPERS

NAMES = frozenset(row.name for row in HELPERS.values())


def test_every_helper_works_or_has_a_reason() -> None:
    assert {name for name in NAMES if why_not(name) == "it is not built yet"} == set()


@pytest.mark.parametrize("why", REASONS)
def test_a_reason_is_given_for_helpers_without_a_body(why: str) -> None:
    assert REASONS[why] <= NAMES
    assert [name for name in REASONS[why] if why_not(name) != why] == []


def test_those_that_call_back_are_helpers_with_a_function() -> None:
    from ebpf.uapi.helpers import Arg

    assert all(row.args is not None and row.args[1] is Arg.FUNC for row in HELPERS.values() if row.name in CALLING_BACK)
    assert HELPERS[CALLING_LATER].name == "timer_set_callback"


def test_those_with_objects_are_all_that_work() -> None:
    from ebpf.uapi.helpers import Arg, Ret

    with_objects = {Arg.BTF, Arg.BTF_OR_NULL, Ret.BTF, Ret.BTF_OR_NULL}
    rows = {row.id for row in HELPERS.values() if with_objects & {row.ret, *(row.args or ())} and not why_not(row.name)}
    assert rows == WITH_OBJECTS


def test_the_page_says_what_is_so() -> None:
    """`tools/helper-page` writes it."""
    path = Path(__file__).parents[3] / "docs" / "reference" / "helpers.md"
    assert path.read_text() == page(), "run tools/helper-page"
