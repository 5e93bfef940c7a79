"""Making BTF: a builder that adds types and strings."""

import struct

from ebpf.btf.parse import MAGIC, Btf
from ebpf.btf.types import Kind


class Builder:
    """Collects types; ids count from 1 in the order they are added."""

    def __init__(self) -> None:
        self._types = bytearray()
        self._strings = bytearray(b"\0")
        self._offsets: dict[str, int] = {"": 0}
        self._count = 0

    def string(self, text: str) -> int:
        """The offset of a string, added once."""
        if text not in self._offsets:
            self._offsets[text] = len(self._strings)
            self._strings += text.encode() + b"\0"
        return self._offsets[text]

    def _add(self, kind: Kind, name: str, size: int, extra: bytes = b"", count: int = 0, *, flag: bool = False) -> int:
        self._types += struct.pack("<III", self.string(name), flag << 31 | kind << 24 | count, size) + extra
        self._count += 1
        return self._count

    def integer(self, name: str, size: int, *, signed: bool = False, char: bool = False) -> int:
        """An integer of `size` bytes."""
        return self._add(Kind.INT, name, size, struct.pack("<I", (signed | char << 1) << 24 | size * 8))

    def ptr(self, to: int) -> int:
        """A pointer."""
        return self._add(Kind.PTR, "", to)

    def array(self, element: int, length: int, index: int) -> int:
        """An array of `length` elements."""
        return self._add(Kind.ARRAY, "", 0, struct.pack("<III", element, index, length))

    def struct(self, name: str, size: int, members: "list[tuple[str, int, int]]") -> int:
        """A struct of (name, type, offset in bytes) members."""
        extra = b"".join(struct.pack("<III", self.string(n), t, o * 8) for n, t, o in members)
        return self._add(Kind.STRUCT, name, size, extra, len(members))

    def union(self, name: str, size: int, members: "list[tuple[str, int]]") -> int:
        """A union of (name, type) members."""
        extra = b"".join(struct.pack("<III", self.string(n), t, 0) for n, t in members)
        return self._add(Kind.UNION, name, size, extra, len(members))

    def enum(self, name: str, values: "list[tuple[str, int]]") -> int:
        """An enum of (name, value) enumerators, 4 bytes large."""
        return self._add(Kind.ENUM, name, 4, b"".join(struct.pack("<II", self.string(n), v) for n, v in values), len(values))

    def tag(self, name: str, of: int, part: int = -1) -> int:
        """A tag on a declaration, or on one of its members or parameters."""
        return self._add(Kind.DECL_TAG, name, of, struct.pack("<i", part))

    def typedef(self, name: str, of: int) -> int:
        """A typedef."""
        return self._add(Kind.TYPEDEF, name, of)

    def func_proto(self, result: int, params: "list[tuple[str, int]]") -> int:
        """A function's type."""
        return self._add(Kind.FUNC_PROTO, "", result, b"".join(struct.pack("<II", self.string(n), t) for n, t in params), len(params))

    def func(self, name: str, proto: int, linkage: int = 0) -> int:
        """A function; linkage 0 is static, 1 global."""
        return self._add(Kind.FUNC, name, proto, count=linkage)

    def var(self, name: str, type_id: int, linkage: int = 1) -> int:
        """A variable."""
        return self._add(Kind.VAR, name, type_id, struct.pack("<I", linkage))

    def datasec(self, name: str, size: int, variables: "list[tuple[int, int, int]]") -> int:
        """A section of (variable, offset, size)."""
        return self._add(Kind.DATASEC, name, size, b"".join(struct.pack("<III", *v) for v in variables), len(variables))

    def raw(self) -> bytes:
        """The blob."""
        header = struct.pack("<HBBIIIII", MAGIC, 1, 0, 24, 0, len(self._types), len(self._types), len(self._strings))
        return header + bytes(self._types) + bytes(self._strings)

    def build(self) -> Btf:
        """The blob, parsed."""
        return Btf.parse(self.raw())
