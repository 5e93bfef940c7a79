"""Changing BTF that is there: words in place, types and strings added behind."""

import struct

from ebpf.btf.parse import MAGIC, Btf
from ebpf.btf.types import Kind
from ebpf.errors import FormatError


class Editor:
    """A copy of a BTF that can be changed; `build` parses what came of it. Ids stay what they were."""

    def __init__(self, btf: Btf) -> None:
        self._btf = btf
        self._words = btf.all_words()
        self._strings = bytearray(btf.all_strings() or b"\0")
        self._count = len(btf)
        self.changed = False

    def set(self, id_: int, word: int, value: int) -> None:
        """Put a value into word number `word` of a type (0 its name, 1 info, 2 size or reference, then what the kind has).

        Raises FormatError for a value that 32 bits do not hold.
        """
        if not 0 <= value < 1 << 32:
            raise FormatError(f"{value} does not fit into 32 bits", path=self._btf.path, where=f"BTF type {id_}")
        at = self._btf.place(id_) + word
        if self._words[at] != value:
            self._words[at] = value
            self.changed = True

    def string(self, text: str) -> int:
        """Add a string; the answer is its offset."""
        self._strings += text.encode() + b"\0"
        self.changed = True
        return len(self._strings) - len(text.encode()) - 1

    def add(self, kind: Kind, name: str, size: int, *extra: int, count: int = 0) -> int:
        """Add a type; the answer is its id."""
        self._words.extend([self.string(name) if name else 0, kind << 24 | count, size, *extra])
        self._count += 1
        self.changed = True
        return self._count - 1

    def build(self, path: str = "") -> Btf:
        """The changed BTF (the very same one if nothing was changed)."""
        if not self.changed:
            return self._btf
        types = self._words.tobytes()
        head = struct.pack("<HBBIIIII", MAGIC, 1, 0, 24, 0, len(types), len(types), len(self._strings))
        return Btf.parse(head + types + bytes(self._strings), path)


def place_variables(btf: Btf, sizes: dict[str, int], offsets: dict[str, int]) -> Btf:
    """Fill in what clang leaves to the loader: the sizes of DATASECs (`sizes` by section) and the offsets of variables.

    Raises FormatError for damaged types, and for a variable that lies further away than 32 bits reach.
    """
    editor = Editor(btf)
    for id_ in range(1, len(btf)):
        if btf.kind(id_) != Kind.DATASEC or btf.name(id_) not in sizes:
            continue
        type_ = btf.type(id_)
        editor.set(id_, 2, sizes[type_.name])
        rows = sorted((offsets.get(btf.name(v.type_id), v.offset), v.type_id, v.size) for v in type_.variables)
        for i, (offset, variable, size) in enumerate(rows):
            for word, value in enumerate((variable, offset, size)):
                editor.set(id_, 3 + 3 * i + word, value)
    return editor.build()
