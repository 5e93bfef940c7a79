"""`ebpf completion`: what can stand next on a command line, read from the grammars that `help` prints; and the shells' scripts."""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module

from ebpf.cli.context import Context
from ebpf.cli.usage import grammar
from ebpf.cli.words import BPFTOOL_FLAGS, is_prefix, match, split_flags
from ebpf.errors import EbpfError, UsageError

USAGE = """usage: ebpf completion bash|zsh|fish

Print a script that completes `ebpf` commands, with the ids and names of what is loaded:
  bash   eval "$(ebpf completion bash)"          (in ~/.bashrc)
  zsh    ebpf completion zsh > "${fpath[1]}/_ebpf"
  fish   ebpf completion fish > ~/.config/fish/completions/ebpf.fish"""

# The answer that stands for file names, which the shell knows best.
FILES = ":files"
_SCRIPTS = {
    "bash": r"""_ebpf() {
    local word help cur=${COMP_WORDS[COMP_CWORD]}
    COMPREPLY=()
    while IFS=$'\t' read -r word help; do
        if [ "$word" = :files ]; then
            compopt -o filenames
            COMPREPLY+=($(compgen -f -- "$cur"))
        else
            COMPREPLY+=("$word")
        fi
    done < <("${COMP_WORDS[0]}" completion words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _ebpf ebpf
""",
    "zsh": r"""#compdef ebpf
_ebpf() {
    local word help
    local -a found
    while IFS=$'\t' read -r word help; do
        if [[ $word == :files ]]; then
            _files
        else
            found+=("${word//:/\\:}${help:+:$help}")
        fi
    done < <($words[1] completion words -- "${(@)words[2,CURRENT]}" 2>/dev/null)
    (( $#found )) && _describe ebpf found
}
if [ "$funcstack[1]" = _ebpf ]; then _ebpf; else compdef _ebpf ebpf; fi
""",
    "fish": r"""function __ebpf_words
    set -l typed (commandline -opc)
    for line in ($typed[1] completion words -- $typed[2..-1] (commandline -ct) 2>/dev/null)
        if test "$line" = :files
            __fish_complete_path (commandline -ct)
        else
            echo $line
        end
    end
end
complete -c ebpf -f -a '(__ebpf_words)'
""",
}
# Words that stand for names of files.
_OF_FILES = frozenset(
    {"FILE", "OBJ", "PATH", "MAP_DIR", "BTF_FILE", "OUTPUT_FILE", "INPUT_FILE", "INPUT", "OUTPUT", "OBJECT"}
    | {"LINK_DIR", "FILE.bin", "CGROUP", "CGROUP_ROOT"}
)
_OPTION = re.compile(r"-\S*")
_TOKEN = re.compile(r"[{}\[\]|]|\.\.\.|[^\s{}\[\]|]+")


def run(context: Context, words: list[str]) -> int:
    """Print a shell's script, or what can stand next."""
    if words[:1] in ([], ["help"], ["-h"], ["--help"]):
        context.write(USAGE)
        return 0
    if words[0] == "words":
        for word, what in candidates(context, words[2:] if words[1:2] == ["--"] else words[1:]):
            context.write(f"{word}\t{what}" if what else word)
        return 0
    script = _SCRIPTS.get(words[0])
    if script is None or words[1:]:
        raise UsageError(f"completion: no script for '{' '.join(words)}'; there is {', '.join(_SCRIPTS)}")
    context.out.write(script)
    return 0


def candidates(context: Context, typed: list[str]) -> list[tuple[str, str]]:
    """What can stand in the place of the last word of `typed`, each with a few words on what it is."""
    from ebpf.cli.main import NOUNS

    *before, last = typed or [""]
    before, _ = split_flags(before)
    while before and before[0].startswith("--kernel"):
        context.kernel_name = before[0].partition("=")[2] or None
        before = before[1:]
    if last.startswith("-"):
        return [(long, "") for flag in BPFTOOL_FLAGS for long in flag.spellings if long.startswith("--") and long.startswith(last)]
    if not before:
        return [(row.name, row.summary.partition(":")[0]) for row in NOUNS.values() if row.name.startswith(last)]
    noun = NOUNS.get(before[0]) or match(before[0], {name: row for name, row in NOUNS.items() if row.bpftool})
    if noun is None:
        return []
    if not noun.bpftool:
        return [(word, what) for word, what in _own(noun.name, before[1:]) if word == FILES or word.startswith(last)]
    expected = Grammar(grammar(context.command, noun.name)).after(before[1:])
    if not before[1:]:
        # What bpftool has and is not built here is not offered.
        expected &= set(getattr(import_module(f"ebpf.cli.{noun.name}"), "_VERBS", expected))
    found = dict.fromkeys(pair for name in expected for pair in _words(context, noun.name, name))
    return [(word, what) for word, what in found if word == FILES or word.startswith(last)]


def _own(noun: str, before: list[str]) -> list[tuple[str, str]]:
    """What stands behind a noun that is not bpftool's."""
    if noun == "explain" and not before:
        from ebpf.engine.verifier import REASONS

        return [(name, row.id) for name, row in REASONS.items()]
    fixed = {"daemon": ("status", "stop", "log"), "completion": tuple(_SCRIPTS), "vm": ("run", "conformance")}.get(noun)
    if fixed is not None and not before:
        return [(word, "") for word in fixed]
    return [(FILES, "")]


# -- the grammar


@dataclass(slots=True)
class _Node:
    """A part of a grammar: a word, or parts one after the other ("seq"), or one of several ("any"), or one that may be left out."""

    kind: str
    parts: "list[_Node]" = field(default_factory=list)
    word: str = ""


class Grammar:
    """A noun's grammar, as its help prints it."""

    def __init__(self, text: str) -> None:
        usage, defined = _statements(text)
        self._lines = [_parsed(line) for line in usage]
        self._defined = {name: _parsed(body) for name, body in defined.items()}

    def after(self, words: list[str]) -> set[str]:
        """The words (in capitals: what stands for one) that can follow these."""
        out: set[str] = set()
        for line in self._lines:
            self._match(line, words, {0}, out)
        return out

    def _match(self, node: _Node, words: list[str], places: set[int], out: set[str]) -> set[int]:
        """Where a part ends that begins at one of `places`; what it wants where the words end is put into `out`."""
        if node.kind == "seq":
            for part in node.parts:
                places = self._match(part, words, places, out)
            return places
        if node.kind == "any":
            return set().union(*(self._match(part, words, places, out) for part in node.parts))
        if node.kind == "maybe":
            return places | self._match(node.parts[0], words, places, out)
        if node.word in self._defined:
            return self._match(self._defined[node.word], words, places, out)
        ends: set[int] = set()
        for place in places:
            if place == len(words):
                out.add(node.word)
            elif node.word.isupper() or node.word.startswith("<"):
                ends.update(range(place + 1, len(words) + 1) if node.word in ("BYTES", "METRICS") else (place + 1,))
            elif is_prefix(words[place], node.word):
                ends.add(place + 1)
        return ends


def _statements(text: str) -> tuple[list[str], dict[str, str]]:
    """The lines of a usage without the command and noun, and what its capitals stand for."""
    usage: list[str] = []
    defined: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        line = line.rstrip(" \\")
        named = re.match(r" {7}([A-Z_]+) +:= (.*)", line)
        begun = re.match(r"(?:Usage:| {6}) \S+ \S+ (.*)", line)
        if named:
            name = named[1]
            defined[name] = named[2]
        elif not line.strip() or line.startswith(("Note:", "Beyond")):
            name = "-"
        elif begun and not line.startswith(" " * 8):
            name = ""
            usage.append(begun[1])
        elif name and name != "-":
            defined[name] += f" {line}"
        elif not name and usage and line.startswith(" " * 8):
            usage[-1] += f" {line}"
    defined.pop("OPTIONS", None)
    return usage, defined


def _parsed(text: str) -> _Node:
    tokens = [token.strip("*") for token in _TOKEN.findall(text) if token != "..." and not _OPTION.fullmatch(token)]
    tokens.reverse()
    return _alternatives(tokens, "")


def _alternatives(tokens: list[str], end: str) -> _Node:
    """Parts with | between them, up to a closing bracket. `tokens` are taken from the end."""
    rows = [_Node("seq")]
    while tokens:
        token = tokens.pop()
        if token == end:
            break
        if token == "|":
            rows.append(_Node("seq"))
        elif token == "{":
            rows[-1].parts.append(_alternatives(tokens, "}"))
        elif token == "[":
            rows[-1].parts.append(_Node("maybe", [_alternatives(tokens, "]")]))
        else:
            rows[-1].parts.append(_Node("word", word=token.upper() if token == "METRICs" else token))
    return rows[0] if len(rows) == 1 else _Node("any", rows)


# -- what is there


def _words(context: Context, noun: str, name: str) -> Iterator[tuple[str, str]]:
    """The words that a place of the grammar can have here."""
    if name in _OF_FILES:
        yield FILES, ""
    elif name in ("<devname>", "NAME") and not (noun == "map" and name == "NAME"):
        yield from _asked(lambda: [(interface, "") for interface in context.kernel().interfaces()])
    elif name in _LISTS:
        yield from _asked(lambda: list(_LISTS[name](context)))
    elif not name.isupper():
        yield name, ""


def _asked(ask: Callable[[], list[tuple[str, str]]]) -> list[tuple[str, str]]:
    """The answers of a kernel, none where it cannot be asked."""
    with suppress(EbpfError, OSError):
        return ask()
    return []


def _programs(what: str) -> Callable[[Context], Iterator[tuple[str, str]]]:
    def listed(context: Context) -> Iterator[tuple[str, str]]:
        from ebpf.cli import handles

        with handles.programs(context.kernel()) as found:
            for info in (each.info for each in found):
                words = {"id": (str(info.id), info.name), "tag": (info.tag.hex(), info.name), "name": (info.name, f"id {info.id}")}
                yield words[what]

    return listed


def _maps(what: str) -> Callable[[Context], Iterator[tuple[str, str]]]:
    def listed(context: Context) -> Iterator[tuple[str, str]]:
        from ebpf.cli import handles

        with handles.maps(context.kernel()) as found:
            for info in (each.info for each in found):
                yield (str(info.id), info.name) if what == "id" else (info.name, f"id {info.id}")

    return listed


def _ids(kind: str) -> Callable[[Context], Iterator[tuple[str, str]]]:
    def listed(context: Context) -> Iterator[tuple[str, str]]:
        from ebpf.errors import KernelError
        from ebpf.sys.calls import NextId
        from ebpf.uapi import Cmd

        last = 0
        with suppress(KernelError):
            while True:
                last = context.kernel().bpf(NextId(Cmd[f"{kind}_GET_NEXT_ID"], last))
                yield str(last), ""

    return listed


_LISTS = {
    "PROG_ID": _programs("id"),
    "PROG_TAG": _programs("tag"),
    "PROG_NAME": _programs("name"),
    "MAP_ID": _maps("id"),
    "MAP_NAME": _maps("name"),
    "LINK_ID": _ids("LINK"),
    "BTF_ID": _ids("BTF"),
}
