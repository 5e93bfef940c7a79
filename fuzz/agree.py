"""Whether the engines agree on programs."""

from collections import Counter
from collections.abc import Sequence

from fuzz.engines import Outcome, Session, possible_cpus
from fuzz.programs import make
from fuzz.shapes import Made
from fuzz.shrink import shrink, text

from ebpf.errors import EbpfError
from ebpf.kernels.linux import LinuxKernel
from ebpf.kernels.user.kernel import UserKernel
from ebpf.sys.kernel import Kernel

ENGINES = ("interp", "jit", "linux")


class Engines:
    """The engines that are asked."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._user: UserKernel | None = UserKernel() if {"interp", "jit"} & set(names) else None
        self._linux: Kernel | None = LinuxKernel() if "linux" in names else None

    def run(self, made: Made) -> dict[str, Outcome]:
        """What each makes of a program."""
        out: dict[str, Outcome] = {}
        if self._user is not None:
            session = Session(self._user, made, cpus=self._user.possible_cpus)
            if "jit" in self.names:
                out["jit"] = session.run()
            if "interp" in self.names:
                out["interp"] = session.interpreted()
            session.close()
        if self._linux is not None:
            session = Session(self._linux, made, cpus=possible_cpus())
            out["linux"] = session.run()
            session.close()
        return out

    def differ(self, made: Made) -> str:
        """What differs (see `difference`) each time: an address that a program answers with is another each time."""
        first, second = self.run(made), self.run(made)
        return difference(first) if first == second else ""


def difference(outcomes: dict[str, Outcome]) -> str:
    """What differs between outcomes: "verdict", "retval", "packet", "map N" or nothing."""
    all_ = list(outcomes.values())
    if len({bool(each.refused) for each in all_}) > 1:
        return "verdict"
    if all_[0].refused:
        return ""
    for name in ("retval", "packet"):
        if len({getattr(each, name) for each in all_}) > 1:
            return name
    for number, values in enumerate(zip(*(each.maps for each in all_), strict=True)):
        if len(set(values)) > 1:
            return f"map {number}"
    return ""


def part(seeds: range, names: Sequence[str], show: int) -> Counter[str]:
    """Run some programs; print what differs, the first `show` made small."""
    counts: Counter[str] = Counter()
    engines = Engines(names)
    for seed in seeds:
        made = make(seed)
        counts["seeds"] += 1
        try:
            outcomes = engines.run(made)
        except EbpfError as error:
            counts["failed"] += 1
            print(f"-- seed {seed}: {error}", flush=True)
            continue
        what = difference(outcomes)
        counts["programs"] += 1 + len(made.tails)
        counts["insns"] += sum(map(len, (made.insns, *made.tails)))
        counts["refused by all"] += not what and bool(outcomes[names[0]].refused)
        counts[what or "same"] += 1
        if what:
            print(f"-- seed {seed}: {what} differs", flush=True)
        if what and show > 0:
            show -= 1
            small = shrink(made, lambda other, what=what: engines.differ(other) == what)
            print(text(small))
            for name, outcome in engines.run(small).items():
                print(f"   {name}: {outcome}", flush=True)
    return counts
