"""Engines measured in alternation: medians, and the median of each round's ratio to the first."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_SLICE_NS = 1_000_000


@dataclass(frozen=True)
class Measured:
    """Nanoseconds a run, in the middle and at best, and the ratio to the first engine of the same round."""

    ns: float
    best: float
    ratio: float


def alternate(engines: Mapping[str, Callable[[int], float]], rounds: int) -> dict[str, Measured]:
    """Run each engine for about a millisecond in turn, `rounds` times."""
    times = {name: max(int(_SLICE_NS / max(run(200), 0.5)), 20) for name, run in engines.items()}
    samples: list[dict[str, float]] = [{name: run(times[name]) for name, run in engines.items()} for _ in range(rounds)]
    first = next(iter(engines))
    return {
        name: Measured(
            statistics.median(sample[name] for sample in samples),
            min(sample[name] for sample in samples),
            statistics.median(sample[name] / sample[first] for sample in samples),
        )
        for name in engines
    }
