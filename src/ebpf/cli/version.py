"""`ebpf version`."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version

from ebpf.cli.context import Context


def run(context: Context, words: list[str]) -> int:
    """Print our version and those of what we stand on."""
    del words
    rows = {"ebpf": _version("ebpf"), "python": platform.python_version()}
    rows |= {name: _version(name) for name in ("llvmlite", "ziglang")}
    if context.json:
        context.write(json.dumps(rows, indent=4 if context.pretty else None))
    else:
        for name, text in rows.items():
            context.write(f"{name} v{text}" if text else f"{name}: not installed")
    return 0


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
