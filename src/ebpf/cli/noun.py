"""What bpftool's nouns have in common: a verb out of a table, the grammar on request, names of kinds."""

from collections.abc import Callable, Mapping

from ebpf.cli.context import Context
from ebpf.cli.words import Words, match
from ebpf.errors import UsageError

Verb = Callable[[Context, Words], int]


def dispatch(context: Context, argv: list[str], noun: str, verbs: Mapping[str, Verb]) -> int:
    """Carry out one command of a noun; without a verb it is the table's first."""
    words = Words(argv)
    if not words:
        return next(iter(verbs.values()))(context, words)
    verb = words.take("command")
    action = match(verb, verbs)
    if action is None:
        raise UsageError(f"unknown command '{noun} {verb}'; ebpf {noun} help")
    return action(context, words)


def help_verb(text: str) -> Verb:
    """The verb that prints a noun's grammar."""

    def usage(context: Context, words: Words) -> int:
        del words
        context.note(text)
        done(context)
        return 0

    return usage


def done(context: Context) -> None:
    """A command without output says null in JSON, and nothing else."""
    if context.json:
        context.write("null")
