"""JSON laid out as bpftool lays it out: compact with -j, its own indentation with -p."""

import json
from collections.abc import Callable, Mapping, Sequence

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]


def _scalar(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False)


def dumps(value: Json, *, pretty: bool, scalar: Callable[[Json], str] = _scalar) -> str:
    """Render `value`: objects that are elements open on their list's line, scalar lists stand on one line.

    `scalar` writes what is neither object nor list, where the text is for people and no JSON.
    """
    return _pretty(value, 0, scalar) if pretty else json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _pretty(value: Json, depth: int, scalar: Callable[[Json], str]) -> str:
    if isinstance(value, Mapping):
        if not value:
            return "{}"
        inner = ",".join(f"{_line(depth + 1)}{json.dumps(k)}: {_pretty(v, depth + 1, scalar)}" for k, v in value.items())
        return "{" + inner + _line(depth) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        if not value:
            return "[]"
        return "[" + ",".join(_pretty(v, depth + 1, scalar) for v in value) + _line(depth) + "]"
    return scalar(value)


def _line(depth: int) -> str:
    return "\n" + "    " * depth


def hex_bytes(data: bytes) -> list[str]:
    """Bytes as bpftool writes them in JSON: a list of "0x0a" strings."""
    return [f"0x{byte:02x}" for byte in data]
