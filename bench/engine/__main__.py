"""The engine's speed: thirteen programs against the same C compiled for this processor, and what maps, calls and loads cost.

    python -m bench.engine [PART...] [--rounds N]

Parts: programs, maps, checked, python, loads. All times are a thread's CPU time, medians of rounds in which the engines take turns.
"""

import argparse
import statistics
import sys

from bench.engine import checked, loads, python
from bench.engine.measure import Measured, alternate
from bench.engine.subject import THIRTEEN, Subject

_OPERATIONS = {"array_lookup": 1.2, "hash_lookup": 15.0, "hash_update": 30.0, "ring_record": 25.0}
_TIMES = 64


def programs(rounds: int) -> None:
    """The table of the thirteen, and the geometric means."""
    subject = Subject()
    rows: dict[str, dict[str, Measured]] = {}
    for name in THIRTEEN:
        results = subject.results(name)
        if len(set(results)) != 1:
            sys.exit(f"{name}: the engines answer {results}")
        rows[name] = alternate(subject.engines(name), rounds)
    columns = list(rows[THIRTEEN[0]])
    print(f"{'':<10}" + "".join(f"{column + ', ns':>18}{'ratio':>7}" for column in columns))
    for name, row in rows.items():
        print(f"{name:<10}" + "".join(f"{row[column].ns:>18.1f}{row[column].ratio:>7.2f}" for column in columns))
    means = {column: statistics.geometric_mean(row[column].ratio for row in rows.values()) for column in columns}
    print(f"{'geomean':<10}" + "".join(f"{'':>18}{means[column]:>7.2f}" for column in columns))
    if subject.linux is None:
        print(f"Linux: not measured: {subject.linux_says}")
    subject.close()


def maps(rounds: int) -> None:
    """What one operation costs, called by a program."""
    subject = Subject()
    print(f"{'':<14}{'native, ns':>12}{'JIT, ns':>10}{'best':>8}{'wanted':>20}")
    for name, wanted in _OPERATIONS.items():
        row = alternate({k: v for k, v in subject.engines(name).items() if k in ("native", "JIT")}, rounds)
        native, ours = row["native"].ns / _TIMES, row["JIT"].ns / _TIMES
        aim = f"<= {wanted} over native" if name == "array_lookup" else f"<= {wanted}"
        print(f"{name:<14}{native:>12.2f}{ours:>10.2f}{row['JIT'].best / _TIMES:>8.2f}{aim:>20}")
    subject.close()


_PARTS = {"programs": programs, "maps": maps, "checked": checked.table, "python": python.table, "loads": loads.table}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*_PARTS, []])
    parser.add_argument("--rounds", type=int, default=31)
    options = parser.parse_args()
    for name in options.parts or _PARTS:
        print(f"== {name}")
        _PARTS[name](options.rounds)


if __name__ == "__main__":
    main()
