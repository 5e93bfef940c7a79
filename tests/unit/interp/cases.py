"""The cases of tests/isa/*.data."""

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "isa"


@dataclass(frozen=True, slots=True)
class Case:
    """A program as text and the r0 that it ends with."""

    name: str
    text: str
    result: int


def read(path: Path) -> list[Case]:
    """The cases of one file."""
    out = []
    for block in ("\n" + path.read_text()).split("\n== ")[1:]:
        name, _, rest = block.partition("\n")
        text, _, result = rest.partition("\n-> ")
        out.append(Case(name, text, int(result.strip(), 0)))
    return out


CASES = [case for path in sorted(FOLDER.glob("*.data")) for case in read(path)]
