"""Reading a verifier's log: the complaint without the statistics, and the count of instructions."""

import re

_STATS = re.compile(r"^(processed \d+ insns|verification time |stack depth |mark_precise|Live regs before insn|insns processed)")
_PROCESSED = re.compile(r"^processed (\d+) insns", re.M)


def complaint(log: str) -> str:
    """The log of level 4 without its statistics: what was wrong."""
    return "\n".join(line for line in log.splitlines() if line and not _STATS.match(line))


def last_line(log: str) -> str:
    """The last line that is not a statistic."""
    for line in reversed(log.splitlines()):
        if line and not _STATS.match(line):
            return line
    return ""


def processed(log: str) -> int:
    """How many instructions were walked (0: it does not say)."""
    found = _PROCESSED.search(log)
    return int(found[1]) if found else 0
