"""Lists as tables: at a terminal only, fitted to it, coloured unless that is not wanted."""

import io
import re

import pytest

from ebpf.cli import table
from ebpf.cli.context import Context

COLUMNS = (table.Column("ID", right=True, colour="36"), table.Column("NAME"), table.Column("NONE"), table.Column("PINNED"))
ROWS = [(7, "hello", "", "/sys/fs/bpf/hello"), (123, "x", "", "/sys/fs/bpf/a/very/long/path/that/does/not/fit")]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drawn(monkeypatch: pytest.MonkeyPatch, **env: str) -> str:
    for name in ("NO_COLOR", "COLUMNS", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm", "COLUMNS": "40", **env}.items():
        monkeypatch.setenv(name, value)
    out = Terminal()
    table.write(Context(out=out), COLUMNS, ROWS)
    return out.getvalue()


def test_columns_stand_under_their_heads_and_the_last_one_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = drawn(monkeypatch, NO_COLOR="1").splitlines()
    assert lines == [" ID  NAME   PINNED", "  7  hello  /sys/fs/bpf/hello", "123  x      /sys/fs/bpf/a/very/long/pat…"]
    assert max(map(len, lines)) == 40


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colour_is_nothing_but_colour(monkeypatch: pytest.MonkeyPatch, env: dict[str, str]) -> None:
    plain = drawn(monkeypatch, **env)
    coloured = drawn(monkeypatch)
    assert "\x1b[36m" in coloured
    stripped = re.sub(r"\x1b\[[\d;]*m", "", coloured)
    assert [line.split() for line in stripped.splitlines()] == [line.split() for line in plain.splitlines()]


def test_who_wants_bpftools_text_gets_it() -> None:
    assert table.wanted(Context(out=Terminal()))
    assert not table.wanted(Context(out=io.StringIO()))
    assert not table.wanted(Context(out=Terminal(), json=True))
    assert not table.wanted(Context(out=Terminal(), command="bpftool"))


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (59.9, "59s"), (60, "1m"), (7200, "2h"), (200000, "2d"), (-3, "0s")])
def test_ages(seconds: float, text: str) -> None:
    assert table.age(seconds) == text
