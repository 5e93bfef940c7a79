"""The sets of cases, and what makes each."""

from collections.abc import Callable, Iterable
from typing import Final

from bench.agreement import arrays, corpus, objects
from bench.agreement.case import Case

MAKERS: Final[dict[str, Callable[[], Iterable[Case]]]] = {
    "arrays-6.1": lambda: arrays.cases("6.1"),
    "arrays-6.12": lambda: arrays.cases("6.12"),
    "verifier-6.12": lambda: objects.cases("verifier-6.12", "6.12", lambda name: name.startswith("verifier_")),
    "progs-6.12": lambda: objects.cases("progs-6.12", "6.12", lambda name: not name.startswith("verifier_")),
    "progs-6.1": lambda: objects.cases("progs-6.1", "6.1", lambda name: True),
    "project": corpus.project,
    "xdp-tools": corpus.xdp_tools,
    "embedded": corpus.embedded_programs,
    "bcc-tools": corpus.bcc_tools,
}
