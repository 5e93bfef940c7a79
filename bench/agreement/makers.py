"""The sets of cases, and what makes each."""

from collections.abc import Callable, Iterable
from typing import Final

from bench.agreement import arrays, corpus, fuzz, hooks, objects, permitted
from bench.agreement.case import Case
from bench.agreement.generate import KINDS

#: How many of each kind of generated programs.
_PROGRAMS, _LOOPS = 600, 60
#: How many of each kind follow in the sets of more.
_MORE, _MORE_LOOPS = 2000, 200


def _seeds_of_more(kind: str) -> range:
    return range(_LOOPS, _LOOPS + _MORE_LOOPS) if kind == "loop" else range(_PROGRAMS, _PROGRAMS + _MORE)


MAKERS: Final[dict[str, Callable[[], Iterable[Case]]]] = {
    "arrays-6.1": lambda: arrays.cases("6.1"),
    "arrays-6.12": lambda: arrays.cases("6.12"),
    "verifier-6.12": lambda: objects.cases("verifier-6.12", "6.12", lambda name: name.startswith("verifier_")),
    "progs-6.12": lambda: objects.cases("progs-6.12", "6.12", lambda name: not name.startswith("verifier_")),
    "progs-6.1": lambda: objects.cases("progs-6.1", "6.1", lambda name: True),
    "newer": lambda: objects.newer("newer", "6.12"),
    "project": corpus.project,
    "xdp-tools": corpus.xdp_tools,
    "embedded": corpus.embedded_programs,
    "bcc-tools": corpus.bcc_tools,
    "permitted": permitted.cases,
    "hooks": hooks.cases,
    "generated": lambda: (KINDS[kind](seed) for kind in KINDS for seed in range(_LOOPS if kind == "loop" else _PROGRAMS)),
    "mutated": lambda: fuzz.cases("mutated", 0, _PROGRAMS),
    "generated-more": lambda: (KINDS[kind](seed) for kind in KINDS for seed in _seeds_of_more(kind)),
    "mutated-more": lambda: fuzz.cases("mutated", _PROGRAMS, _MORE),
}
