"""Records: frozen classes whose annotated names are their fields, as dataclasses are, but quick to import.

A module may have fifty of them, of which a command uses two. So a record's methods are made when the first one of
it is, and the `dataclasses` module (which takes as long to import as all of `ebpf.sys`) only when it is asked for:
`dataclasses.fields` and `dataclasses.replace` know records.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from typing import dataclass_transform
else:

    def dataclass_transform(**_: object) -> Callable[[Any], Any]:
        """Of use to a type checker only."""
        return lambda made: made


T = TypeVar("T")
_INIT, _FIELDS, _NAMES = "__init__", "__dataclass_fields__", "__record_names__"
_MISSING = object()


class _Made:
    """Stands as a field's default where each record gets one of its own."""

    def __init__(self, make: Callable[[], object]) -> None:
        self.make = make


def made_by(*, default_factory: Callable[[], T]) -> T:
    """A field's default, made anew for each record."""
    made: Any = _Made(default_factory)
    return made  # type: ignore[no-any-return]


@dataclass_transform(frozen_default=True, field_specifiers=(made_by,))
def record(cls: type[T]) -> type[T]:
    """A class whose annotated names are its fields, in order, a base's before its own; compared, hashed and shown by them."""

    def first(self: T, *args: object, **named: object) -> None:
        _finish(cls)
        # The class has its own by now.
        type(self).__init__(self, *args, **named)

    setattr(cls, _INIT, first)
    for name, value in _METHODS.items():
        if name not in cls.__dict__:
            setattr(cls, name, value)
    return cls


def changed(row: T, **changes: Any) -> T:
    """A record with other values in some fields."""
    return type(row)(**{**row.__dict__, **changes})


def names_of(cls: type[Any]) -> tuple[str, ...]:
    """The names of a record's fields, in order."""
    known: tuple[str, ...] | None = cls.__dict__.get(_NAMES)
    if known is None:
        found = dict.fromkeys(name for base in reversed(cls.__mro__) if _FIELDS in base.__dict__ for name in _annotated(base))
        known = tuple(found)
        setattr(cls, _NAMES, known)
    return known


def _annotated(cls: type[Any]) -> list[str]:
    """The annotated names of a class itself that are fields."""
    return [name for name, kind in cls.__annotations__.items() if not str(kind).removeprefix("typing.").startswith("ClassVar")]


def _finish(cls: type[Any]) -> None:
    """Give a record its `__init__`."""
    known: dict[str, object] = {"missing": _MISSING}
    head, body = ["self"], ["fields = self.__dict__"]
    for name in names_of(cls):
        default = getattr(cls, name, _MISSING)
        known[f"of_{name}"] = default.make if isinstance(default, _Made) else default
        if isinstance(default, _Made):
            head.append(f"{name}=missing")
            body.append(f"fields['{name}'] = of_{name}() if {name} is missing else {name}")
        else:
            head.append(name if default is _MISSING else f"{name}=of_{name}")
            body.append(f"fields['{name}'] = {name}")
    exec(f"def {_INIT}({', '.join(head)}):\n " + "\n ".join(body), known)
    setattr(cls, _INIT, known[_INIT])


def _values(self: object) -> tuple[object, ...]:
    fields = self.__dict__
    return tuple([fields[name] for name in names_of(type(self))])


def _equal(self: object, other: object) -> object:
    return _values(self) == _values(other) if type(self) is type(other) else NotImplemented


def _hash(self: object) -> int:
    return hash(_values(self))


def _show(self: object) -> str:
    shown = ", ".join(f"{name}={value!r}" for name, value in zip(names_of(type(self)), _values(self), strict=True))
    return f"{type(self).__qualname__}({shown})"


def _refuse(self: object, name: str, *value: object) -> None:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"a field of a record is not to be changed: '{name}'")


class _Names:
    """A record's names, for `case` patterns."""

    def __get__(self, instance: object, owner: type[Any]) -> tuple[str, ...]:
        return names_of(owner)


class _Fields:
    """A record's fields as `dataclasses` describes them."""

    def __get__(self, instance: object, owner: type[Any]) -> object:
        from dataclasses import field, make_dataclass

        rows: list[tuple[str, Any, Any]] = []
        for name in names_of(owner):
            kind = next(base.__annotations__[name] for base in owner.__mro__ if name in base.__annotations__)
            default = getattr(owner, name, _MISSING)
            rows.append((name, kind, field(default_factory=default.make) if isinstance(default, _Made) else default))
        shown = make_dataclass(owner.__name__, [row if row[2] is not _MISSING else row[:2] for row in rows])
        setattr(owner, _FIELDS, shown.__dict__[_FIELDS])
        return shown.__dict__[_FIELDS]


_METHODS = {
    "__eq__": _equal,
    "__hash__": _hash,
    "__repr__": _show,
    "__setattr__": _refuse,
    "__delattr__": _refuse,
    "__match_args__": _Names(),
    _FIELDS: _Fields(),
}
