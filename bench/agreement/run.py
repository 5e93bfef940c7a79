"""Run a verifier over the cases, in parallel, each with a time limit."""

import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

from bench.agreement.case import Answer, Case
from bench.agreement.compare import CRASH, TIMEOUT, Pair
from bench.agreement.folder import oracle_path, read_lines

#: What is compared: a callable of a case and a profile.
Verifier = Callable[[Case, str], Answer]
_MEMORY = 6 << 30


class _OutOfTime(BaseException):
    """Raised by the timer; no `except Exception` of the verifier's stops it."""


def one(verify: Verifier, case: Case, profile: str, limit_s: float) -> Answer:
    """The answer of a verifier; "crash" or "timeout" when there is none."""

    def over(*_: object) -> None:
        raise _OutOfTime

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    begin = time.perf_counter()
    try:
        answer = verify(case, profile)
    except _OutOfTime:
        answer = Answer(TIMEOUT, why=f"no verdict in {limit_s:g} s")
    except (Exception, RecursionError) as error:  # noqa: BLE001  # whatever it raises is a finding
        frames = traceback.extract_tb(error.__traceback__)
        answer = Answer(CRASH, why=f"{type(error).__name__}: {error} at {frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return replace(answer, seconds=time.perf_counter() - begin)


def _job(job: tuple[dict[str, Any], dict[str, Any], str, float]) -> dict[str, Any]:
    from bench.agreement.ours import verify

    case, _, profile, limit_s = job
    return replace(one(verify, Case.of(case), profile, limit_s), log="").row()


def _begin() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))


def pairs(cases: Iterable[tuple[Case, Answer]], profile: str, *, processes: int, limit_s: float) -> Iterator[Pair]:
    """Our answers beside theirs, in the order of the cases."""
    listed = list(cases)
    jobs = [(case.row(), theirs.row(), profile, limit_s) for case, theirs in listed]
    with ProcessPoolExecutor(processes, get_context("spawn"), _begin) as pool:
        answers = pool.map(_job, jobs, chunksize=max(1, min(16, len(jobs) // (4 * processes))))
        for (case, theirs), answer in zip(listed, answers, strict=True):
            yield Pair(case, theirs, Answer.of(answer))


def asked(kernel: str, name: str) -> dict[str, Answer]:
    """What a kernel said to the cases of a set, by their id. Raises FileNotFoundError where it was not asked."""
    return {row["id"]: Answer.of(row) for row in read_lines(oracle_path(kernel, name))}
