"""`batch file FILE`: several commands of bpftool's, one a line."""

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from functools import partial
from io import StringIO

from ebpf.cli.context import Context
from ebpf.cli.jsonw import dumps
from ebpf.cli.words import Words
from ebpf.errors import UsageError

_LONGEST, _MOST_WORDS = 65536, 4096

Command = Callable[[Context, list[str]], int]


def run(context: Context, argv: list[str]) -> int:
    """Carry out the commands of a file ("-": standard input) until one fails."""
    from ebpf.cli.bpftool import command

    words = Words(argv)
    if len(words.rest) < 2:
        raise UsageError("too few parameters for batch")
    if not words.take_if("file"):
        raise UsageError(f"expected 'file', got: {words.peek()}")
    path = words.take("FILE")
    words.end()
    return _carry_out(context, path, command)


def _carry_out(context: Context, path: str, command: Command) -> int:
    from ebpf.cli.main import report_any

    count = 0
    status = 0
    rows: list[str] = []
    out = context.out
    for line in _lines(path):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise UsageError(f"line {count + 1}: {str(error).lower()}") from error
        if not words:
            continue
        if len(words) > _MOST_WORDS:
            raise UsageError(f"line {count + 1}: more than {_MOST_WORDS} words")
        if context.json:
            context.out = StringIO()
        try:
            status = report_any(context, partial(command, context, words))
        finally:
            said, context.out = context.out, out
        if context.json:
            assert isinstance(said, StringIO)
            text = said.getvalue().strip()
            rows.append(f'{{"command":{dumps(words, pretty=False)},"output":{text or "null"}}}')
        count += 1
        if status:
            break
    if context.json:
        context.write("[" + ",".join(rows) + "]")
    elif not status:
        context.write(f"processed {count} commands")
    return status


def _lines(path: str) -> Iterator[str]:
    """The commands of a file; a backslash at its end continues a line."""
    try:
        with sys.stdin if path == "-" else open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError as error:
        raise UsageError(f"Can't open file ({path}): {os.strerror(error.errno or 5)}") from error
    for line in text.replace("\\\n", " ").splitlines():
        if len(line) >= _LONGEST:
            raise UsageError(f"a command has at most {_LONGEST} characters, this one {len(line)}")
        yield line
