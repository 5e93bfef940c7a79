"""Which types of a kernel a C text needs: those it names, and those that it reaches by the members it names."""

from collections.abc import Iterable, Set

from ebpf.btf.parse import Btf
from ebpf.btf.types import COMPOSITE, ENUMS, MODIFIERS, Kind, Type
from ebpf.records import record

_TAGGED = COMPOSITE | ENUMS | {Kind.FWD}
_THROUGH = MODIFIERS | {Kind.PTR, Kind.ARRAY}
#: How the kernel marks the functions that programs may call.
KFUNC, FASTCALL = "bpf_kfunc", "bpf_fastcall"


@record
class Selection:
    """Ids: `types` are to be defined, of the nameless enums `enums` the enumerators are, `functions` are the kernel's to call."""

    types: tuple[int, ...]
    enums: tuple[int, ...]
    functions: tuple[int, ...]


def select(btf: Btf, words: Iterable[str], tagged: Set[str], members: Set[str]) -> Selection:
    """What of `btf` a text needs that has these `words`, of which `tagged` stand after struct, union or enum.

    Types that are only pointed to stay without members unless one of `members` may be looked up through the pointer.
    """
    types: dict[int, None] = {}
    enums: dict[int, None] = {}
    functions: dict[int, None] = {}
    callable_ = kfuncs(btf)
    for word in sorted(words):
        for id_ in btf.named(word):
            kind = btf.kind(id_)
            if btf.name(id_) != word:
                continue
            if kind == Kind.TYPEDEF or (kind in _TAGGED and word in tagged):
                types[id_] = None
                break
            if kind == Kind.FUNC and id_ in callable_:
                functions[id_] = None
                break
        for id_ in btf.enumerators(word):
            (types if btf.name(id_) else enums)[id_] = None
            break
    reach = _Reach(btf, members, types)
    for id_ in list(types):
        reach.through(id_)
    for id_ in functions:
        proto = btf.type(btf.type(id_).ref)
        for part in (proto.ref, *(parameter.type_id for parameter in proto.members)):
            reach.through(part, spelt=True)
    reach.run()
    return Selection(tuple(types), tuple(enums), tuple(functions))


def kfuncs(btf: Btf) -> dict[int, set[str]]:
    """The functions that programs may call, by id, with their tags."""
    tags: dict[int, set[str]] = {}
    for name in (KFUNC, FASTCALL):
        for id_ in btf.named(name):
            if btf.kind(id_) == Kind.DECL_TAG:
                tags.setdefault(btf.type(id_).ref, set()).add(name)
    return {id_: names for id_, names in tags.items() if KFUNC in names and btf.kind(id_) == Kind.FUNC}


class _Reach:
    """Walks from types to those that members of theirs lead to."""

    def __init__(self, btf: Btf, members: Set[str], found: dict[int, None]) -> None:
        self._btf = btf
        self._members = members
        self._found = found
        self._seen: set[int] = set()
        self._waiting: list[Type] = []

    def through(self, id_: int, *, spelt: bool = False) -> None:
        """Note the struct or union that a type leads to, and with `spelt` the names on the way, because a declaration has them."""
        for _ in range(64):
            type_ = self._btf.type(id_)
            if type_.kind in COMPOSITE:
                if id_ not in self._seen:
                    self._seen.add(id_)
                    self._waiting.append(type_)
                    if type_.name:
                        self._found[id_] = None
                return
            if spelt and (type_.kind == Kind.TYPEDEF or (type_.kind in ENUMS and type_.name)):
                self._found[id_] = None
            if type_.kind not in _THROUGH:
                return
            id_ = type_.ref

    def run(self) -> None:
        """Follow the members that the text names, and those without a name of their own."""
        while self._waiting:
            for member in self._waiting.pop().members:
                if not member.name or member.name in self._members:
                    self.through(member.type_id)
