"""`prog run PROG data_in FILE ...`: a loaded program's test run, in bpftool's grammar."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from ebpf.cli import handles
from ebpf.cli.context import Context
from ebpf.cli.jsonw import Json, dumps
from ebpf.cli.noun import Failure
from ebpf.cli.words import Words, match, number
from ebpf.errors import KernelError, UsageError
from ebpf.sys.calls import ProgTestRun

_FILES = ("data_in", "data_out", "ctx_in", "ctx_out")
_NUMBERS = ("data_size_out", "ctx_size_out", "repeat")
_LISTED = "'data_in', 'data_out', 'data_size_out', 'ctx_in', 'ctx_out', 'ctx_size_out' or 'repeat'"
_MOST_INPUT = 1 << 26
_ROW = 16
# What comes out may be longer than what went in.
_ROOM = 32 << 10


@dataclass(slots=True)
class Request:
    """What was typed after the program."""

    files: dict[str, str]
    numbers: dict[str, int]


def parse(words: Words) -> Request:
    """Read the words after the program's handle. Raises UsageError."""
    request = Request({}, {})
    while words:
        word = words.take("option")
        name = match(word, {name: name for name in (*_FILES, *_NUMBERS)})
        if name is None:
            raise UsageError(f"expected no more arguments, {_LISTED}, got: '{word}'?")
        if not words:
            raise UsageError(f"'{word}' needs at least 1 arguments, 0 found")
        if name in _FILES:
            request.files[name] = words.take(name)
        else:
            request.numbers[name] = _number(words.take(name), name)
    return request


def _number(text: str, name: str) -> int:
    try:
        value = number(text, name)
    except UsageError:
        value = 1 << 32
    if value >= 1 << 32:
        what = "repeat number" if name == "repeat" else f"{name.split('_', 1)[0]} output size"
        raise UsageError(f"can't parse {text} as {what}")
    return value


def run(context: Context, words: Words) -> int:
    """Run a loaded program on what a file holds ("-": standard input), and print its verdict and what came out."""
    words.need(4, "run")
    handle = handles.take(words, "prog")
    request = parse(words)
    kernel = context.kernel()
    data, ctx = (_input(request.files.get(name, "")) for name in ("data_in", "ctx_in"))
    repeat = request.numbers.get("repeat", 1)
    with handles.programs(kernel, handle) as found:
        fd = handles.only(found, handle, "prog").fd
        call = ProgTestRun(
            fd,
            data,
            ctx,
            repeat,
            data_size_out=request.numbers.get("data_size_out", max(_ROOM, len(data)) if data else 0),
            ctx_size_out=request.numbers.get("ctx_size_out", len(ctx)),
        )
        try:
            result = kernel.bpf(call)
        except KernelError as error:
            raise Failure("failed to run program", error.errno) from error
    row: dict[str, Json] = {}
    for name, out in (("data_out", result.data), ("ctx_out", result.ctx)):
        path = request.files.get(name)
        if path is None or not out:
            continue
        if path != "-":
            _store(path, out)
        elif context.json:
            row[name] = list(out)
        else:
            context.write(hex_dump(out))
    if context.json:
        context.write(dumps(row | {"retval": result.retval, "duration": result.duration_ns}, pretty=context.pretty))
    else:
        average = " (average)" if repeat > 1 else ""
        context.write(f"Return value: {result.retval}, duration{average}: {result.duration_ns}ns")
    return 0


def _input(path: str) -> bytes:
    if not path:
        return b""
    try:
        if path == "-":
            data = sys.stdin.buffer.read(_MOST_INPUT + 1)
        else:
            with open(path, "rb") as file:
                data = file.read(_MOST_INPUT + 1)
    except OSError as error:
        raise UsageError(f"failed to open {path}: {os.strerror(error.errno or 5)}") from error
    if len(data) > _MOST_INPUT:
        raise UsageError(f"{path}: more than {_MOST_INPUT >> 20} MB are no packet")
    return data


def _store(path: str, data: bytes) -> None:
    try:
        Path(path).write_bytes(data)
    except OSError as error:
        raise UsageError(f"failed to open {path}: {error.strerror}") from error


def hex_dump(data: bytes) -> str:
    """Bytes as rows of sixteen: where, in hexadecimal, and as text."""
    lines = []
    for at in range(0, len(data), _ROW):
        row = data[at : at + _ROW]
        cells = [f"{row[i]:02x}" if i < len(row) else "  " for i in range(_ROW)]
        shown = [chr(byte) if 0x20 <= byte <= 0x7E else "." for byte in row]
        if len(shown) > 7:
            shown[7] += " "
        lines.append(f"{at:07x}\t" + "".join(a + b + " " for a, b in zip(cells[::2], cells[1::2], strict=True)) + "| " + "".join(shown))
    return "\n".join(lines)
