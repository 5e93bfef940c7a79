"""Refusals are explained: each at its line, by its reason; mended programs are accepted; Linux refuses and accepts the same."""

import os
import re
from functools import cache
from pathlib import Path

import pytest

from ebpf.cli.code import code_of
from ebpf.cli.replay import read
from ebpf.debug import PAGES, Explanation, explain, explain_log, page_of
from ebpf.debug.log import reason_of
from ebpf.engine.verifier import REASONS, RULES, verify
from ebpf.errors import VerifierError
from ebpf.isa import decode
from ebpf.kernels import open_kernel
from ebpf.object import Collection
from ebpf.spec import ObjectSpec

SOURCES = [Path(__file__).parents[2] / "verifier" / name for name in ("refused.bpf.c", "refused_real.bpf.c")]
#: The file of each program.
SOURCE = {name: path for path in SOURCES for name in re.findall(r"^SEC\(\"[\w/]+\"\)\nint (\w+)\(", path.read_text(), re.MULTILINE)}
PROGRAMS = list(SOURCE)
#: What this verifier words by its own reason where Linux uses the words of another.
WORDED = {"packet_void": "not-a-pointer", "pulls_and_reads": "not-a-pointer", "stores_and_reads": "not-a-pointer"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("refused")


def _compiled(folder: Path, name: str, *, fixed: bool) -> ObjectSpec:
    return _object(folder, SOURCE[name], fixed)


@cache
def _object(folder: Path, source: Path, fixed: bool) -> ObjectSpec:
    path = folder / (f"fixed_{source.name}" if fixed else source.name)
    path.write_text(("#define FIXED\n" if fixed else "") + source.read_text())
    return read(path)


def _explained(folder: Path, name: str) -> Explanation:
    spec = _compiled(folder, name, fixed=False)
    code = code_of(spec, spec.programs[name])
    return explain(code, verify(code))


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_refusal_is_explained_at_its_line(folder: Path, name: str) -> None:
    found = _explained(folder, name)
    assert found.span is not None
    marked = re.search(r"// (E\d{4})", SOURCE[name].read_text().split("\n")[found.span.line - 1])
    assert marked, (found.span.line, found.kernel_says)
    assert found.id == marked[1]
    assert found.cause
    assert found.name in PAGES


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_is_mended_is_accepted(folder: Path, name: str) -> None:
    spec = _compiled(folder, name, fixed=True)
    verdict = verify(code_of(spec, spec.programs[name]))
    assert verdict.accepted, verdict.says


@pytest.mark.parametrize("version", RULES)
def test_what_is_refused_is_refused_in_every_version(folder: Path, version: str) -> None:
    specs = {name: _compiled(folder, name, fixed=False) for name in PROGRAMS}
    accepted = {name for name, spec in specs.items() if verify(code_of(spec, spec.programs[name]), rules=RULES[version]).accepted}
    assert accepted == set()


def test_every_reason_has_a_page_and_a_number_of_its_own() -> None:
    assert set(PAGES) == set(REASONS)
    assert len({row.id for row in REASONS.values()}) == len(REASONS)
    assert page_of("e6") is PAGES["maybe-null"] is page_of("E0006") is page_of("maybe-null")
    assert page_of("E9999") is None
    assert page_of("nothing") is None


def test_a_maybe_pointer_is_followed_to_the_lookup(folder: Path) -> None:
    found = _explained(folder, "maybe_null")
    assert any("bpf_map_lookup_elem(), which may be null" in span.label for span in found.related)
    assert found.advice.startswith("if (!v)")


def test_a_packet_says_what_is_needed_and_what_is_proved(folder: Path) -> None:
    found = _explained(folder, "packet_short")
    assert found.obligation == "bytes 23 to 23 from the pointer are needed, 14 are proved to be there"


def _load(spec: ObjectSpec, name: str) -> None:
    with open_kernel("linux") as kernel, Collection.load(spec, kernel, programs=[name]):
        pass


@pytest.mark.linux
@pytest.mark.parametrize("name", PROGRAMS)
def test_linux_refuses_the_same_in_the_same_words(folder: Path, name: str) -> None:
    spec = _compiled(folder, name, fixed=False)
    with pytest.raises(VerifierError) as caught:
        _load(spec, name)
    ours = _explained(folder, name)
    assert ours.kernel_says in caught.value.log
    # The same explanation serves the kernel's refusal, from its log alone.
    code = code_of(spec, spec.programs[name])
    theirs = explain_log(decode(spec.programs[name].insns), spec.programs[name].type, code.lines, caught.value.log)
    assert theirs.name == WORDED.get(name, ours.name)
    assert theirs.kernel_says == ours.kernel_says


# Linux looks at these before it walks, with other words than ours where it shows a path; or the type is none of the user kernel's.
NO_PATH = {"missing", "helper_not_allowed"}


@pytest.mark.linux
@pytest.mark.skipif(not os.uname().release.startswith("6.18."), reason=f"the log is that of Linux 6.18; this is {os.uname().release}")
@pytest.mark.parametrize("name", sorted(set(PROGRAMS) - NO_PATH))
def test_the_log_is_linuxs_letter_for_letter(folder: Path, name: str) -> None:
    spec = _compiled(folder, name, fixed=False)
    with pytest.raises(VerifierError) as caught:
        _load(spec, name)
    ours = verify(code_of(spec, spec.programs[name]), log_level=1).log

    def plain(text: str) -> list[str]:
        # Where a map lies.
        return re.sub(r"\(18\) (r\d) = 0x\w+ *", r"(18) \1 = MAP", text).splitlines()

    assert plain(ours) == plain(caught.value.log)


@pytest.mark.linux
@pytest.mark.parametrize("name", PROGRAMS)
def test_linux_accepts_what_is_mended(folder: Path, name: str) -> None:
    _load(_compiled(folder, name, fixed=True), name)


def test_unknown_words_are_no_reason() -> None:
    assert reason_of("something that no kernel says") == ("unknown", {})


def test_the_pages_of_the_reference_are_those_that_are_printed() -> None:
    folder = Path(__file__).parents[3] / "docs" / "reference" / "refusals"
    written = {path.stem: path.read_text() for path in folder.glob("E*.md")}
    assert written == {page.id: page.text() for page in PAGES.values()}, "run tools/refusal-pages"
