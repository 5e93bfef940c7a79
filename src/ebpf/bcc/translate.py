"""BCC's dialect to plain C: the prelude's macros do the tables; here are the functions, which become programs.

The author's text stays as it is, but for ", 1" where `increment` has its default. What the dialect means beside it (entries
that take arguments out of registers, types of events, the licence) is appended after the text.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ebpf.bcc.layouts import tracepoint_struct
from ebpf.compile import Pch, ast_json, compile_c
from ebpf.elf import read_object
from ebpf.errors import CompileError, Diagnostic, NotSupportedError
from ebpf.spec import MapSpec, ObjectSpec, ProgramSpec
from ebpf.sys.kernel import Kernel
from ebpf.uapi import ProgType

INCLUDE = Path(__file__).parent / "include"
NAME = "/virtual/main.c"
_SECTION = "kprobe/bcc"
_LATER = (
    "BPF_STACK_TRACE BPF_STACK_TRACE_BUILDID BPF_LPM_TRIE BPF_PROG_ARRAY BPF_PERF_ARRAY BPF_CGROUP_ARRAY BPF_DEVMAP BPF_CPUMAP BPF_XSKMAP "
    "BPF_ARRAY_OF_MAPS BPF_HASH_OF_MAPS BPF_QUEUE BPF_STACK BPF_SK_STORAGE BPF_INODE_STORAGE BPF_TASK_STORAGE BPF_SOCKMAP BPF_SOCKHASH "
    "BPF_TABLE BPF_F_TABLE BPF_TABLE_PUBLIC BPF_TABLE_SHARED BPF_TABLE_PINNED KFUNC_PROBE KRETFUNC_PROBE LSM_PROBE lookup_or_init"
)
_REGISTERS = ("di", "si", "dx", "cx", "r8", "r9")
_SYSCALL_REGISTERS = ("di", "si", "dx", "r10", "r8", "r9")
#: How a function's name says what it is attached to: prefix, program type.
PREFIXES: dict[str, ProgType] = {
    "kprobe__": ProgType.KPROBE,
    "kretprobe__": ProgType.KPROBE,
    "tracepoint__": ProgType.TRACEPOINT,
    "raw_tracepoint__": ProgType.RAW_TRACEPOINT,
}


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the text that is a program: its parameters' types and names, without a name for `void`."""

    name: str
    result: str
    params: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Translated:
    """A compiled text: its object (programs and maps under the author's names) and the struct types of its events."""

    spec: ObjectSpec
    functions: tuple[str, ...]
    events: dict[str, int]


def translate(text: str, kernel: Kernel, *, cflags: Sequence[str] = ()) -> Translated:
    """Compile a BCC text. Raises CompileError in terms of the author's lines and columns, NotSupportedError for later parts."""
    _refuse_later(text)
    source, moved = _defaults(text)
    head = tracepoint_struct(source, kernel)
    pch = prelude(cflags)
    includes, flags = [str(INCLUDE)], [*cflags, *_QUIET]
    try:
        tree = ast_json(head + source, name=NAME, pch=pch, flags=flags, includes=includes)
    except CompileError as error:
        raise _at_author(error, moved, head.count("\n")) from None
    functions, events = _functions(tree), _events(tree)
    whole = head + source + _appendix(functions, events, text)
    compiled = compile_c(NAME, text=whole, pch=pch, flags=[*flags, "-w"], includes=includes)
    return _named(read_object(compiled.object, "main.o"), functions, events)


_QUIET = ("-Wno-address-of-packed-member", "-Wno-gnu-variable-sized-type-not-at-end", "-Wno-unused-function")


def prelude(cflags: Sequence[str]) -> Pch:
    """The prelude, precompiled (with the author's flags, which may define things)."""
    text = (INCLUDE / "prelude.h").read_text()
    return Pch.build(text, "prelude.h", flags=[*cflags, *_QUIET], includes=[str(INCLUDE)])


def _refuse_later(text: str) -> None:
    code = _without_comments(text)
    for name in _LATER.split():
        found = re.search(rf"(?<!\w){name}\s*\(", code)
        if found:
            line = code.count("\n", 0, found.start()) + 1
            hint = "lookup_or_try_init is" if name == "lookup_or_init" else None
            raise NotSupportedError(f"{NAME}:{line}: {name}", "this part of BCC's dialect is not built yet", hint=hint)


def _without_comments(text: str) -> str:
    """The text with comments and strings blanked, every other character in its place."""

    def blank(found: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", found[0])

    return re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', blank, text, flags=re.DOTALL)


def _defaults(text: str) -> tuple[str, list[tuple[int, int, int]]]:
    """Give `x.increment(key)` its default of 1, and tables with a number as leaf their counting form.

    The second part of the answer says what moved: (line, column after which, by how much).
    """
    code = _without_comments(text)
    inserts: list[tuple[int, str]] = []
    for found in re.finditer(r"\.\s*(?:atomic_)?increment\s*\(", code):
        end, commas = _closing(code, found.end())
        if end >= 0 and not commas:
            inserts.append((end, ", 1"))
    out, last, moved = [], 0, []
    for at, extra in sorted(inserts):
        out.append(text[last:at] + extra)
        last = at
        line = text.count("\n", 0, at) + 1
        moved.append((line, at - (text.rfind("\n", 0, at) + 1) + 1, len(extra)))
    return "".join(out) + text[last:], moved


def _closing(code: str, at: int) -> tuple[int, int]:
    """Where the parenthesis that opened before `at` closes, and how many commas stand directly inside."""
    depth, commas = 1, 0
    for place in range(at, len(code)):
        c = code[place]
        depth += (c in "([{") - (c in ")]}")
        if not depth:
            return place, commas
        commas += c == "," and depth == 1
    return -1, 0


def _at_author(error: CompileError, moved: list[tuple[int, int, int]], lines: int) -> CompileError:
    """The same diagnostics with the author's own lines and columns."""
    out = []
    for d in error.diagnostics:
        column = d.column - sum(by for line, after, by in moved if line == d.line - lines and d.column > after)
        line = d.line - lines if d.path == NAME and d.line else d.line
        out.append(Diagnostic(d.severity, d.message, d.path, line, column, d.excerpt))
    return CompileError(out, error.output)


# -- the syntax tree


def _walk(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for inner in node.get("inner", ()):
            yield from _walk(inner)


def _functions(tree: dict[str, Any]) -> list[Function]:
    """The functions that are programs: with a body, not static."""
    out = []
    for node in tree.get("inner", ()):
        if node.get("kind") != "FunctionDecl" or node.get("storageClass") == "static" or node.get("isImplicit"):
            continue
        inner = node.get("inner", ())
        if not any(i.get("kind") == "CompoundStmt" for i in inner):
            continue
        params = tuple((p["type"]["qualType"], p.get("name", "")) for p in inner if p.get("kind") == "ParmVarDecl")
        if len(params) > 7:
            line = node.get("loc", {}).get("line", 0)
            raise CompileError([Diagnostic("error", "too many arguments, bcc only supports in-register parameters", NAME, line, 0)])
        out.append(Function(node["name"], node["type"]["qualType"].split("(")[0].strip(), params))
    return out


def _events(tree: dict[str, Any]) -> dict[str, str]:
    """The type of what is given to each output table."""
    out: dict[str, str] = {}
    for node in _walk(tree):
        if node.get("kind") != "CallExpr":
            continue
        inner = node.get("inner", [])
        member = next((n for n in _walk(inner[0]) if n.get("kind") == "MemberExpr"), None) if inner else None
        if member is None or member.get("name") not in ("perf_submit", "ringbuf_output", "ringbuf_submit"):
            continue
        table = next((n["referencedDecl"]["name"] for n in _walk(member) if n.get("kind") == "DeclRefExpr"), "")
        place = 2 if member["name"] == "perf_submit" else 1
        if place >= len(inner):
            continue
        for argument in _walk(inner[place]):
            name = argument.get("type", {}).get("qualType", "")
            if name.endswith("*") and not name.startswith("void"):
                out.setdefault(table, name[:-1].strip())
                break
    return out


# -- what is appended


def _appendix(functions: Sequence[Function], events: dict[str, str], text: str) -> str:
    lines = ["", '#line 1 "/virtual/entries.c"']
    for place, function in enumerate(functions):
        lines.append(_entry(function, place))
    for table, name in events.items():
        lines.append(f'{name} *{table}__event __attribute__((section("bcc.types"), used)) = 0;')
    licence = re.search(r"^\s*#define\s+BPF_LICENSE\s+(.+?)\s*$", text, re.MULTILINE)
    lines.append(f'char _license[] SEC("license") = "{licence[1] if licence else "GPL"}";')
    return "\n".join(lines) + "\n"


def _entry(function: Function, place: int) -> str:
    """The program that calls a function with its arguments out of the registers."""
    name, params = function.name, function.params
    context = params[0][0] if params else "void *"
    call = "ctx"
    body = ""
    if len(params) > 1:
        is_syscall = name.startswith(("syscall__", "kprobe____x64_sys_", "kprobe__sys_"))
        context = "struct pt_regs *"
        arguments = []
        for (type_, _), register, syscall in zip(params[1:], _REGISTERS, _SYSCALL_REGISTERS, strict=False):
            if is_syscall:
                body += f"unsigned long __{syscall} = 0; bpf_probe_read_kernel(&__{syscall}, 8, &regs->{syscall}); "
                arguments.append(f"({type_})__{syscall}")
            else:
                arguments.append(f"({type_})ctx->{register}")
        if is_syscall:
            body = "struct pt_regs *regs = (void *)ctx->di; " + body
        call = ", ".join([f"({params[0][0]})ctx", *arguments])
    value = "" if function.result == "void" else "return "
    end = " return 0;" if function.result == "void" else ""
    star = "" if context.endswith("*") else " "
    section = f'__attribute__((section("{_SECTION}/{place}"), used))'
    return f"{section} int bcc_entry_{place}({context}{star}ctx) {{ {body}{value}{name}({call if params else ''});{end} }}"


# -- the object under the author's names


def _named(spec: ObjectSpec, functions: Sequence[Function], events: dict[str, str]) -> Translated:
    maps: dict[str, MapSpec] = {}
    used = {r.symbol for p in spec.programs.values() for r in p.relocs}
    for name, row in spec.maps.items():
        if row.section != ".maps" and name not in used:
            # A string that the compiler turned into immediates leaves its section behind.
            continue
        plain = name.removesuffix("__map")
        maps[plain] = replace(row, name=plain[:15] if not row.section.startswith((".data", ".bss", ".rodata")) else row.name)
    programs: dict[str, ProgramSpec] = {}
    for place, function in enumerate(functions):
        entry = spec.programs[f"bcc_entry_{place}"]
        prefix = next((p for p in PREFIXES if function.name.startswith(p)), "")
        relocs = tuple(r._replace(symbol=r.symbol.removesuffix("__map")) for r in entry.relocs)
        programs[function.name] = replace(
            entry,
            name=function.name.removeprefix(prefix) or function.name,
            section=prefix or "kprobe",
            type=int(PREFIXES.get(prefix, ProgType.KPROBE)),
            relocs=relocs,
        )
    types: dict[str, int] = {}
    if spec.btf is not None:
        from ebpf.btf import Kind

        for table in events:
            var = spec.btf.find(f"{table}__event", Kind.VAR)
            if var is not None:
                types[table] = spec.btf.resolve(var.ref).ref
    named = replace(spec, maps=maps, programs=programs, path=NAME)
    return Translated(named, tuple(f.name for f in functions), types)
