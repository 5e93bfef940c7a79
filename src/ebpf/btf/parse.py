"""BTF bytes to types: where each type lies is found out at once, what it is when it is asked for."""

import struct
from array import array
from collections.abc import Iterator, Sequence

from ebpf.btf.index import Index, essential
from ebpf.btf.types import COMPOSITE, EACH, ENUMS, EXTRA, MODIFIERS, SIZED, Enumerator, Kind, Member, SectionVar, Type
from ebpf.errors import FormatError

MAGIC = 0xEB9F
_HEADER = struct.Struct("<HBBIIIII")
_VOID = Type(0, Kind.VOID, "void")
# The bound keeps many names that share one long string from filling the memory.
_LONGEST_NAME = 4096
# A chain of typedefs and modifiers longer than this is a loop.
_DEPTH = 64
_HEAD = 12
# How many bytes a type of each kind has before its rows, and in each row; -1 for kinds that are not known.
_EXTRA = [_HEAD + EXTRA.get(kind, 0) if kind in set(Kind) - {Kind.VOID} else -1 for kind in range(32)]
_EACH = [EACH.get(kind, 0) for kind in range(32)]


class Btf:
    """Type information: types by id, names, sizes. `raw` is the blob that BTF_LOAD takes.

    A type is decoded when it is asked for; whoever reads a damaged one meets a FormatError then.
    """

    def __init__(self, raw: bytes, path: str = "", index: Index | None = None, base: "Btf | None" = None) -> None:
        self.raw = raw
        self.base = base
        self._path = path
        self._first = len(base) if base is not None else 1
        self._strings_base = base.strings_end if base is not None else 0
        types, self._strings_at, self._strings_end = _sections(raw, path, split=base is not None)
        self._words = types.cast("I")
        self._index = index
        self._offsets: Sequence[int] = index.offsets if index is not None else _walk(self._words, self.strings_end, self._first, path)
        self._types: dict[int, Type] = {0: _VOID}
        self._names: dict[str, list[int]] | None = None

    @classmethod
    def parse(cls, raw: bytes, path: str = "", index: Index | None = None) -> "Btf":
        """Parse a .BTF section; with `index` (of the very same bytes) without walking through it. Raises FormatError."""
        return cls(raw, path, index)

    def __reduce__(self) -> "tuple[type[Btf], tuple[bytes, str, None, Btf | None]]":
        # Kept in a cache, it is its bytes: what was decoded is decoded again.
        return (Btf, (self.raw, self._path, None, self.base))

    def split(self, raw: bytes, path: str = "") -> "Btf":
        """Parse the BTF of a module, whose ids and strings go on where this one's end. Raises FormatError."""
        return Btf(raw, path, base=self)

    def __len__(self) -> int:
        return len(self._offsets) + self._first

    @property
    def path(self) -> str:
        """The file that this was read from, as errors name it ("": none)."""
        return self._path

    @property
    def own(self) -> range:
        """The ids of the types that stand here, without those of the base."""
        return range(self._first, len(self))

    @property
    def strings_end(self) -> int:
        """The offset that the next string would have."""
        return self._strings_base + self._strings_end - self._strings_at

    def __iter__(self) -> Iterator[Type]:
        return (self.type(id_) for id_ in range(len(self)))

    @property
    def types(self) -> list[Type]:
        """All types."""
        return list(self)

    def type(self, id_: int) -> Type:
        """The type with an id. Raises FormatError if there is none, or it is damaged."""
        found = self._types.get(id_)
        if found is None:
            found = self._types[id_] = self._decode(id_) if self.base is None or id_ >= self._first else self.base.type(id_)
        return found

    def kind(self, id_: int) -> int:
        """The number of a type's kind, without decoding the type."""
        if self.base is not None and id_ < self._first:
            return self.base.kind(id_)
        return self._words[self._at(id_) + 1] >> 24 & 0x1F if id_ else 0

    def name(self, id_: int) -> str:
        """The name of a type, without decoding the type."""
        if self.base is not None and id_ < self._first:
            return self.base.name(id_)
        return self._name(self._words[self._at(id_)]) if id_ else "void"

    def place(self, id_: int) -> int:
        """Where a type begins, in words."""
        return self._at(id_)

    def _at(self, id_: int) -> int:
        if not self._first <= id_ < len(self):
            raise FormatError(f"type id {id_} of {len(self)}", path=self._path, where="BTF")
        return self._offsets[id_ - self._first]

    def named(self, name: str) -> list[int]:
        """The ids of the types here with this name, or with it and a flavour (`name___flavour`), in order."""
        if self._index is not None:
            return [id_ for id_ in self._index.types(name) if essential(self.name(id_)) == name]
        if self._names is None:
            self._names = {}
            for id_ in self.own:
                offset = self._words[self._at(id_)]
                if offset:
                    self._names.setdefault(essential(self._name(offset)), []).append(id_)
        return self._names.get(name, [])

    def find(self, name: str, kind: Kind) -> Type | None:
        """The first type of a kind with this name."""
        if not name or kind == Kind.VOID:
            return next((t for t in self if t.kind == kind and t.name == name), None)
        for id_ in self.named(essential(name)):
            if self.kind(id_) == kind and self.name(id_) == name:
                return self.type(id_)
        return None

    def enumerators(self, name: str) -> list[int]:
        """The ids of the enums that have an enumerator of this name."""
        if self._index is not None:
            candidates: Sequence[int] = self._index.enumerators(name)
        else:
            candidates = [id_ for id_ in self.own if self.kind(id_) in ENUMS]
        return [id_ for id_ in candidates if any(e.name == name for e in self.type(id_).enumerators)]

    def string(self, offset: int) -> str:
        """The string at an offset of the string section; what is longer than a name may be (a source line) is cut there."""
        if self.base is not None and offset < self._strings_base:
            return self.base.string(offset)
        at, end = self._strings_at + offset - self._strings_base, self._strings_end
        if not self._strings_at <= at < end:
            raise FormatError(f"string offset {offset} of {self.strings_end}", path=self._path, where="BTF")
        return self.raw[at : min(at + _LONGEST_NAME, end)].split(b"\0", 1)[0].decode("utf-8", "replace")

    def resolve(self, id_: int) -> Type:
        """The type behind typedefs and qualifiers."""
        for _ in range(_DEPTH):
            type_ = self.type(id_)
            if type_.kind not in MODIFIERS:
                return type_
            id_ = type_.ref
        raise FormatError(f"type {id_} refers to itself", path=self._path, where="BTF")

    def size_of(self, id_: int, depth: int = 0) -> int:
        """A type's size in bytes. Raises FormatError for one without a size."""
        type_ = self.resolve(id_)
        if depth > _DEPTH:
            raise FormatError(f"type {id_} contains itself", path=self._path, where="BTF")
        if type_.kind in SIZED:
            return type_.size
        if type_.kind == Kind.PTR:
            return 8
        if type_.kind == Kind.ARRAY:
            return type_.info * self.size_of(type_.ref, depth + 1)
        if type_.kind == Kind.VAR:
            return self.size_of(type_.ref, depth + 1)
        raise FormatError(f"{type_.kind.name.lower()} {type_.name!r} has no size", path=self._path, where="BTF")

    def all_words(self) -> "array[int]":
        """All types as they stand in the bytes."""
        return array("I", self._words)

    def all_strings(self) -> bytes:
        """The string section."""
        return self.raw[self._strings_at : self._strings_end]

    def words(self, id_: int) -> list[int]:
        """A type as it stands in the bytes: name, info and size or reference, then what its kind has besides."""
        at = self._at(id_)
        end = self._at(id_ + 1) if id_ + 1 < len(self) else len(self._words)
        return self._words[at:end].tolist()

    def _name(self, offset: int) -> str:
        if not offset:
            return ""
        if self.base is not None and offset < self._strings_base:
            return self.base.string(offset)
        at = self._strings_at + offset - self._strings_base
        end = self.raw.find(b"\0", at, min(at + _LONGEST_NAME, self._strings_end))
        if end < 0:
            raise FormatError(f"string offset {offset} of {self.strings_end}", path=self._path, where="BTF")
        return self.raw[at:end].decode("utf-8", "replace")

    def _decode(self, id_: int) -> Type:
        words = self.words(id_)
        name_off, info, size = words[:3]
        kind, count, flag = Kind(info >> 24 & 0x1F), info & 0xFFFF, info >> 31
        name, string = self._name(name_off), self._name
        if kind in COMPOSITE:
            members = tuple(
                Member(string(words[i]), words[i + 1], words[i + 2] & 0xFFFFFF if flag else words[i + 2], words[i + 2] >> 24 if flag else 0)
                for i in range(3, 3 + 3 * count, 3)
            )
            return Type(id_, kind, name, size=size, members=members)
        if kind == Kind.ENUM:
            rows = tuple(
                Enumerator(string(words[i]), words[i + 1] - (1 << 32) if flag and words[i + 1] >> 31 else words[i + 1])
                for i in range(3, 3 + 2 * count, 2)
            )
            return Type(id_, kind, name, size=size, info=flag, enumerators=rows)
        if kind == Kind.ENUM64:
            wide = tuple(
                Enumerator(string(words[i]), (v := words[i + 1] | words[i + 2] << 32) - (1 << 64 if flag and v >> 63 else 0))
                for i in range(3, 3 + 3 * count, 3)
            )
            return Type(id_, kind, name, size=size, info=flag, enumerators=wide)
        if kind == Kind.FUNC_PROTO:
            params = tuple(Member(string(words[i]), words[i + 1]) for i in range(3, 3 + 2 * count, 2))
            return Type(id_, kind, name, ref=size, members=params)
        if kind == Kind.DATASEC:
            variables = tuple(SectionVar(words[i], words[i + 1], words[i + 2]) for i in range(3, 3 + 3 * count, 3))
            return Type(id_, kind, name, size=size, variables=variables)
        if kind == Kind.INT:
            return Type(id_, kind, name, size=size, info=words[3])
        if kind == Kind.ARRAY:
            return Type(id_, kind, name, ref=words[3], info=words[5], indexed_by=words[4])
        if kind in (Kind.VAR, Kind.DECL_TAG):
            return Type(id_, kind, name, ref=size, info=words[3])
        if kind == Kind.FLOAT:
            return Type(id_, kind, name, size=size)
        if kind == Kind.FWD:
            return Type(id_, kind, name, info=flag)
        return Type(id_, kind, name, ref=size, info=count if kind == Kind.FUNC else 0)


def _sections(raw: bytes, path: str, *, split: bool) -> tuple["memoryview[int]", int, int]:
    """The types' bytes, and where the strings begin and end."""
    if len(raw) < _HEADER.size:
        raise FormatError(f"{len(raw)} bytes are too few for a header", path=path, where="BTF")
    magic, version, _, header, type_off, type_len, str_off, str_len = _HEADER.unpack_from(raw)
    if magic != MAGIC:
        why = "big-endian BTF is not read" if magic == 0x9FEB else f"magic {magic:#x} is not {MAGIC:#x}"
        raise FormatError(why, path=path, where="BTF")
    if version != 1 or header < _HEADER.size:
        raise FormatError(f"version {version} with a header of {header} bytes is unknown", path=path, where="BTF")
    if header + type_off + type_len > len(raw) or header + str_off + str_len > len(raw):
        raise FormatError("sections reach past the end", path=path, where="BTF")
    begin, end = header + str_off, header + str_off + str_len
    if str_len and (raw[end - 1] or (raw[begin] and not split)):
        raise FormatError("strings do not begin and end with NUL", path=path, where="BTF")
    if type_len % 4:
        raise FormatError("is cut off", path=path, where="BTF")
    return memoryview(raw)[header + type_off : header + type_off + type_len], begin, end


def _walk(words: "memoryview[int]", named: int, first: int, path: str) -> "array[int]":
    """Where each type begins, in words. Insists that kinds are known, names there and references within."""
    offsets = array("I")
    at, end = 0, len(words)
    while at < end:
        if end - at < 3:
            raise FormatError("is cut off", path=path, where=f"BTF type {len(offsets) + first}")
        info = words[at + 1]
        kind = info >> 24 & 0x1F
        extra = _EXTRA[kind]
        if extra < 0:
            raise FormatError(f"kind {kind} is unknown", path=path, where=f"BTF type {len(offsets) + first}")
        if words[at] >= named and words[at]:
            raise FormatError(f"string offset {words[at]} of {named}", path=path, where=f"BTF type {len(offsets) + first}")
        offsets.append(at)
        at += (extra + _EACH[kind] * (info & 0xFFFF)) >> 2
    if at > end:
        raise FormatError("is cut off", path=path, where=f"BTF type {len(offsets) + first - 1}")
    count = len(offsets) + first
    for id_, at in enumerate(offsets, first):
        if _REFERS[words[at + 1] >> 24 & 0x1F] and words[at + 2] >= count:
            raise FormatError("refers to a type that is not there", path=path, where=f"BTF type {id_}")
    return offsets


_REFERENCES = frozenset(
    {Kind.PTR, Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG, Kind.FUNC, Kind.FUNC_PROTO, Kind.VAR, Kind.DECL_TAG}
)
_REFERS = [kind in _REFERENCES for kind in range(32)]
