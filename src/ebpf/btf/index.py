"""Where the types of a large BTF lie and what they are called, kept so that the next reader need not walk through all of it.

Little-endian words: a magic number, how many types, named types and enumerators there are; the types' places; then the named
types as hashes (in order) and ids; then the enumerators as hashes (in order) and the ids of their enums.
"""

import re
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ebpf.btf.types import Kind

if TYPE_CHECKING:
    from ebpf.btf.parse import Btf

_MAGIC = 0x31494245
_HEADER_WORDS = 4
_FLAVOUR = re.compile(r"[^_]___(?=[^_])")


def essential(name: str) -> str:
    """A name without its flavour: what CO-RE compares of `task_struct___old` is `task_struct`."""
    if "___" not in name:
        return name
    flavours = list(_FLAVOUR.finditer(name))
    return name[: flavours[-1].start() + 1] if flavours else name


def name_hash(name: str) -> int:
    """What names are ordered by."""
    return zlib.crc32(name.encode())


class Index:
    """An index, read where it lies: `data` may be mapped memory. Raises ValueError if it is none."""

    def __init__(self, data: "bytes | memoryview[int]") -> None:
        view = memoryview(data)
        words = view[: len(view) // 4 * 4].cast("I")
        if len(words) < _HEADER_WORDS or words[0] != _MAGIC:
            raise ValueError("no index")
        types, names, enumerators = words[1:_HEADER_WORDS].tolist()
        if len(words) != _HEADER_WORDS + types + 2 * names + 2 * enumerators:
            raise ValueError("a torn index")

        def take(at: int, count: int) -> "memoryview[int]":
            return words[at : at + count]

        at = _HEADER_WORDS
        self.offsets = take(at, types)
        self._name_hashes, self._name_ids = take(at + types, names), take(at + types + names, names)
        at += types + 2 * names
        self._enum_hashes, self._enum_ids = take(at, enumerators), take(at + enumerators, enumerators)

    def types(self, name: str) -> Sequence[int]:
        """Ids of types that may have this name or this name with a flavour."""
        return _equal(self._name_hashes, self._name_ids, name_hash(name))

    def enumerators(self, name: str) -> Sequence[int]:
        """Ids of enums that may have an enumerator of this name."""
        return _equal(self._enum_hashes, self._enum_ids, name_hash(name))


def _equal(hashes: "memoryview[int]", ids: "memoryview[int]", wanted: int) -> list[int]:
    at = bisect_left(hashes, wanted)
    end = at
    while end < len(hashes) and hashes[end] == wanted:
        end += 1
    return ids[at:end].tolist()


def build_index(btf: "Btf") -> bytes:
    """The index of a BTF."""
    types: list[int] = []
    enumerators: set[int] = set()
    for id_ in range(1, len(btf)):
        name = btf.name(id_)
        if name:
            types.append(name_hash(essential(name)) << 32 | id_)
        if btf.kind(id_) in (Kind.ENUM, Kind.ENUM64):
            enumerators.update(name_hash(row.name) << 32 | id_ for row in btf.type(id_).enumerators)
    offsets = [btf.place(id_) for id_ in range(1, len(btf))]
    head = array("I", [_MAGIC, len(offsets), len(types), len(enumerators)])
    parts = [head, array("I", offsets)]
    for rows in (sorted(types), sorted(enumerators)):
        parts += [array("I", (row >> 32 for row in rows)), array("I", (row & 0xFFFFFFFF for row in rows))]
    return b"".join(part.tobytes() for part in parts)
