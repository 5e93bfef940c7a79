"""clang's syntax tree of a text, as JSON: what the BCC dialect is translated by."""

import json
import os
from collections.abc import Sequence
from typing import Any

from ebpf.compile.c import beside, failure, options, parse_diagnostics
from ebpf.compile.pch import Pch
from ebpf.errors import Diagnostic
from ebpf.toolchain import Clang, find_clang, run

_STDIN = "<stdin>"


def ast_json(
    text: str,
    *,
    name: str = "<text>",
    pch: Pch | None = None,
    flags: Sequence[str] = (),
    includes: Sequence[str | os.PathLike[str]] = (),
    defines: Sequence[str] = (),
    clang: Clang | None = None,
) -> dict[str, Any]:
    """Return clang's syntax tree of `text`: a TranslationUnitDecl whose `offset`s count bytes of the text in UTF-8.

    With `pch` it holds only the text's own declarations. As clang writes them, `file` and `line` stand only where they change, and
    the file of the text is "<stdin>".

    Raises CompileError if the text does not parse; `tree_and_diagnostics` gives what there is of a tree even so.
    """
    tree, diagnostics, output = _parse(text, name, pch, options_of(pch, flags, includes, defines, clang), clang)
    if any(row.severity in ("error", "fatal error") for row in diagnostics) or tree is None:
        raise failure(diagnostics, output)
    return tree


def tree_and_diagnostics(
    text: str,
    *,
    name: str = "<text>",
    pch: Pch | None = None,
    flags: Sequence[str] = (),
    includes: Sequence[str | os.PathLike[str]] = (),
    defines: Sequence[str] = (),
    clang: Clang | None = None,
) -> tuple[dict[str, Any], tuple[Diagnostic, ...]]:
    """As `ast_json`, but a text with errors gives the tree that clang could recover, and its diagnostics."""
    tree, diagnostics, output = _parse(text, name, pch, options_of(pch, flags, includes, defines, clang), clang)
    if tree is None:
        raise failure(diagnostics, output)
    return tree, diagnostics


def options_of(
    pch: Pch | None, flags: Sequence[str], includes: Sequence[str | os.PathLike[str]], defines: Sequence[str], clang: Clang | None
) -> list[str]:
    """clang's options for parsing alone."""
    return options(clang or find_clang(), flags=flags, includes=includes, defines=defines, pch=pch)


def _parse(
    text: str, name: str, pch: Pch | None, chosen: list[str], clang: Clang | None
) -> tuple[dict[str, Any] | None, tuple[Diagnostic, ...], str]:
    clang = clang or find_clang()
    command = [*clang.command, *chosen, *beside(name), "-fsyntax-only", "-Xclang", "-ast-dump=json", "-x", "c", "-"]
    answer = run(command, stdin=text.encode())
    output = answer.stderr.decode("utf-8", "replace")
    names = {_STDIN: name, **({str(pch.header): pch.name} if pch else {})}
    diagnostics = parse_diagnostics(output, names)
    return (json.loads(answer.stdout) if answer.stdout.startswith(b"{") else None), diagnostics, output
