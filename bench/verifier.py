"""Instructions that the verifier walks in a second: pure Python, and the compiled modules of EBPF_MYPYC=1, in the same run.

    python bench/verifier.py [--rounds N] [--limit N] [--programs]

The programs: those of Debian's xdp-tools, and selftests of Linux 6.12 that are as large as Cilium's programs (both fetched by apt into the
cache of bench/agreement, as root, the first time). A round is a process that judges all of them; the median of rounds counts, of processor
time, and what reads the programs is not counted. The wheel is built here, from a copy of the sources.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.agreement import corpus, objects
from bench.agreement.case import Case
from bench.agreement.folder import cache, read_lines, write_lines
from bench.agreement.ours import code_of
from bench.wheel import unpacked

TOP = Path(__file__).parents[1]
TARGET = {"pure": 50_000, "compiled": 180_000}
LARGE = (
    *("pyperf50", "pyperf100", "pyperf180", "pyperf_subprogs", "strobemeta_nounroll1", "strobemeta_nounroll2", "strobemeta_subprogs"),
    *("test_cls_redirect", "test_cls_redirect_subprogs", "test_l4lb", "test_l4lb_noinline", "test_xdp_noinline", "bpf_flow"),
    *("test_tcp_hdr_options", "test_seg6_loop", "loop1", "loop6", "xdp_synproxy_kern", "test_verif_scale1"),
)


def programs() -> Path:
    """The file with the cases."""
    path = cache() / "speed.jsonl"
    if not path.exists():
        found = [*objects.cases("selftests", "6.12", lambda name: name.removesuffix(".c") in LARGE), *corpus.xdp_tools()]
        write_lines(path, (case.row() for case in found))
    return path


def one_round(limit: int) -> None:
    """In a process of its own: judge all, print (set, program, instructions, seconds) of each as JSON."""
    from ebpf.engine.verifier import NEWEST, num, verify

    rows = []
    for row in read_lines(cache() / "speed.jsonl"):
        case = Case.of(row)
        code = code_of(case, NEWEST.name)
        begin = time.process_time()
        verdict = verify(code, limit=limit)
        rows.append((case.set, case.id, verdict.processed, time.process_time() - begin))
    print(json.dumps({"file": num.__file__, "rows": rows}))


def measure(limit: int, path: Path) -> list[tuple[str, str, int, float]]:
    """A round with the package that lies in `path`."""
    env = {**os.environ, "PYTHONPATH": str(path)}
    words = [sys.executable, __file__, "--one", "--limit", str(limit)]
    said = json.loads(subprocess.run(words, env=env, check=True, capture_output=True, text=True).stdout)
    assert said["file"].startswith(str(path)), said["file"]
    return [(kind, name, count, took) for kind, name, count, took in said["rows"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=int, default=200_000, help="no more instructions of one program")
    parser.add_argument("--programs", action="store_true", help="also each program that takes more than 2,000")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one_round(args.limit)
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        print("this needs root (bpf(2)) and apt, for the programs")
        return
    programs()
    with tempfile.TemporaryDirectory() as folder:
        begin = time.monotonic()
        places = {"pure": TOP / "src", "compiled": unpacked(Path(folder))}
        print(f"the wheel took {time.monotonic() - begin:.0f} s to build")
        rounds: dict[str, list[list[tuple[str, str, int, float]]]] = {name: [] for name in places}
        for _ in range(args.rounds):
            for name, place in places.items():
                rounds[name].append(measure(args.limit, place))
    kinds = sorted({row[0] for row in rounds["pure"][0]})
    for kind in [*kinds, "all"]:
        speed = {}
        for name, found in rounds.items():
            chosen = [[row for row in rows if kind in (row[0], "all")] for rows in found]
            speed[name] = statistics.median(sum(row[2] for row in rows) / sum(row[3] for row in rows) for rows in chosen)
        walked = sum(row[2] for row in chosen[0])
        print(f"{kind:<10} {walked:>9,} insns", end="")
        print("".join(f"  {name} {each:>8,.0f} insns/s" for name, each in speed.items()), f" x {speed['compiled'] / speed['pure']:.1f}")
    print("targets   ", "".join(f"  {name} {each:>8,} insns/s" for name, each in TARGET.items()))
    if args.programs:
        for at, (_, name, count, _) in enumerate(rounds["pure"][0]):
            if count > 2_000:
                pure, fast = (statistics.median(count / rows[at][3] for rows in rounds[each]) for each in places)
                print(f"{name:<70} {count:>8,} insns  {pure:>8,.0f}  {fast:>9,.0f} insns/s  x {fast / pure:.1f}")


if __name__ == "__main__":
    main()
