"""Interpreter = machine code = Linux: programs by chance, run by all three from the same maps and packet. Some seeds make two or three
programs: the first jumps to the others.

    python -m fuzz [--count N] [--seed N] [--engines interp,jit,linux] [--show N] [--states]

Exit status 1 if they differ on any program. A program that one refuses is counted, and is a difference if another takes it.
With --states the interpreter alone runs each, and at each instruction its registers must lie in what the verifier said of them.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from multiprocessing import get_context

from fuzz import soundness
from fuzz.agree import ENGINES, part

_PART = 500


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engines", default="interp,jit,linux")
    parser.add_argument("--show", type=int, default=1, help="how many differences of each 500 programs are made small and printed")
    parser.add_argument("--states", action="store_true", help="the verifier's states against the interpreter's registers")
    options = parser.parse_args()
    names = [name for name in ENGINES if name in options.engines.split(",")]
    end = options.seed + options.count
    parts = [range(at, min(at + _PART, end)) for at in range(options.seed, end, _PART)]
    work = soundness.part if options.states else partial(part, names=names, show=options.show)
    if options.states:
        os.environ["EBPF_ENGINE"] = "interp"
    begin = time.monotonic()
    total: Counter[str] = Counter()
    # A process for each part, with a cache of its own: LLVM keeps some memory of each compilation, and nobody wants the images.
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            for counts in pool.imap(work, parts):
                total += counts
                print(
                    f"{time.monotonic() - begin:.0f} s: {total['programs']} programs of {total['seeds']} seeds, {total['same']} the same",
                    file=sys.stderr,
                    flush=True,
                )
                shutil.rmtree(os.path.join(cache, "ebpf", "jit"), ignore_errors=True)
    print(f"{time.monotonic() - begin:.0f} s:", ", ".join(f"{name} {count}" for name, count in total.items()))
    return 1 if total["seeds"] > total["same"] + total["skipped"] else 0


if __name__ == "__main__":
    sys.exit(main())
