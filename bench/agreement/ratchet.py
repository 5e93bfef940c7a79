"""What was reached, by kernel and file: numbers that may only improve. ratchet.json holds them, and no text of the cases."""

import json
import sys
from pathlib import Path
from typing import Any

from bench.agreement.compare import AGREE, FALSE_ACCEPT, FALSE_REJECT, Table

_PATH = Path(__file__).with_name("ratchet.json")
#: What must not fall, and what must not rise.
_UP = (AGREE, "message", "processed")
_DOWN = (FALSE_ACCEPT, FALSE_REJECT)


def _read() -> dict[str, dict[str, dict[str, int]]]:
    return json.loads(_PATH.read_text()) if _PATH.exists() else {}


def _numbers(row: Any) -> dict[str, int]:
    return {column: row[column] for column in ("cases", *_UP, *_DOWN) if row[column]}


def worse(kernel: str, table: Table) -> list[str]:
    """Where a file of the table is worse than it was; a file whose number of cases changed is not compared."""
    out = []
    for name, before in _read().get(kernel, {}).items():
        now = table.rows.get(name)
        if now is None or now["cases"] != before.get("cases", 0):
            continue
        out += [f"{name}: {column} {before.get(column, 0)} -> {now[column]}" for column in _UP if now[column] < before.get(column, 0)]
        out += [f"{name}: {column} {before.get(column, 0)} -> {now[column]}" for column in _DOWN if now[column] > before.get(column, 0)]
    return out


def check(kernel: str, table: Table) -> int:
    """Print what is worse; 1 if anything is."""
    found = worse(kernel, table)
    for line in found:
        print(f"worse than ratchet.json: {line}", file=sys.stderr)
    return 1 if found else 0


def keep(kernel: str, table: Table) -> None:
    """Write what the table has into ratchet.json, row by row, where it is not worse."""
    bad = {line.partition(": ")[0] for line in worse(kernel, table)}
    rows = _read()
    mine = rows.setdefault(kernel, {})
    for name, row in table.rows.items():
        if name not in bad:
            mine[name] = _numbers(row)
    _PATH.write_text(json.dumps(rows, indent=0, sort_keys=True) + "\n")
