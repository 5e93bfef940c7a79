"""`ebpf verify FILE`: the verdict on the programs of an object or a C file, with no kernel."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ebpf.cli.context import Context
from ebpf.cli.jsonw import Json, dumps
from ebpf.cli.replay import read
from ebpf.cli.words import Words, number
from ebpf.engine.program import Code, MapDesc, SourceLine, Verdict
from ebpf.engine.verifier import verify
from ebpf.errors import NotFoundError, NotSupportedError, UsageError
from ebpf.isa import decode
from ebpf.spec import ObjectSpec, ProgramSpec, RelocKind

USAGE = """usage: ebpf verify FILE.c|FILE.o [--prog NAME] [--log-level 1]

Judge the programs of an object file, or of C source that is compiled first. Exit status: 0 all are accepted, 1 one is refused,
2 the input cannot be used, 3 one uses what is not judged yet."""


@dataclass(frozen=True, slots=True)
class _Judged:
    """A program and its verdict."""

    spec: ProgramSpec
    verdict: Verdict

    @property
    def word(self) -> str:
        """accepted, refused or unknown."""
        if self.verdict.accepted:
            return "accepted"
        return "unknown" if self.verdict.unknown else "refused"


def run(context: Context, argv: list[str]) -> int:
    """Judge and print; the exit status is the worst verdict's."""
    words = Words(argv)
    if not words or words.peek() in ("help", "-h", "--help"):
        print(USAGE)
        return 0
    path, wanted, level = None, "", 0
    while words:
        word = words.take("FILE")
        if word == "--prog":
            wanted = words.take(word)
        elif word == "--log-level":
            level = number(words.take(word), "log level")
        elif word in ("-j", "--json"):
            context.json = True
        elif word.startswith("-") or path is not None:
            raise UsageError(f"verify: unexpected '{word}'; ebpf verify help")
        else:
            path = Path(word)
    if path is None:
        raise UsageError("verify: which file?")
    spec = read(path)
    if wanted and wanted not in spec.programs:
        raise NotFoundError("program", wanted, where=str(path), near=list(spec.programs))
    judged = list(_judge(spec, wanted, level))
    if not judged:
        raise UsageError(f"{path}: no program in it")
    if context.json:
        context.write(dumps([_row(each) for each in judged], pretty=context.pretty))
    else:
        for each in judged:
            _show(context, each)
    found = {each.word for each in judged}
    return 1 if "refused" in found else 3 if "unknown" in found else 0


def _judge(spec: ObjectSpec, wanted: str, level: int) -> Iterator[_Judged]:
    for program in spec.programs.values():
        if not wanted or program.name == wanted:
            yield _Judged(program, verify(code_of(spec, program), log_level=level))


def code_of(spec: ObjectSpec, program: ProgramSpec) -> Code:
    """A program as the verifier takes it, its maps numbered instead of open. Raises NotSupportedError for later relocations."""
    numbers = {name: place + 1 for place, name in enumerate(spec.maps)}
    insns = list(decode(program.insns))
    index, slot = {}, 0
    for place, insn in enumerate(insns):
        index[slot] = place
        slot += insn.slots
    for reloc in program.relocs:
        if reloc.kind not in (RelocKind.MAP_FD, RelocKind.MAP_VALUE):
            raise NotSupportedError(f"program {program.name!r}", f"{reloc.symbol!r} of the kernel is not judged yet")
        insns[index[reloc.slot]] = replace(insns[index[reloc.slot]], imm=numbers[reloc.symbol])
    maps = {
        numbers[name]: MapDesc(numbers[name], m.type, m.key_size, m.value_size, m.max_entries, m.flags, m.name, m.frozen)
        for name, m in spec.maps.items()
    }
    lines = tuple(SourceLine(i.slot, i.path, i.line, i.column, i.text) for i in program.line_infos)
    gpl = program.license in ("GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL")
    return Code(tuple(insns), program.type, maps, program.name, gpl, program.attach_type or 0, lines)


def _says(verdict: Verdict) -> str:
    """The kernel's own line."""
    return verdict.says.split("\n")[-1]


def _row(each: _Judged) -> dict[str, Json]:
    verdict = each.verdict
    line = verdict.line
    span: Json = {"file": line.path, "line": line.line, "column": line.column} if line is not None else None
    return {
        "program": each.spec.name,
        "verdict": each.word,
        "cause": verdict.cause,
        "insn": verdict.insn,
        "span": span,
        "kernel_says": _says(verdict),
        "processed": verdict.processed,
    }


def _show(context: Context, each: _Judged) -> None:
    verdict = each.verdict
    if verdict.log and verdict.accepted:
        context.write(verdict.log.rstrip())
    if verdict.accepted:
        context.write(f"{each.spec.name}: accepted ({verdict.processed} instructions walked)")
        return
    context.write(f"{each.spec.name}: {each.word}: {verdict.cause}")
    if verdict.line is not None:
        line = verdict.line
        context.write(f"  {line.path}:{line.line}:{line.column}")
        context.write(f"    {line.text.strip()}")
    context.write(f"  at insn {verdict.insn}; the kernel says: {_says(verdict)}")
