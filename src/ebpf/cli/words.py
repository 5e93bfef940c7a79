"""bpftool's grammar: words that match by prefix, options that may stand anywhere."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from ebpf.errors import UsageError
from ebpf.records import record

T = TypeVar("T")


def match(word: str, table: Mapping[str, T]) -> T | None:
    """Return the first entry of `table` whose key begins with `word`; the table's order decides, as in bpftool."""
    return next((value for key, value in table.items() if word and key.startswith(word)), None)


def is_prefix(word: str, keyword: str) -> bool:
    """Tell whether `word` abbreviates `keyword`."""
    return bool(word) and keyword.startswith(word)


class Words:
    """The words of a command line, taken from the left."""

    def __init__(self, rest: list[str], taken: list[str] | None = None) -> None:
        self.rest = rest
        self.taken = taken or []

    def __bool__(self) -> bool:
        return bool(self.rest)

    def peek(self) -> str:
        """The next word, or "" at the end."""
        return self.rest[0] if self.rest else ""

    def take(self, what: str) -> str:
        """Take the next word, which is a `what`. Raises UsageError when there is none."""
        if not self.rest:
            raise UsageError(f"'{self.taken[-1] if self.taken else what}' needs at least 1 arguments, 0 found")
        word = self.rest.pop(0)
        self.taken.append(word)
        return word

    def take_if(self, *keywords: str) -> bool:
        """Take the next word if it abbreviates one of `keywords`."""
        if self.rest and any(is_prefix(self.rest[0], keyword) for keyword in keywords):
            self.taken.append(self.rest.pop(0))
            return True
        return False

    def need(self, count: int, verb: str) -> None:
        """Insist on `count` words after a verb, before any is judged."""
        if len(self.rest) < count:
            raise UsageError(f"'{verb}' needs at least {count} arguments, {len(self.rest)} found")

    def end(self) -> None:
        """Insist that nothing is left."""
        if self.rest:
            raise UsageError(f"what is '{self.rest[0]}'?")


def number(word: str, what: str) -> int:
    """Read a number as strtoul with base 0 does (0x.., leading 0 is octal)."""
    text = word.lower()
    try:
        value = int(text, 8 if text.startswith("0") and text.isdigit() and len(text) > 1 else 0)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 64:
        raise UsageError(f"can't parse {what} '{word}'")
    return value


@record
class Flag:
    """An option without a value: its spellings."""

    name: str
    spellings: tuple[str, ...]


BPFTOOL_FLAGS = (
    Flag("json", ("-j", "--json")),
    Flag("pretty", ("-p", "--pretty")),
    Flag("bpffs", ("-f", "--bpffs")),
    Flag("nomount", ("-n", "--nomount")),
    Flag("debug", ("-d", "--debug")),
    Flag("use_loader", ("-L", "--use-loader")),
)


def split_flags(argv: Sequence[str]) -> tuple[list[str], set[str]]:
    """Separate bpftool's options, wherever they stand, from the words. `--` ends them."""
    words: list[str] = []
    flags: set[str] = set()
    spellings = {s: flag.name for flag in BPFTOOL_FLAGS for s in flag.spellings}
    for place, word in enumerate(argv):
        if word == "--":
            words.extend(argv[place + 1 :])
            break
        if word in spellings:
            flags.add(spellings[word])
        elif len(word) > 2 and word[0] == "-" and word[1] != "-" and all("-" + c in spellings for c in word[1:]):
            flags.update(spellings["-" + c] for c in word[1:])
        else:
            words.append(word)
    return words, flags
