"""Types as C: definitions in an order that a compiler accepts, padding and attributes so that every offset is as BTF says.

The text is libbpf's, character for character; so is the order, in which a type is defined just before the first one that needs it.
"""

from collections.abc import Iterable, Iterator
from enum import Enum
from functools import cached_property

from ebpf.btf.parse import Btf
from ebpf.btf.types import COMPOSITE, ENUMS, Kind, Type
from ebpf.errors import FormatError

_QUALIFIERS = {Kind.CONST: "const", Kind.VOLATILE: "volatile", Kind.RESTRICT: "restrict"}
_MODS = (*_QUALIFIERS, Kind.TYPE_TAG)
_REFERS = (Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.PTR, Kind.TYPEDEF, Kind.FUNC, Kind.VAR, Kind.DECL_TAG, Kind.TYPE_TAG)
# Padding is made of these, the widest that fits.
_PADS = (("long", 64), ("int", 32), ("short", 16), ("char", 8))
# No type has more padding than this, but a damaged size asks for millions of lines of it.
_MOST_PADDING = 1 << 25
_VA_LIST = "__gnuc_va_list"


class _State(Enum):
    """How far a type is."""

    NEW = 0
    BUSY = 1
    DONE = 2


class CPrinter:
    """Prints types of one BTF; what it has printed it does not print again."""

    def __init__(self, btf: Btf) -> None:
        self.btf = btf
        count = len(btf)
        self._order = [_State.NEW] * count
        self._emitted = [_State.NEW] * count
        self._forward = [False] * count
        self._inlined: set[int] = set()
        self._names: dict[int, str] = {}
        # How often a name was given out: structs, unions and enums have names of their own, typedefs and enumerators too.
        self._type_names: dict[str, int] = {}
        self._identifiers: dict[str, int] = {}
        self._aligns: dict[int, int] = {}
        self._queue: list[int] = []
        self._out: list[str] = []
        self._padding_room = _MOST_PADDING
        self._plain = False

    def definitions(self, ids: Iterable[int]) -> Iterator[str]:
        """The definitions that these types need and that were not given yet, each with the blank line after it.

        Raises FormatError for types that cannot be written as C.
        """
        try:
            for id_ in ids:
                self._queue.clear()
                self._put_in_order(id_, through_pointer=False, asked=True)
                for queued in self._queue:
                    self._emit(queued, 0)
                yield from self._out
                self._out.clear()
        except RecursionError:
            raise FormatError("types are nested too deep", where="BTF") from None

    def enumerators(self, ids: Iterable[int]) -> Iterator[str]:
        """The enumerators of enums that no declaration has given yet."""
        for id_ in ids:
            if id_ not in self._inlined and self._emitted[id_] != _State.DONE:
                self._emitted[id_] = _State.DONE
                yield self._enum(self.btf.type(id_), 0) + ";\n\n"

    def declaration(self, id_: int, name: str = "", level: int = 0, *, mods: bool = True) -> str:
        """A declaration of `name` with a type, or the type alone; without `mods` nothing in it is const or volatile."""
        self._plain = not mods
        try:
            return self._declared(id_, name, level)
        finally:
            self._plain = False

    def alignment(self, id_: int) -> int:
        """A type's alignment in bytes; 1 for a struct whose layout shows that it is packed."""
        return self._align(id_)

    def _declared(self, id_: int, name: str, level: int) -> str:
        chain = []
        for _ in range(len(self.btf) + 1):
            type_ = self.btf.type(id_)
            if not self._plain or type_.kind not in _MODS:
                chain.append(id_)
            if type_.kind not in (Kind.PTR, Kind.ARRAY, Kind.FUNC_PROTO, *_MODS):
                break
            id_ = type_.ref
        else:
            raise FormatError(f"type {id_} refers to itself", where="BTF")
        return self._chain(chain, name, level)

    # -- order

    @cached_property
    def _referenced(self) -> list[bool]:
        found = [False] * len(self.btf)
        for type_ in self.btf:
            references = [member.type_id for member in type_.members] + [variable.type_id for variable in type_.variables]
            if type_.kind in _REFERS or type_.kind == Kind.ARRAY:
                references.append(type_.ref)
            for reference in references:
                if reference >= len(found):
                    raise FormatError(f"refers to type {reference} of {len(found)}", path=self.btf.path, where=f"BTF type {type_.id}")
                found[reference] = True
        return found

    def _put_in_order(self, id_: int, *, through_pointer: bool, asked: bool = False) -> bool:
        """Queue what must be defined before `id_`, and `id_`. Returns whether whoever needs it needs its definition.

        `asked` says that no other type led here: only then may a nameless enum be one that none refers to.
        """
        if id_ >= len(self._order):
            raise FormatError(f"refers to type {id_} of {len(self._order)}", path=self.btf.path, where="BTF")
        state = self._order[id_]
        if state == _State.DONE:
            return True
        type_ = self.btf.type(id_)
        kind = type_.kind
        if state == _State.BUSY:
            if kind in COMPOSITE and through_pointer and type_.name:
                return False
            raise FormatError(f"type {id_} contains itself", where="BTF")
        if kind in (Kind.INT, Kind.FLOAT, Kind.VOID):
            self._order[id_] = _State.DONE
            return False
        if kind == Kind.PTR:
            strong = self._put_in_order(type_.ref, through_pointer=True)
            self._order[id_] = _State.DONE
            return strong
        if kind == Kind.ARRAY:
            return self._put_in_order(type_.ref, through_pointer=False)
        if kind in COMPOSITE:
            return self._composite_in_order(type_, through_pointer=through_pointer)
        if kind in ENUMS or kind == Kind.FWD:
            if type_.name or (asked and not self._referenced[id_]):
                self._queue.append(id_)
            self._order[id_] = _State.DONE
            return True
        if kind == Kind.TYPEDEF:
            strong = self._put_in_order(type_.ref, through_pointer=through_pointer)
            if through_pointer and not strong:
                return False
            self._queue.append(id_)
            self._order[id_] = _State.DONE
            return True
        if kind in _MODS:
            return self._put_in_order(type_.ref, through_pointer=through_pointer)
        if kind == Kind.FUNC_PROTO:
            needs = [self._put_in_order(type_.ref, through_pointer=through_pointer)]
            needs += [self._put_in_order(p.type_id, through_pointer=through_pointer) for p in type_.members]
            return any(needs)
        self._order[id_] = _State.DONE
        return False

    def _composite_in_order(self, type_: Type, *, through_pointer: bool) -> bool:
        if through_pointer and type_.name:
            return False
        self._order[type_.id] = _State.BUSY
        for member in type_.members:
            self._put_in_order(member.type_id, through_pointer=False)
        if type_.name:
            self._queue.append(type_.id)
        self._order[type_.id] = _State.DONE
        return True

    # -- definitions

    def _emit(self, id_: int, container: int) -> None:
        """Emit a type that was queued (`container` 0), or what the declaration of a member of `container` needs of one."""
        type_ = self.btf.type(id_)
        kind = type_.kind
        if self._emitted[id_] == _State.DONE:
            return
        if self._emitted[id_] == _State.BUSY:
            self._emit_again(type_, container)
            return
        top = container == 0
        if kind in ENUMS:
            if top:
                self._say(self._enum(type_, 0))
            self._emitted[id_] = _State.DONE
        elif kind in (Kind.PTR, Kind.ARRAY, *_MODS):
            self._emit(type_.ref, container)
        elif kind == Kind.FWD:
            self._say(self._forward_text(type_))
            self._emitted[id_] = _State.DONE
        elif kind == Kind.TYPEDEF:
            self._emitted[id_] = _State.BUSY
            self._emit(type_.ref, id_)
            # The compiler knows this one of itself.
            if not self._forward[id_] and type_.name != "__builtin_va_list":
                self._say(self._typedef(type_))
            self._emitted[id_] = _State.DONE
        elif kind in COMPOSITE:
            self._emitted[id_] = _State.BUSY
            if top or not type_.name:
                for member in type_.members:
                    self._emit(member.type_id, id_ if type_.name else container)
            elif not self._forward[id_] and id_ != container:
                self._say(self._forward_text(type_))
                self._forward[id_] = True
            if top:
                self._say(self._composite(type_, 0))
            self._emitted[id_] = _State.DONE if top else _State.NEW
        elif kind == Kind.FUNC_PROTO:
            self._emit(type_.ref, container)
            for parameter in type_.members:
                self._emit(parameter.type_id, container)

    def _emit_again(self, type_: Type, container: int) -> None:
        """What a type that is being defined needs of itself: a declaration beforehand."""
        if self._forward[type_.id]:
            return
        if type_.kind in COMPOSITE:
            if type_.id == container:
                return
            if not type_.name:
                raise FormatError(f"nameless type {type_.id} refers to itself", where="BTF")
            self._say(self._forward_text(type_))
            self._forward[type_.id] = True
        elif type_.kind == Kind.TYPEDEF:
            self._say(self._typedef(type_))
            self._forward[type_.id] = True

    def _say(self, text: str) -> None:
        self._out.append(text + ";\n\n")

    def _name(self, type_: Type) -> str:
        """A type's name; the second type of a name is called name___2, and so on."""
        if type_.id not in self._names:
            given = self._identifiers if type_.kind == Kind.TYPEDEF else self._type_names
            self._names[type_.id] = self._unique(given, type_.name)
        return self._names[type_.id]

    @staticmethod
    def _unique(given: dict[str, int], name: str) -> str:
        if not name:
            return ""
        given[name] = times = given.get(name, 0) + 1
        return f"{name}___{times}" if times > 1 else name

    def _forward_text(self, type_: Type) -> str:
        if type_.kind == Kind.FWD:
            word = "union" if type_.info else "struct"
        elif type_.kind in ENUMS:
            word = "enum"
        else:
            word = "struct" if type_.kind == Kind.STRUCT else "union"
        return f"{word} {self._name(type_)}" if type_.name else f"{word} "

    def _typedef(self, type_: Type) -> str:
        name = self._name(type_)
        if not type_.ref and name == _VA_LIST:
            return f"typedef __builtin_va_list {name}"
        return f"typedef {self.declaration(type_.ref, name)}"

    def _enum(self, type_: Type, level: int) -> str:
        text = "enum" + (f" {self._name(type_)}" if type_.name else "")
        if not type_.enumerators:
            return text
        suffix = ("LL" if type_.signed else "ULL") if type_.kind == Kind.ENUM64 else ""
        pad = "\t" * (level + 1)
        rows = [f"\n{pad}{self._unique(self._identifiers, row.name)} = {row.value}{suffix}," for row in type_.enumerators]
        text += " {" + "".join(rows) + "\n" + "\t" * level + "}"
        if type_.size == 1:
            return text + " __attribute__((mode(byte)))"
        # A value of 64 bits makes it wide; otherwise it must be said.
        narrow = type_.kind == Kind.ENUM or not any(row.value & (1 << 64) - 1 >> 32 for row in type_.enumerators)
        return text + (" __attribute__((mode(word)))" if type_.size == 8 and narrow else "")

    def _composite(self, type_: Type, level: int) -> str:
        struct = type_.kind == Kind.STRUCT
        packed = struct and self._packed(type_)
        text = [("struct" if struct else "union") + (f" {self._name(type_)}" if type_.name else "") + " {"]
        at, after_bits = 0, False
        indent = "\n" + "\t" * (level + 1)
        for member in type_.members:
            align = 1 if packed else self._align(member.type_id)
            text.append(self._padding(at, member.bits, align, level + 1, within=after_bits and bool(member.bitfield)))
            text.append(indent + self._declared(member.type_id, member.name, level + 1))
            after_bits = bool(member.bitfield)
            if after_bits:
                text.append(f": {member.bitfield};")
                at = member.bits + member.bitfield
            else:
                text.append(";")
                at = member.bits + self._size(member.type_id) * 8
        if struct:
            text.append(self._padding(at, type_.size * 8, 1 if packed else self._align(type_.id), level + 1, within=False))
        text.append("\n" + "\t" * level + "}" if type_.members or type_.size else "}")
        if packed:
            text.append(" __attribute__((packed))")
        return "".join(text)

    def _padding(self, at: int, until: int, align: int, level: int, *, within: bool) -> str:
        """Nameless bit fields from bit `at` until the next member, as few as make a compiler put it there."""
        if at >= until:
            return ""
        self._padding_room -= until - at
        if self._padding_room < 0:
            raise FormatError(f"{until - at} bits of padding are too many", path=self.btf.path, where="BTF")
        indent = "\n" + "\t" * level
        name, bits = next(((n, b) for n, b in _PADS if (at + b - 1) // b * b <= until), _PADS[-1])
        begin = (at + bits - 1) // bits * bits
        text = []
        if at < begin <= until:
            natural = (at + align * 8 - 1) // (align * 8) * (align * 8) if align else at
            if within or (begin == until and natural != begin) or (begin != until and until - begin <= begin - at):
                text.append(f"{indent}{name}: {begin - at if within else 0};")
            at = begin
        while at != until:
            rest = min(until - at, bits)
            if rest == bits:
                text.append(f"{indent}{name}: {bits};")
            else:
                smallest = next(n for n, b in reversed(_PADS) if b >= rest)
                text.append(f"{indent}{smallest}: {rest};")
            at += rest
        return "".join(text)

    def _size(self, id_: int) -> int:
        try:
            return self.btf.size_of(id_)
        except FormatError:
            return 0

    def _align(self, id_: int) -> int:
        """A type's alignment in bytes; 1 for a struct whose layout shows that it is packed."""
        known = self._aligns.get(id_)
        if known is not None:
            return known
        type_ = self.btf.type(id_)
        if type_.kind in (Kind.INT, Kind.FLOAT, *ENUMS):
            align = min(8, type_.size)
        elif type_.kind == Kind.PTR:
            align = 8
        elif type_.kind in (Kind.TYPEDEF, Kind.ARRAY, *_MODS):
            align = self._align(type_.ref)
        elif type_.kind in COMPOSITE:
            align = self._align_of_members(type_)
        else:
            align = 1
        self._aligns[id_] = align
        return align

    def _align_of_members(self, type_: Type) -> int:
        most = 1
        for member in type_.members:
            align = self._align(member.type_id)
            most = max(most, align)
            if not member.bitfield and align and member.bits % (8 * align):
                return 1
        return 1 if type_.size % most else most

    def _packed(self, type_: Type) -> bool:
        aligns = [(member, self._align(member.type_id)) for member in type_.members]
        if any(align and not member.bitfield and member.bits % (8 * align) for member, align in aligns):
            return True
        return type_.size % max((1, *(align for _, align in aligns))) != 0

    # -- declarations

    def _chain(self, chain: list[int], name: str, level: int) -> str:
        """The text of a declaration, from what it is in the end (the last of `chain`) outwards to the name."""
        text = ""
        after_pointer = True
        while chain:
            id_ = chain.pop()
            type_ = self.btf.type(id_)
            kind = type_.kind
            if kind == Kind.PTR:
                text += "*" if after_pointer else " *"
            elif kind in _QUALIFIERS:
                text += f" {_QUALIFIERS[kind]}"
            elif kind == Kind.TYPE_TAG:
                text += f" {_tag(type_)}"
            elif kind == Kind.ARRAY:
                return text + self._array(type_, chain, name, level, after_pointer=after_pointer)
            elif kind == Kind.FUNC_PROTO:
                return text + self._function(type_, chain, name, level, after_pointer=after_pointer)
            else:
                text += self._mods(chain) + self._base(type_, level)
            after_pointer = kind == Kind.PTR
        return text + (" " if name and not after_pointer else "") + name

    def _mods(self, chain: list[int]) -> str:
        """The qualifiers of what a declaration is in the end stand before it."""
        text = ""
        while chain and (type_ := self.btf.type(chain[-1])).kind in _MODS:
            text += _QUALIFIERS.get(type_.kind) or _tag(type_)
            text += " "
            chain.pop()
        return text

    def _drop_mods(self, chain: list[int]) -> None:
        # gcc qualifies arrays and functions that do not return once more: C has no words for it.
        while chain and self.btf.type(chain[-1]).kind in _MODS:
            chain.pop()

    def _base(self, type_: Type, level: int) -> str:
        if type_.kind == Kind.VOID:
            return "void"
        if type_.kind in COMPOSITE and not type_.name:
            return self._composite(type_, level)
        if type_.kind in ENUMS and not type_.name:
            self._inlined.add(type_.id)
            return self._enum(type_, level)
        if type_.kind in (*COMPOSITE, *ENUMS, Kind.FWD):
            return self._forward_text(type_)
        return self._name(type_) if type_.kind == Kind.TYPEDEF else type_.name

    def _array(self, type_: Type, chain: list[int], name: str, level: int, *, after_pointer: bool) -> str:
        self._drop_mods(chain)
        if not chain:
            return (" " if name and not after_pointer else "") + f"{name}[{type_.info}]"
        inner = self.btf.type(chain[-1]).kind == Kind.ARRAY
        text = " " if name and not after_pointer else ""
        rest = self._chain(chain, name, level)
        return text + (rest if inner else f"({rest})") + f"[{type_.info}]"

    def _function(self, type_: Type, chain: list[int], name: str, level: int, *, after_pointer: bool) -> str:
        self._drop_mods(chain)
        text = " (" + self._chain(chain, name, level) + ")" if chain else (" " if name and not after_pointer else "") + name
        parameters = type_.members
        if not parameters or (len(parameters) == 1 and not parameters[0].type_id):
            return text + "(void)"
        words = [self._declared(p.type_id, p.name, level) for p in parameters]
        if not parameters[-1].type_id:
            words[-1] = "..."
        return text + "(" + ", ".join(words) + ")"


def _tag(type_: Type) -> str:
    return f'__attribute__((btf_type_tag("{type_.name}")))'
