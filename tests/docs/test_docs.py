"""The documents: links lead somewhere, commands that they show exist, examples that they name are there."""

import re
from pathlib import Path

import pytest

from ebpf.cli.main import NOUNS

TOP = Path(__file__).parents[2]
PAGES = sorted([TOP / "README.md", TOP / "CONTRIBUTING.md", *(TOP / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(TOP)))
def test_links_lead_to_files(page: Path) -> None:
    missing = [
        link for link in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()) if "://" not in link and not (page.parent / link).exists()
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(TOP)))
def test_commands_that_are_shown_exist(page: Path) -> None:
    shown = re.findall(r"^ +[$#] ebpf (?:--\S+(?: linux| user)? )*(\w+)", page.read_text(), re.MULTILINE)
    assert [noun for noun in shown if noun not in NOUNS] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(TOP)))
def test_examples_that_are_named_exist(page: Path) -> None:
    assert [name for name in re.findall(r"examples/[\w.]+\.(?:py|bpf\.c)", page.read_text()) if not (TOP / name).is_file()] == []
