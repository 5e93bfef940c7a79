"""`ebpf version`."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version

from ebpf.cli.context import Context
from ebpf.cli.jsonw import Json, dumps


def run(context: Context, words: list[str]) -> int:
    """Print our version and those of what we stand on."""
    del words
    if context.command == "bpftool":
        return _as_bpftool(context)
    rows = {"ebpf": _version("ebpf"), "python": platform.python_version()}
    rows |= {name: _version(name) for name in ("llvmlite", "ziglang")}
    if context.json:
        context.write(json.dumps(rows, indent=4 if context.pretty else None))
    else:
        for name, text in rows.items():
            context.write(f"{name} v{text}" if text else f"{name}: not installed")
    return 0


# The bpftool and libbpf whose grammar and behaviour this is.
_BPFTOOL, _LIBBPF = "7.8.0", "1.8"
# Which of their optional parts there is here.
_FEATURES = {"libbfd": False, "llvm": False, "crypto": False, "skeletons": False, "bootstrap": False}


def _as_bpftool(context: Context) -> int:
    if context.json:
        row: dict[str, Json] = {"version": _BPFTOOL, "libbpf_version": _LIBBPF, "features": _FEATURES}
        context.write(dumps(row, pretty=context.pretty))
    else:
        context.write(f"bpftool v{_BPFTOOL}\nusing libbpf v{_LIBBPF}")
        context.write(("features: " + ", ".join(name for name, there in _FEATURES.items() if there)).rstrip())
    return 0


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
