"""Generated programs against the running kernel: count what disagrees, and make it small.

    python -m bench.agreement.fuzz KIND [--count N] [--seed N] [--states] [--shrink] [--bpf-only]

KIND: scalar, access, calls, loop, one, mutated (needs the sets of `make`), or all.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from bench.agreement.case import BPF_ONLY, Answer, Case
from bench.agreement.compare import FALSE_ACCEPT, Pair
from bench.agreement.folder import cases_path, read_lines, sets
from bench.agreement.generate import KINDS, insn, mutated
from bench.agreement.oracle import Oracle, privileges
from bench.agreement.ours import verify
from bench.agreement.run import one
from bench.agreement.states import first_difference

from ebpf.isa import decode, disasm
from ebpf.kernels.linux import LinuxKernel

_LIMIT_S = 10
#: Sets whose programs no compiler wrote.
_NOT_REAL = ("arrays", "generated", "mutated")
_LONGEST = 4000 * 8


def cases(kind: str, seed: int, count: int) -> Iterator[Case]:
    """`count` programs of a kind from a seed on."""
    if kind != "mutated":
        yield from (KINDS[kind](number) for number in range(seed, seed + count))
        return
    real = [Case.of(row) for name in sets() if not name.startswith(_NOT_REAL) for row in read_lines(cases_path(name)) if row["stage"] < 3]
    real = [case for case in real if len(case.code) < _LONGEST]
    for number in range(seed, seed + count):
        yield mutated(real[number * 7919 % len(real)], number)


def ask(oracle: Oracle, case: Case, profile: str) -> Pair:
    """Both answers to a case."""
    return Pair(case, oracle.ask(case), one(verify, case, profile, _LIMIT_S))


def shrink(oracle: Oracle, pair: Pair, profile: str) -> Pair:
    """The same disagreement with as many instructions as possible replaced by jumps to the next one, which then go."""
    slot = len(pair.case.code) // 8 - 1
    while slot >= 0:
        at = slot * 8
        code = pair.case.code
        wide = code[at] == 0x18
        if code[at] and code[at : at + 8] != insn(0x05):
            gone = insn(0x05) * (2 if wide else 1)
            kept = tuple(each for each in pair.case.map_slots if each != slot)
            smaller = replace(pair.case, code=code[:at] + gone + code[at + len(gone) :], map_slots=kept)
            tried = ask(oracle, smaller, profile)
            if tried.kind == pair.kind and tried.theirs.message == pair.theirs.message:
                pair = tried
        slot -= 1
    return pair


def _text(case: Case) -> str:
    lines = disasm(decode(case.with_maps(list(range(len(case.maps))))))
    return "\n".join(line for line in lines if "goto pc+0" not in line)


def _states(oracle: Oracle, case: Case, profile: str) -> str:
    theirs = oracle.log(case, 2)
    return first_difference(theirs, verify(case, profile, 2).log)


def _run(kind: str, args: argparse.Namespace, oracle: Oracle) -> Counter[str]:
    counts: Counter[str] = Counter()
    shown = 0
    for case in cases(kind, args.seed, args.count):
        if args.bpf_only:
            case = replace(case, caps=BPF_ONLY)
        pair = ask(oracle, case, args.linux)
        if pair.theirs.verdict == "environment":
            continue
        counts["cases"] += 1
        counts[pair.kind] += 1
        counts[f"kernel {pair.theirs.verdict}"] += 1
        counts["same message"] += pair.same_message
        counts["same count"] += pair.same_count
        difference = _states(oracle, case, args.linux) if args.states and pair.kind == "agree" and len(case.code) < _LONGEST else ""
        counts["states differ"] += bool(difference)
        if shown < args.show and (pair.kind not in ("agree", "unknown") or difference):
            shown += 1
            small = shrink(oracle, pair, args.linux) if args.shrink and not difference else pair
            print(f"-- {case.id} {case.name}: {pair.kind}\n{_text(small.case) if args.shrink else ''}")
            print(f"   kernel: {_line(small.theirs)}\n   ours:   {_line(small.ours)}\n{difference}")
    return counts


def _line(answer: Answer) -> str:
    return f"{answer.verdict} {answer.message} {answer.why}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=[*KINDS, "mutated", "all"])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--linux", default="6.18")
    parser.add_argument("--show", type=int, default=5, help="how many disagreements are printed")
    parser.add_argument("--states", action="store_true", help="compare the register states of log level 2")
    parser.add_argument("--shrink", action="store_true")
    parser.add_argument("--bpf-only", action="store_true", help="with CAP_BPF and CAP_NET_ADMIN alone")
    args = parser.parse_args()
    worst = 0
    with LinuxKernel() as kernel:
        oracle = Oracle(kernel)
        if args.bpf_only:
            oracle.warm()
            privileges(BPF_ONLY)
        for kind in [*KINDS, "mutated"] if args.kind == "all" else [args.kind]:
            counts = _run(kind, args, oracle)
            print(kind, ", ".join(f"{name} {count}" for name, count in counts.items() if count), flush=True)
            worst = max(worst, counts[FALSE_ACCEPT])
    return 1 if worst else 0


if __name__ == "__main__":
    sys.exit(main())
