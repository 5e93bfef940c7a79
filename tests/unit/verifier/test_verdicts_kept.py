"""Verdicts on disk: what was accepted is not judged again; everything that a verdict depends on is in its name."""

from dataclasses import replace
from pathlib import Path

import pytest

from ebpf.btf import Btf
from ebpf.btf.build import Builder
from ebpf.engine import verifier
from ebpf.engine.program import Code, MapDesc, Verdict
from ebpf.engine.verdicts import judge, verdict_key
from ebpf.isa import asm
from ebpf.uapi import MapType, ProgType

LOOKUP = "*(u32 *)(r10 - 4) = 1\nr2 = r10\nr2 += -4\nr1 = map[id:{0}]\ncall 1\nr0 = 0\nexit"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "ebpf" / "verdicts"


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[Code]:
    """The programs that the verifier is asked about."""
    asked: list[Code] = []
    plain = verifier.verify

    def verify(code: Code) -> Verdict:
        asked.append(code)
        return plain(code)

    monkeypatch.setattr(verifier, "verify", verify)
    return asked


def _code(fd: int = 5, entries: int = 4) -> Code:
    return Code(asm(LOOKUP.format(fd)), int(ProgType.XDP), {fd: MapDesc(fd, MapType.HASH, 4, 8, entries, name="a")})


def test_what_was_accepted_is_accepted_without_being_judged(judged: list[Code]) -> None:
    first, second = judge(_code()), judge(_code())
    assert second == replace(first, log="")
    assert len(judged) == 1
    assert second.accepted
    assert second.call_map == {5: 5}


def test_a_map_may_have_another_descriptor(judged: list[Code]) -> None:
    judge(_code(5))
    assert judge(_code(9)).call_map == {5: 9}
    assert len(judged) == 1


def test_a_refusal_is_made_anew(judged: list[Code], folder: Path) -> None:
    code = Code(asm("r0 = r3\nexit"), int(ProgType.XDP))
    assert judge(code).cause == judge(code).cause != ""
    assert len(judged) == 2
    assert not list(folder.iterdir())


def test_a_damaged_file_is_not_believed(judged: list[Code], folder: Path) -> None:
    judge(_code())
    (kept,) = folder.iterdir()
    kept.write_bytes(kept.read_bytes()[:-3] + b"9]}")
    assert judge(_code()).call_map == {5: 5}
    kept.write_bytes(b"")
    assert judge(_code()).accepted
    assert len(judged) == 3


def _types() -> Btf:
    build = Builder()
    build.integer("int", 4, signed=True)
    return build.build()


OTHERS = {
    "an instruction": replace(_code(), insns=asm(LOOKUP.format(5).replace("= 1", "= 2"))),
    "the type": replace(_code(), prog_type=int(ProgType.SCHED_CLS)),
    "where it attaches": replace(_code(), attach_type=3),
    "what it attaches to": replace(_code(), attach_to="x"),
    "the licence": replace(_code(), gpl=False),
    "privileges": replace(_code(), privileged=False),
    "speculation": replace(_code(), bypass_spectre=False),
    "alignment": replace(_code(), strict_alignment=True),
    "states": replace(_code(), all_states=True),
    "sleep": replace(_code(), sleepable=True),
    "processors": replace(_code(), cpus=8),
    "what it returns": replace(_code(), returns_nothing=True),
    "types": replace(_code(), btf=_types()),
    "functions": replace(_code(), functions=((0, 1),)),
    "a map's size": _code(entries=5),
    "a map's rights": replace(_code(), maps={5: MapDesc(5, MapType.HASH, 4, 8, 4, flags=128)}),
    "a map's content": replace(_code(), maps={5: MapDesc(5, MapType.HASH, 4, 8, 4, content=b"x")}),
    "a map's fields": replace(_code(), maps={5: MapDesc(5, MapType.HASH, 4, 8, 4, special=((0, "bpf_timer", 16),))}),
    "a map's types": replace(_code(), maps={5: MapDesc(5, MapType.HASH, 4, 8, 4, typed=True)}),
    "whether a map has an address": replace(_code(), maps={5: MapDesc(5, MapType.HASH, 4, 8, 4, placed=False)}),
    "a frozen map": replace(_code(), maps={5: MapDesc(5, MapType.HASH, 4, 8, 4, frozen=True)}),
    "an inner map": replace(_code(), maps={5: MapDesc(5, MapType.HASH, 4, 8, 4, inner=MapDesc(0, MapType.HASH, 4, 8, 4))}),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=[name.replace(" ", "-") for name in OTHERS])
def test_everything_that_decides_is_in_the_name(other: Code) -> None:
    assert verdict_key(other) != verdict_key(_code())
