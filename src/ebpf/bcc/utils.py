"""What scripts import from bcc.utils."""

import os
import sys
from typing import Any

__all__ = ["get_online_cpus", "get_possible_cpus", "printb"]


def printb(s: bytes, file: Any = None, nl: int = 1) -> None:
    """Write bytes as they are, with a newline."""
    out = file or sys.stdout
    buffer: Any = getattr(out, "buffer", out)
    out.flush()
    buffer.write(s + (b"\n" if nl else b""))
    buffer.flush()


def get_online_cpus() -> list[int]:
    """The processors that run."""
    return _cpus("online")


def get_possible_cpus() -> list[int]:
    """The processors that there may be."""
    return _cpus("possible")


def _cpus(which: str) -> list[int]:
    try:
        with open(f"/sys/devices/system/cpu/{which}", encoding="ascii") as file:
            text = file.read()
    except OSError:
        return list(range(os.cpu_count() or 1))
    out: list[int] = []
    for part in text.strip().split(","):
        low, _, high = part.partition("-")
        out.extend(range(int(low), int(high or low) + 1))
    return out
