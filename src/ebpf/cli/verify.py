"""`ebpf verify FILE`: the verdict on the programs of an object or a C file, with no kernel."""

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ebpf.btf import Btf
from ebpf.cli.code import code_of
from ebpf.cli.context import Context
from ebpf.cli.fixes import patch_for
from ebpf.cli.jsonw import Json, dumps
from ebpf.cli.replay import read
from ebpf.cli.words import Words, number
from ebpf.debug import Explanation, Span, explain
from ebpf.engine.program import Code, Verdict
from ebpf.engine.verifier import RULES, Rules, verify
from ebpf.errors import EbpfError, FormatError, NotFoundError, UsageError, near
from ebpf.spec import ObjectSpec, ProgramSpec
from ebpf.sys.kernel import VMLINUX
from ebpf.uapi import ProgType

USAGE = """usage: ebpf verify FILE.c|FILE.o [--prog NAME] [--type SECTION] [--linux VERSION,...] [--btf FILE] [--bpf-only]
                   [--fix] [--log-level LEVEL] [--json|--sarif]

Judge the programs of an object file, or of C source that is compiled first, as Linux of a version would: {versions}
(without one the running kernel's, if it is among them, else the newest). A refusal is explained; ebpf explain ID says more of its
kind. Kernel objects are judged by the types of the kernel, which --btf names (a vmlinux.btf); without it those of the running
kernel serve for its own version. --type says what programs are whose own section does not: xdp, tc, kprobe/vfs_read.
--bpf-only judges what a program may do that is loaded with CAP_BPF, but without CAP_PERFMON.
--fix adds a patch of the C source for each refusal that it can mend: what comes of it was compiled and accepted (apply it with
patch -p1). --log-level 1 adds the log of the way that failed, 2 of all ways, 4 the statistics.

Exit status: 0 all are accepted, 1 one is refused, 2 the input cannot be used, 3 one uses what is not judged yet."""


_UNUSABLE = 2


@dataclass(frozen=True, slots=True)
class _Judged:
    """A program, the version that judged it, and the verdict."""

    spec: ProgramSpec
    code: Code
    rules: Rules
    verdict: Verdict
    patch: str = ""

    @property
    def word(self) -> str:
        """accepted, refused or unknown."""
        if self.verdict.accepted:
            return "accepted"
        return "unknown" if self.verdict.unknown else "refused"

    @property
    def explanation(self) -> Explanation | None:
        """Why it was not accepted."""
        return None if self.verdict.accepted else explain(self.code, self.verdict)


def run(context: Context, argv: list[str]) -> int:
    """Judge and print; the exit status is the worst verdict's."""
    words = Words(argv)
    if not words or words.peek() in ("help", "-h", "--help"):
        print(USAGE.format(versions=", ".join(RULES)))
        return 0
    path, wanted, section, level, versions, sarif, types, fix, privileged = None, "", "", 0, "", False, None, False, True
    while words:
        word = words.take("FILE")
        if word == "--prog":
            wanted = words.take(word)
        elif word == "--type":
            section = words.take(word)
        elif word == "--log-level":
            level = number(words.take(word), "log level")
        elif word == "--linux":
            versions = words.take(word)
        elif word == "--fix":
            fix = True
        elif word == "--bpf-only":
            privileged = False
        elif word == "--btf":
            types = Path(words.take(word))
        elif word in ("-j", "--json"):
            context.json = True
        elif word == "--sarif":
            sarif = True
        elif word.startswith("-") or path is not None:
            raise UsageError(f"verify: unexpected '{word}'; ebpf verify help")
        else:
            path = Path(word)
    if path is None:
        raise UsageError("verify: which file?")
    rules = _rules(versions)
    if fix and path.suffix != ".c":
        raise UsageError("verify: --fix changes C source; give the .c file")
    kernel = _Kernel(types, privileged=privileged)
    try:
        judged = list(_judge(_typed(_read(path, wanted), section), wanted, level, rules, kernel))
        if fix:
            judged = [_with_patch(each, path, kernel) for each in judged]
    except (EbpfError, OSError) as error:
        return unusable(context, error)
    if sarif:
        context.write(dumps(_sarif(judged), pretty=True))
    elif context.json:
        context.write(dumps([_row(each) for each in judged], pretty=context.pretty))
    else:
        _print(context, judged, rules, level)
    found = {each.word for each in judged}
    return 1 if "refused" in found else 3 if "unknown" in found else 0


def _read(path: Path, wanted: str) -> ObjectSpec:
    spec = read(path)
    if wanted and wanted not in spec.programs:
        raise NotFoundError("program", wanted, where=str(path), near=near(wanted, spec.programs, count=3))
    if not spec.programs:
        raise FormatError("no program in it", path=str(path))
    return spec


def _typed(spec: ObjectSpec, section: str) -> ObjectSpec:
    """The object with what its programs are whose section does not say it."""
    for name in [name for name, program in spec.programs.items() if section and program.type == ProgType.UNSPEC]:
        spec = spec.with_program(name, section=section)
    return spec


def unusable(context: Context, error: Exception) -> int:
    """Say what is wrong with the input; the exit status of that."""
    from ebpf.cli.main import report_any

    def fail() -> int:
        raise error

    report_any(context, fail)
    return _UNUSABLE


def _rules(versions: str) -> list[Rules]:
    if not versions:
        return [RULES.get(_running(), next(iter(RULES.values())))]
    out = []
    for version in versions.split(","):
        rules = RULES.get(version.strip())
        if rules is None:
            raise UsageError(f"verify: Linux '{version}' is not known here; known are {', '.join(RULES)}")
        out.append(rules)
    return out


def _running() -> str:
    """The version of the running Linux."""
    return ".".join(platform.release().split(".")[:2]) if platform.system() == "Linux" else ""


class _Kernel:
    """The types of the kernel, read when they are needed: of the file `path`, or of the running kernel for its own version.

    Not `privileged`: programs are loaded into it without CAP_PERFMON.
    """

    def __init__(self, path: Path | None, *, privileged: bool) -> None:
        self.privileged = privileged
        self._path = path
        self._types: Btf | None = None

    def types(self, rules: Rules) -> Btf | None:
        """The types that a version is judged by, if they are known. Raises FormatError."""
        path = self._path or (Path(VMLINUX) if rules.name == _running() else None)
        if self._types is None and path is not None and (self._path is not None or path.is_file()):
            self._types = Btf.parse(path.read_bytes(), str(path))
        return self._types if path is not None else None


def _judge(spec: ObjectSpec, wanted: str, level: int, rules: list[Rules], kernel: _Kernel) -> Iterator[_Judged]:
    for program in spec.programs.values():
        if not wanted or program.name == wanted:
            if program.type == ProgType.UNSPEC:
                why = f"section {program.section!r} is no section name of a program, so that nothing says what it may do (--type does)"
                free = Code((), program.type, {}, program.name)
                yield from (_Judged(program, free, each, Verdict(False, cause=why, unknown=why)) for each in rules)
                continue
            for each in rules:
                yield _Judged(program, *_judge_one(spec, program, level, each, kernel))


def _judge_one(spec: ObjectSpec, program: ProgramSpec, level: int, rules: Rules, kernel: _Kernel) -> tuple[Code, Rules, Verdict]:
    code = code_of(spec, program, version=rules.name, privileged=kernel.privileged)
    verdict = verify(code, log_level=level, rules=rules)
    if program.core_relocs or verdict.unknown:
        # Only now is it worth reading all the types of a kernel.
        types = kernel.types(rules)
        if types is not None:
            code = code_of(spec, program, types, version=rules.name, privileged=kernel.privileged)
            verdict = verify(code, log_level=level, rules=rules)
    return code, rules, verdict


def _with_patch(each: _Judged, path: Path, kernel: _Kernel) -> _Judged:
    """A refusal with a patch that mends it, if one is found."""
    if each.word != "refused":
        return each

    def judge(spec: ObjectSpec) -> tuple[Code, Verdict]:
        program = spec.programs.get(each.spec.name)
        if program is None:
            raise NotFoundError("program", each.spec.name)
        program = _typed(spec, each.spec.section).programs[program.name]
        code, _, verdict = _judge_one(spec, program, 0, each.rules, kernel)
        return code, verdict

    return replace(each, patch=patch_for(path, each.code, each.verdict, judge))


# -- for programs


def _place(span: Span | None) -> Json:
    return {"file": span.path, "line": span.line, "column": span.column} if span is not None else None


def _row(each: _Judged) -> dict[str, Json]:
    verdict, why = each.verdict, each.explanation
    related: list[Json] = []
    if why is not None:
        related = [{"file": span.path, "line": span.line, "column": span.column, "label": span.label} for span in why.related]
    return {
        "program": each.spec.name,
        "linux": each.rules.name,
        "verdict": each.word,
        "id": why.id if why is not None else None,
        "name": why.name if why is not None else None,
        "cause": verdict.cause,
        "insn": verdict.insn,
        "span": _place(why.span) if why is not None else None,
        "related": related,
        "obligation": why.obligation if why is not None else "",
        "advice": why.advice if why is not None else "",
        "fix": each.patch,
        "kernel_says": why.kernel_says if why is not None else "",
        "processed": verdict.processed,
    }


def _sarif(judged: list[_Judged]) -> dict[str, Json]:
    """The refusals in SARIF 2.1.0, which editors and code hosts show at the lines."""
    results: list[Json] = []
    kinds: dict[str, Json] = {}
    for each in judged:
        why = each.explanation
        if why is None:
            continue
        kinds[why.id] = {"id": why.id, "name": why.name, "shortDescription": {"text": why.title}}
        places: list[Json] = [_location(why.span)] if why.span is not None else []
        results.append(
            {
                "ruleId": why.id,
                "level": "error" if each.word == "refused" else "warning",
                "message": {"text": f"{each.spec.name} (Linux {each.rules.name}): {why.cause}"},
                "locations": places,
                "relatedLocations": [_location(span) for span in why.related],
            }
        )
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": {"name": "ebpf verify", "rules": list(kinds.values())}}, "results": results}],
    }


def _location(span: Span) -> Json:
    return {
        "physicalLocation": {
            "artifactLocation": {"uri": span.path},
            "region": {"startLine": span.line, "startColumn": max(span.column, 1)},
        },
        "message": {"text": span.label},
    }


# -- for people


def _print(context: Context, judged: list[_Judged], rules: list[Rules], level: int) -> None:
    if len(rules) > 1:
        names = list(dict.fromkeys(each.spec.name for each in judged))
        width = max(len(name) for name in names)
        context.write(" " * width + "".join(f"  {each.name:<8}" for each in rules).rstrip())
        for name in names:
            row = [each for each in judged if each.spec.name == name]
            context.write(f"{name:<{width}}" + "".join(f"  {each.word:<8}" for each in row).rstrip())
    shown: set[tuple[str, str]] = set()
    for each in judged:
        if each.verdict.log and each.verdict.accepted:
            context.write(each.verdict.log.rstrip())
        if each.verdict.accepted:
            if len(rules) == 1:
                context.write(f"{each.spec.name}: accepted ({each.verdict.processed} instructions walked)")
            continue
        why = each.explanation
        assert why is not None
        if (each.spec.name, why.cause) in shown:
            continue
        shown.add((each.spec.name, why.cause))
        if level:
            context.write(each.verdict.log.rstrip())
        context.write("\n".join(_explained(each, why)))


def _explained(each: _Judged, why: Explanation) -> list[str]:
    """A refusal as text, in the manner of compilers."""
    head = "not judged" if each.word == "unknown" else f"refused [{why.id}]"
    out = [f"{each.spec.name}: {head}: {why.cause}"]
    spans = ([(why.span, True)] if why.span is not None else []) + [(span, False) for span in why.related]
    if spans:
        width = len(str(max(span.line for span, _ in spans)))
        path = ""
        for span, primary in spans:
            if span.path != path:
                path = span.path
                out.append(f"{' ' * width}--> {_nearest(path)}:{span.line}:{span.column}")
            text = span.text.expandtabs(4)
            lead = len(text) - len(text.lstrip())
            out.append(f"{span.line:>{width}} | {text.strip()}")
            mark = max(span.column - 1 - lead, 0) if span.column else 0
            mark = min(mark, max(len(text.strip()) - 1, 0))
            sign = "^" if primary else "-"
            out.append(f"{' ' * width} | {' ' * mark}{sign * max(1, _word(text.strip(), mark))} {span.label}")
    if why.obligation:
        out.append(f"  needed: {why.obligation}")
    if why.advice:
        rows = why.advice.split("\n")
        out.append(f"  try: {rows[0]}")
        out.extend(f"       {row}" for row in rows[1:])
    if each.patch:
        out.append("  this patch was verified:")
        out.extend(each.patch.rstrip("\n").split("\n"))
    if why.kernel_says:
        out.append(f"  Linux {each.rules.name} says: {why.kernel_says} (insn {why.insn}; ebpf explain {why.id})")
    return out


def _nearest(path: str) -> str:
    """A path as people would type it here."""
    here = os.getcwd() + os.sep
    return path.removeprefix(here)


def _word(text: str, at: int) -> int:
    """How long the word at a column is."""
    end = at
    while end < len(text) and (text[end].isalnum() or text[end] in "_->."):
        end += 1
    return end - at
