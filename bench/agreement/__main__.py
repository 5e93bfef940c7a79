"""Agreement with Linux's verifier: make the cases, ask the kernel, run ours, compare. README.md says how."""

import argparse
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

from bench.agreement import makers
from bench.agreement.case import ALL, Answer, Case
from bench.agreement.compare import AGREE, Pair, table_of
from bench.agreement.folder import cache, cases_path, oracle_path, read_lines, sets, types_path, write_lines
from bench.agreement.ratchet import check, keep

from ebpf.sys.kernel import VMLINUX


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.agreement", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="make sets of cases")
    make.add_argument("sets", nargs="+", choices=sorted(makers.MAKERS))
    ask = commands.add_parser("ask", help="ask the running kernel about sets")
    ask.add_argument("sets", nargs="*")
    ask.add_argument("--machine", default="", metavar="LINUX", help="ask Debian's kernel of this line, in a virtual machine")
    ask.add_argument("--seconds", type=int, default=900, help="how long a machine may take, which a program can bring to a stop")
    run = commands.add_parser("run", help="run our verifier, and compare")
    run.add_argument("sets", nargs="*", help="sets of cases (all that were made)")
    run.add_argument("--linux", default=_running(), help="the profile, and the kernel that was asked")
    run.add_argument("--only", default="", help="cases with this in their id")
    run.add_argument("--stage", type=int, default=4, help="no case of a higher stage")
    run.add_argument("--limit", type=float, default=20, help="seconds for a case")
    run.add_argument("--processes", type=int, default=2)
    run.add_argument(
        "--list",
        default="",
        help="print the cases of these kinds, with commas between: false_accept, false_reject, unknown, crash, timeout, message, processed",
    )
    run.add_argument("--by-stage", action="store_true")
    run.add_argument("--why", action="store_true", help="count the reasons of what is unknown or crashed")
    run.add_argument("--ratchet", action="store_true", help="fail where a file is worse than ratchet.json has it")
    run.add_argument("--keep", action="store_true", help="write what is better into ratchet.json")
    show = commands.add_parser("show", help="a case: its instructions, the kernel's log, ours")
    show.add_argument("id")
    show.add_argument("--level", type=int, default=1)
    show.add_argument("--linux", default=_running())
    args = parser.parse_args()
    try:
        return int(globals()[f"_{args.command}"](args) or 0)
    except FileNotFoundError as error:
        step = "ask" if "/oracle/" in str(error.filename) else "make"
        print(f"{error.filename}: no such file: `{step}` comes first", file=sys.stderr)
        return 2


def _running() -> str:
    return ".".join(os.uname().release.split(".")[:2])


def _make(args: argparse.Namespace) -> None:
    for name in args.sets:
        print(name, write_lines(cases_path(name), (case.row() for case in makers.MAKERS[name]())), "cases")


def _ask(args: argparse.Namespace) -> int:
    if args.machine:
        cache().mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "bench.agreement", "ask", *(args.sets or sets())]
        machine = Path(__file__).parents[2] / "tests/vm/machine.py"
        how = ["--kernel", args.machine, "--seconds", str(args.seconds), "--keep", str(cache())]
        return subprocess.run([sys.executable, str(machine), *how, *command], check=False).returncode
    types_path(_running()).parent.mkdir(parents=True, exist_ok=True)
    types_path(_running()).write_bytes(Path(VMLINUX).read_bytes())
    for name in args.sets or sets():
        rows: list[dict[str, object]] = []
        by_caps = {row.get("caps", ALL) for row in read_lines(cases_path(name))}
        for caps in sorted(by_caps):
            with get_context("fork").Pool(1) as pool:
                rows += pool.apply(_ask_all, (name, caps))
        write_lines(oracle_path(_running(), name), rows)
        print(name, dict(Counter(row["verdict"] for row in rows)), flush=True)
    return 0


def _ask_all(name: str, caps: str) -> list[dict[str, object]]:
    from bench.agreement.oracle import Oracle, privileges

    from ebpf.kernels.linux import LinuxKernel

    with LinuxKernel() as kernel:
        oracle = Oracle(kernel)
        oracle.warm()
        privileges(caps)
        wanted = (Case.of(row) for row in read_lines(cases_path(name)) if row.get("caps", ALL) == caps)
        return [{"id": case.id, **oracle.ask(case).row()} for case in wanted]


def _cases(args: argparse.Namespace) -> Iterator[tuple[Case, Answer]]:
    from bench.agreement.run import asked

    for name in args.sets or sets():
        answers = asked(args.linux, name)
        for row in read_lines(cases_path(name)):
            if args.only in row["id"] and row["stage"] <= args.stage:
                answer = answers.get(row["id"])
                if answer is not None and answer.verdict != "environment":
                    yield Case.of(row), answer


def _run(args: argparse.Namespace) -> int:
    from bench.agreement.run import pairs

    found = list(pairs(_cases(args), args.linux, processes=args.processes, limit_s=args.limit))
    for pair in found:
        if any(_is(pair, kind) for kind in args.list.split(",")):
            print(f"{pair.case.id}  [{pair.case.name}]\n    kernel: {_line(pair.theirs)}\n    ours:   {_line(pair.ours)}")
    table = table_of(found, by_stage=args.by_stage)
    print(table.text())
    if args.why:
        for why, count in Counter(pair.ours.why for pair in found if pair.ours.why).most_common(60):
            print(f"{count:6} {why}")
    if args.keep:
        keep(args.linux, table)
    return check(args.linux, table) if args.ratchet else 0


def _is(pair: Pair, wanted: str) -> bool:
    if wanted == "message":
        return pair.kind == AGREE and pair.theirs.verdict == "refused" and not pair.same_message
    if wanted == "processed":
        return pair.kind == AGREE and not pair.same_count
    return bool(wanted) and pair.kind == wanted


def _line(answer: Answer) -> str:
    return f"{answer.verdict} ({answer.processed} insns, {answer.seconds * 1e3:.0f} ms) {answer.message} {answer.why}"


def _show(args: argparse.Namespace) -> int:
    from bench.agreement.show import show

    for name in sets():
        if args.id.startswith(name + "/"):
            for row in read_lines(cases_path(name)):
                if row["id"] == args.id:
                    show(Case.of(row), args.level, args.linux)
                    return 0
    print(f"no case {args.id}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
