"""What can stand next on a command line, and the shells' scripts that ask for it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ebpf.cli.completion import FILES, Grammar, candidates
from ebpf.cli.context import Context
from ebpf.cli.main import main
from ebpf.cli.usage import grammar


def offered(text: str) -> set[str]:
    context = Context(kernel_name="user")
    try:
        return {word for word, _ in candidates(context, text.split(" "))}
    finally:
        context.close()


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("pro", {"prog"}),
        ("prog du", {"dump"}),
        ("prog dump ", {"xlated", "jited"}),
        ("p d x ", {"id", "name", "tag", "pinned"}),
        ("prog dump jited id 7 ", {"file", "opcodes", "linum"}),
        ("prog load x.o ", {FILES}),
        ("prog load x.o /sys/fs/bpf/x type xd", {"xdp"}),
        ("-j map update name h key hex 1 ", {"value", "any", "exist", "noexist"}),
        ("map create /sys/fs/bpf/m type lru_p", {"lru_percpu_hash"}),
        ("net attach xdpg", {"xdpgeneric"}),
        ("btf dump file x.o format ", {"raw", "c"}),
        ("btf dump file x.o --js", {"--json"}),
        ("explain packet-sh", {"packet-short"}),
        ("daemon st", {"status", "stop"}),
        ("cc x", {FILES}),
        ("nosuch ", set()),
        ("prog nosuch ", set()),
    ],
)
def test_what_can_stand_next(typed: str, wanted: set[str]) -> None:
    found, last = offered(typed), typed.split(" ")[-1]
    assert found >= wanted
    assert found == wanted or wanted - {FILES}
    assert all(word == FILES or word.startswith(last) for word in found)


def test_what_the_grammar_has_in_the_place_of_a_verb_and_is_none_is_not_offered() -> None:
    assert "usdt" in Grammar(grammar("ebpf", "prog")).after([])
    assert "usdt" not in offered("prog ")
    assert "profile" in offered("prog ")


@pytest.mark.parametrize("noun", ["prog", "map", "link", "net", "btf", "gen", "cgroup", "iter", "struct_ops", "feature", "token", "perf"])
def test_each_grammar_is_read_whole(noun: str) -> None:
    text = grammar("bpftool", noun)
    verbs = Grammar(text).after([])
    for line in text.splitlines():
        words = line.removeprefix("Usage:").split()
        if words[:2] == ["bpftool", noun] and words[2].islower():
            assert words[2] in verbs
    assert verbs >= {"help"}


def test_ids_and_names_are_those_that_are_there(tmp_path: Path) -> None:
    from ebpf.sys.calls import MapCreate, ObjPin
    from ebpf.uapi import MapType

    context = Context(kernel_name="user")
    kernel = context.kernel()
    try:
        fd = kernel.bpf(MapCreate(MapType.HASH, 4, 8, 16, name="of_interest"))
        kernel.bpf(ObjPin("/sys/fs/bpf/of_interest", fd))
        found = dict(candidates(context, ["map", "dump", "name", "of_"]))
        assert list(found) == ["of_interest"]
        number = found["of_interest"].removeprefix("id ")
        assert dict(candidates(context, ["map", "dump", "id", ""]))[number] == "of_interest"
        kernel.unpin("/sys/fs/bpf/of_interest")
        kernel.close(fd)
    finally:
        context.close()


def test_an_unknown_shell_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "tcsh"]) == 2
    assert capsys.readouterr().err == "Error: completion: no script for 'tcsh'; there is bash, zsh, fish\n"


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes(tmp_path: Path) -> None:
    command = tmp_path / "ebpf"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m ebpf "$@"\n')
    command.chmod(0o755)
    script = f"""PATH={tmp_path}:$PATH
eval "$(ebpf completion bash)"
COMP_WORDS=(ebpf prog dump x) COMP_CWORD=3
_ebpf; echo "${{COMPREPLY[@]}}"
COMP_WORDS=(ebpf prog load "") COMP_CWORD=3
cd {tmp_path}; touch one.o
_ebpf 2>/dev/null; echo "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, timeout=60)
    first, second = done.stdout.splitlines()
    assert first == "xlated"
    assert "one.o" in second.split()
