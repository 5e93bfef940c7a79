"""`ebpf` under bpftool's name: bpftool's own options, its table of objects, and its texts."""

import sys
from collections.abc import Sequence

from ebpf.cli.context import Context
from ebpf.cli.main import NOUNS, guarded
from ebpf.cli.noun import Misuse
from ebpf.cli.usage import grammar
from ebpf.cli.words import BPFTOOL_FLAGS, match
from ebpf.errors import NotSupportedError, UsageError

# In the order that decides what an abbreviation means.
OBJECTS = (
    "help",
    "batch",
    "prog",
    "map",
    "link",
    "cgroup",
    "perf",
    "net",
    "feature",
    "btf",
    "gen",
    "struct_ops",
    "iter",
    "token",
    "version",
)
# Options that take a word, and such as change nothing here.
_VALUED = {"-B": "base_btf", "--base-btf": "base_btf"}
_IGNORED = ("-m", "--mapcompat")


def main(argv: Sequence[str] | None = None) -> int:
    """Run bpftool's command line and return its exit status."""
    context = Context(command="bpftool")
    words = list(sys.argv[1:] if argv is None else argv)
    return guarded(context, lambda: carry_out(context, words))


def carry_out(context: Context, argv: list[str]) -> int:
    """Take the options off, wherever they stand, and carry out what is left."""
    words, asked = options(context, argv)
    if asked:
        words = [asked]
    return command(context, words)


def command(context: Context, words: list[str]) -> int:
    """Carry out one command of which the options are taken off."""
    if not words:
        return _usage(context, 0)
    name = match(words[0], {name: name for name in OBJECTS})
    if name is None:
        return _usage(context, 255)
    if name == "help":
        return _usage(context, 0)
    context.noun = words[0]
    noun = NOUNS.get(name)
    if noun is None:
        if words[1:2] and "help".startswith(words[1]):
            return _usage(context, 0, name)
        raise NotSupportedError(f"bpftool {name}", "this command is not built yet")
    return noun.load()(context, words[1:])


def _usage(context: Context, status: int, noun: str = "") -> int:
    if context.json:
        context.write("null")
    else:
        context.note(grammar("bpftool", noun, context.noun).removesuffix("\n"))
    return status


def options(context: Context, argv: list[str]) -> tuple[list[str], str]:
    """The words that are no options, and "help" or "version" where an option asks for it."""
    letters = {spelling: flag.name for flag in BPFTOOL_FLAGS for spelling in flag.spellings}
    words: list[str] = []
    asked = ""
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--":
            words += rest
            break
        if len(word) < 2 or word[0] != "-":
            words.append(word)
            continue
        for option in [word] if word[1] == "-" else ["-" + letter for letter in word[1:]]:
            if option in letters:
                setattr(context, letters[option], True)
                context.json = context.json or context.pretty
            elif option in ("-h", "--help"):
                asked = asked or "help"
            elif option in ("-V", "--version"):
                asked = asked or "version"
            elif option in _VALUED:
                if not rest:
                    raise UsageError(f"option requires an argument -- '{option.lstrip('-')}'")
                setattr(context, _VALUED[option], rest.pop(0))
            elif option not in _IGNORED:
                raise Misuse("", f"unrecognized option '{option}'")
    return words, asked


if __name__ == "__main__":
    sys.exit(main())
