"""`ebpf verify --fix`: a patch of the C source for a refusal, offered only when the program that comes of it is accepted."""

import os
from collections.abc import Callable
from difflib import unified_diff
from pathlib import Path

from ebpf.debug import explain
from ebpf.debug.fix import fixes
from ebpf.engine.program import Code, Verdict
from ebpf.errors import EbpfError
from ebpf.spec import ObjectSpec

#: So many refusals of one program are mended one after the other, each with so many tries.
_ROUNDS, _TRIES = 3, 12

#: Judges a program of an object.
Judge = Callable[[ObjectSpec], tuple[Code, Verdict]]


def patch_for(path: Path, code: Code, verdict: Verdict, judge: Judge) -> str:
    """A patch in unified form that applies to the file, or "" if none was found that makes `judge` accept the program."""
    before = path.read_text()
    after = _mended(path, before, code, verdict, judge, _ROUNDS)
    if after is None:
        return ""
    name = os.path.relpath(path) if path.resolve().is_relative_to(Path.cwd()) else str(path)
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    rows = unified_diff(old, new, f"a/{name.lstrip('/')}", f"b/{name.lstrip('/')}")
    return "".join(row if row.endswith("\n") else row + "\n\\ No newline at end of file\n" for row in rows)


def _mended(path: Path, text: str, code: Code, verdict: Verdict, judge: Judge, rounds: int) -> str | None:
    why = explain(code, verdict)
    if why.span is None or Path(why.span.path).name != path.name:
        return None
    further = []
    for count, changed in enumerate(fixes(text, code, verdict, why)):
        if count == _TRIES:
            break
        found = _try(path, changed, judge)
        if found is None:
            continue
        code_, verdict_ = found
        if verdict_.accepted:
            return changed
        if not verdict_.unknown and (verdict_.reason, verdict_.says) != (verdict.reason, verdict.says):
            further.append((changed, code_, verdict_))
    if rounds > 1:
        for changed, code_, verdict_ in further[:2]:
            after = _mended(path, changed, code_, verdict_, judge, rounds - 1)
            if after is not None:
                return after
    return None


def _try(path: Path, text: str, judge: Judge) -> tuple[Code, Verdict] | None:
    from ebpf.compile import compile_c
    from ebpf.elf import read_object

    try:
        return judge(read_object(compile_c(path, text=text, includes=(path.parent,)).object, str(path.with_suffix(".o"))))
    except EbpfError:
        return None
