"""The words of a C text and of the files of the user's that it includes: what tells which of a kernel's types it needs."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

_NOT_CODE = re.compile(r'//(?:[^\n\\]|\\.)*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)
_COMMENT = re.compile(r'("(?:\\.|[^"\\\n])*")|//(?:[^\n\\]|\\.)*|/\*.*?\*/', re.DOTALL)
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"\n]+)[>"].*$', re.MULTILINE)
_WORD = re.compile(r"[A-Za-z_]\w*")
_TAGGED = re.compile(r"\b(?:struct|union|enum)\s+([A-Za-z_]\w*)")
_PASTED = re.compile(r"\b(?:struct|union|enum)\s+(?:\w+\s*)?##")
_DEFINED = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)|\b([A-Za-z_]\w*)\s*=(?!=)", re.MULTILINE)
_ENUMERATORS = re.compile(r"\benum\b[^{};()]*\{([^}]*)\}")
_DIRECTIVE = re.compile(r"^[ \t]*#(?:[^\n\\]|\\.)*", re.MULTILINE | re.DOTALL)
_CALLED = re.compile(r"\b([A-Za-z_]\w*)\s*\(")
_NAMED = re.compile(r"\w[\s*]+([A-Za-z_]\w*)\s*\(")
_PLACED = re.compile(r"\b(\w+)\s*(?:\[[^\]]*\]\s*)*SEC\s*\(")
_LARGEST = 1 << 24


@dataclass(slots=True)
class Text:
    """What was found: all words, those after struct, union or enum, those that the text gives a meaning itself, what it includes.

    `declared` are functions of the kernel's (`__ksym`) that the text declares itself, `missing` the headers that no folder of the
    user's has; `pasted` says that names of types are put together by macros.
    """

    words: set[str] = field(default_factory=set)
    tagged: set[str] = field(default_factory=set)
    defined: set[str] = field(default_factory=set)
    declared: set[str] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)
    pasted: bool = False

    def add(self, text: str) -> None:
        """Take in the words of a text."""
        code = _NOT_CODE.sub(" ", _INCLUDE.sub("", text))
        self.words.update(_WORD.findall(code))
        self.tagged.update(_TAGGED.findall(code))
        self.defined.update(a or b for a, b in _DEFINED.findall(code))
        self.defined.update(_PLACED.findall(code))
        parts = re.split(r"([;{}])", _DIRECTIVE.sub("", code))
        for statement, end in zip(parts[::2], parts[1::2], strict=False):
            if end == "{":
                self.defined.update(_NAMED.findall(statement))
            elif "__ksym" in statement and (name := _CALLED.search(statement)):
                self.declared.add(name[1])
        for body in _ENUMERATORS.findall(code):
            self.defined.update(_WORD.findall(body))
        self.pasted = self.pasted or bool(_PASTED.search(code))


def read_text(text: str, folder: str, folders: Sequence[str | os.PathLike[str]]) -> Text:
    """The words of `text`, which stands in `folder`, and of what it includes from there or from `folders`."""
    out = Text()
    seen: set[Path] = set()
    waiting = [(text, Path(folder or "."))]
    while waiting:
        code, here = waiting.pop()
        out.add(code)
        for quote, name in _INCLUDE.findall(_COMMENT.sub(r"\1", code)):
            places = [*([here] if quote == '"' else []), *map(Path, folders)]
            found = next((place / name for place in places if (place / name).is_file()), None)
            if found is None:
                if name not in out.missing:
                    out.missing.append(name)
            elif found.resolve() not in seen and found.stat().st_size < _LARGEST:
                seen.add(found.resolve())
                waiting.append((found.read_text("utf-8", "replace"), found.parent))
    return out
