"""JSON laid out as bpftool lays it out: compact with -j, its own indentation with -p."""

import json
from collections.abc import Mapping, Sequence

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]


def dumps(value: Json, *, pretty: bool) -> str:
    """Render `value`: objects that are elements open on their list's line, scalar lists stand on one line."""
    return _pretty(value, 0) if pretty else json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _pretty(value: Json, depth: int) -> str:
    if isinstance(value, Mapping):
        if not value:
            return "{}"
        inner = ",".join(f"{_line(depth + 1)}{json.dumps(k)}: {_pretty(v, depth + 1)}" for k, v in value.items())
        return "{" + inner + _line(depth) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        if not value:
            return "[]"
        return "[" + ",".join(_pretty(v, depth + 1) for v in value) + _line(depth) + "]"
    return json.dumps(value, ensure_ascii=False)


def _line(depth: int) -> str:
    return "\n" + "    " * depth


def hex_bytes(data: bytes) -> list[str]:
    """Bytes as bpftool writes them in JSON: a list of "0x0a" strings."""
    return [f"0x{byte:02x}" for byte in data]
