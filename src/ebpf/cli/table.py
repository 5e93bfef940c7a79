"""Lists as tables, for a person at a terminal; a pipe, and who calls `bpftool`, gets bpftool's own text."""

import os
from collections.abc import Sequence

from ebpf.cli.context import Context
from ebpf.records import record

_HEAD, _END = "\x1b[1;4m", "\x1b[0m"
_GAP = 2


@record
class Column:
    """A column: what stands above it, whether it is of numbers, and the colour of its cells (ANSI's number, "": none)."""

    head: str
    right: bool = False
    colour: str = ""


def wanted(context: Context) -> bool:
    """Whether a table is what the reader wants."""
    return context.command != "bpftool" and not context.json and context.out.isatty()


def write(context: Context, columns: Sequence[Column], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under their heads. Columns that are empty in every row are left out; the last one is cut to fit the terminal."""
    cells = [[str(cell) for cell in row] for row in rows]
    used = [at for at in range(len(columns)) if any(row[at] for row in cells)]
    if not used:
        return
    widths = {at: max(len(columns[at].head), *(len(row[at]) for row in cells)) for at in used}
    from shutil import get_terminal_size

    room = get_terminal_size().columns - sum(widths[at] + _GAP for at in used[:-1])
    widths[used[-1]] = min(widths[used[-1]], max(room, len(columns[used[-1]].head)))
    coloured = "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    for number, row in enumerate([[column.head for column in columns], *cells]):
        parts = []
        for at in used:
            width, column = widths[at], columns[at]
            text = row[at] if len(row[at]) <= width else row[at][: width - 1] + "…"
            text = text.rjust(width) if column.right else text.ljust(width)
            colour = _HEAD if number == 0 else f"\x1b[{column.colour}m" if column.colour and row[at] else ""
            parts.append(f"{colour}{text}{_END}" if coloured and colour else text)
        context.write((" " * _GAP).join(parts).rstrip())


def age(seconds: float) -> str:
    """How long ago: 5s, 3m, 7h, 12d."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(int(seconds), 0)}s"
