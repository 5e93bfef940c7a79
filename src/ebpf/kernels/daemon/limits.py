"""What one client of ebpfd may have, and how its user says so."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ebpf.errors import UsageError
from ebpf.kernels.user.objects import Account

# All clients together may have so many times what one may have.
_TOGETHER = 8
#: The form of seconds.
SECONDS = r"(\d*\.?\d+)()"
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may have: `objects` (and as many descriptors), `memory` in bytes, `cpu_s` seconds for one run of a program."""

    objects: int = 8192
    memory: int = 1 << 31
    cpu_s: float = 10.0

    def told(self) -> dict[str, int]:
        """The same as whole numbers."""
        return {"objects": self.objects, "memory": self.memory, "cpu_ms": round(self.cpu_s * 1000)}

    def together(self) -> Account:
        """The account of all clients."""
        return Account(objects=_TOGETHER * self.objects, memory=_TOGETHER * self.memory)

    def one(self, together: Account) -> Account:
        """A new client's account."""
        return Account(objects=self.objects, memory=self.memory, together=together)


def limits_of(environment: Mapping[str, str] = os.environ) -> Limits:
    """The limits that EBPF_DAEMON_OBJECTS, EBPF_DAEMON_MEMORY (bytes, or with k, M, G) and EBPF_DAEMON_CPU_S set.

    Raises UsageError for what is no number above 0.
    """
    usual = Limits()
    objects = number(environment, "EBPF_DAEMON_OBJECTS", r"(\d+)()", "a number of objects")
    memory = number(environment, "EBPF_DAEMON_MEMORY", r"(\d+)([kmg]?)", "bytes, like 512M")
    cpu_s = number(environment, "EBPF_DAEMON_CPU_S", SECONDS, "seconds, like 0.5")
    return Limits(int(objects or usual.objects), int(memory or usual.memory), cpu_s or usual.cpu_s)


def number(environment: Mapping[str, str], name: str, form: str, what: str) -> float | None:
    """The number that a variable sets, None if it sets none; UsageError for another `form` (digits, unit) and for what is not above 0."""
    text = environment.get(name, "")
    if not text:
        return None
    found = re.fullmatch(form, text.strip().lower())
    value = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if value <= 0:
        raise UsageError(f"{name}='{text}': not {what}")
    return value
