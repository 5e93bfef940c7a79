"""Where the cases lie, and how they are written. Nothing of them is ever committed: they are made from GPL text."""

import base64
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def cache() -> Path:
    """The folder of this measurement in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ebpf-agreement"


def cases_path(name: str) -> Path:
    return cache() / "cases" / f"{name}.jsonl"


def oracle_path(kernel: str, name: str) -> Path:
    return cache() / "oracle" / kernel / f"{name}.jsonl"


def types_path(kernel: str) -> Path:
    """The types of a kernel that was asked."""
    return cache() / "oracle" / kernel / "vmlinux"


def blob_path(digest: str) -> Path:
    return cache() / "btf" / digest


def sets() -> list[str]:
    """The names of the sets of cases that were made."""
    return sorted(path.stem for path in (cache() / "cases").glob("*.jsonl"))


def read_lines(path: Path) -> Iterator[Any]:
    with path.open() as lines:
        for line in lines:
            yield json.loads(line)


def write_lines(path: Path, rows: Iterable[Any]) -> int:
    """Write rows, a JSON value each, whole or not at all. How many there were."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part, count = path.with_suffix(".part"), 0
    with part.open("w") as out:
        for row in rows:
            out.write(json.dumps(row, separators=(",", ":")) + "\n")
            count += 1
    part.rename(path)
    return count


def pack(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


def unpack(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))
