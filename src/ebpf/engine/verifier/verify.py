"""The verifier's door: a program in, a verdict out, with a log in Linux's dialect."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath

from ebpf.engine.program import Code, SourceLine, Verdict
from ebpf.engine.verifier.explore import LIMIT, Explorer
from ebpf.engine.verifier.log import Log, name_call
from ebpf.engine.verifier.refusal import Refusal, Unjudged
from ebpf.engine.verifier.rules import NEWEST, Rules
from ebpf.engine.verifier.words import said


def verify(code: Code, *, log_level: int = 0, limit: int = LIMIT, rules: Rules = NEWEST) -> Verdict:
    """Judge a program: accepted means that it can run with no check of its own and does no harm.

    What this verifier does not know is neither accepted nor refused: `unknown` names it. `log_level` is bpf(2)'s: 1 for the
    path that failed, 2 for all of them, 4 for the statistics.
    """
    log = Log(log_level, _sources(code) if log_level else {})
    explorer: Explorer | None = None
    try:
        with _uncollected():
            explorer = Explorer(code, rules, log, limit)
            explorer.run()
    except Refusal as refusal:
        return _refused(code, rules, log, log_level, refusal, explorer)
    env = explorer.env
    text = ""
    if log_level:
        log.back(0)
        text = log.text() + _statistics(explorer)
    return Verdict(
        True,
        text,
        processed=explorer.processed,
        ctx_access=env.ctx_access,
        call_map={slot: fd for slot, fd in env.call_map.items() if fd >= 0},
        stack_depth={start: env.depth.get(start, 0) for start in explorer.structure.starts},
        btf_loads=frozenset(env.btf_loads),
        dead=frozenset(slot for slot, visits in enumerate(explorer.visits) if not visits),
    )


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keeps Python's collector of cycles away from a walk: it would look at all states again and again, and they go without it."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _sources(code: Code) -> dict[int, str]:
    """The lines of source by the slots where they begin, as the log has them."""
    names = {path: PurePath(path).name for path in {line.path for line in code.lines}}
    return {line.slot: f"{line.text.lstrip()} @ {names[line.path]}:{line.line}" for line in code.lines}


def _refused(code: Code, rules: Rules, log: Log, level: int, refusal: Refusal, explorer: Explorer | None) -> Verdict:
    line = line_at(code.lines, refusal.slot)
    refusal.says = said(rules, refusal.says)
    if not level & 3 and refusal.slot >= 0 and explorer is not None:
        # The instruction at least, so that the last line says of what it speaks.
        log.level = 1
        explorer.env.slot = refusal.slot
        if line is not None:
            log.say(f"; {line.text.strip()}")
        log.show(explorer.structure, refusal.slot)
    log.say(refusal.says)
    text = log.text() + (_statistics(explorer) if explorer is not None else "")
    return Verdict(
        False,
        text,
        refusal.cause,
        refusal.slot,
        line,
        explorer.processed if explorer is not None else 0,
        reason=refusal.reason,
        says=refusal.says,
        unknown=refusal.feature if isinstance(refusal, Unjudged) else "",
        facts=refusal.facts,
        path=_path(explorer, refusal.slot) if explorer is not None else (),
    )


#: A longer way to the refusal is told by its end.
_LONGEST = 10_000


def _path(explorer: Explorer, slot: int) -> tuple[int, ...]:
    out = [slot] if slot >= 0 else []
    history = explorer.env.state.history
    while history is not None and len(out) < _LONGEST:
        history, at, _ = history
        if at >= 0:
            out.append(at)
    return tuple(reversed(out))


def _statistics(explorer: Explorer) -> str:
    points = explorer.points
    return (
        f"processed {explorer.processed} insns (limit {LIMIT}) max_states_per_insn {points.most} "
        f"total_states {points.made} peak_states {points.kept} mark_read 0\n"
    )


def line_at(lines: tuple[SourceLine, ...], slot: int) -> SourceLine | None:
    """The source line that an instruction belongs to."""
    found = None
    for line in lines:
        if line.slot > slot:
            break
        found = line
    return found if slot >= 0 else None


__all__ = ["line_at", "name_call", "verify"]
