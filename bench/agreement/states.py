"""Reading the register states of a log of level 2, and where two logs part."""

import re

_INSN = re.compile(r"^(\d+): \([0-9a-f]{2}\) [^;]*;(.*)$")
_FROM = re.compile(r"^(?:from \d+ to )?(\d+):((?: frame\d+:)? R\d+=.*)$")
_ID = re.compile(r"\bid=\d+")


def states(log: str) -> list[tuple[str, dict[str, str]]]:
    """In the order of the walk: the slot, and what the line says of registers and stack, ids without their numbers."""
    out = []
    for line in log.splitlines():
        found = _INSN.match(line) or _FROM.match(line)
        if found is not None:
            out.append((found[1], {name: _plain(text) for name, text in _registers(found[2])}))
    return out


def _registers(text: str) -> list[tuple[str, str]]:
    # Values have parentheses within parentheses (var_off=(0x0; 0xff)): cut at names instead.
    marks = [*re.finditer(r"(?:^|\s)(R\d+|fp-\d+)=", text)]
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [(mark[1], text[mark.end() : end].strip()) for mark, end in zip(marks, ends, strict=True)]


def _plain(text: str) -> str:
    return _ID.sub("id", text.partition(" refs=")[0].partition(" cb")[0]).removeprefix("P")


def first_difference(theirs: str, ours: str) -> str:
    """Where the states of two logs part ("": nowhere)."""
    mine, kernel = states(ours), states(theirs)
    for (slot, a), (other, b) in zip(kernel, mine):
        # After a text on precision Linux prints a state with the number of the next instruction.
        if slot != other and int(slot) != int(other) + 1:
            return f"   the kernel is at {slot}, we are at {other}"
        for name in sorted(a.keys() | b.keys()):
            if a.get(name) != b.get(name):
                return f"   at {slot} {name}: kernel {a.get(name)}\n{' ' * len(slot)}       {name}: ours   {b.get(name)}"
    return "" if len(mine) == len(kernel) else f"   the kernel shows {len(kernel)} states, we {len(mine)}"
