"""Records: frozen dataclasses that are finished when they are first used, so that a module with fifty of them is quick to import."""

from dataclasses import dataclass, field
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")
_INIT, _FIELDS = "__init__", "__dataclass_fields__"


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """A class whose annotated names are its fields: `dataclass(frozen=True)`, when the first one is made or its fields are asked for."""

    def first(self: T, *args: object, **named: object) -> None:
        _finish(cls)
        # The class has its own by now.
        type(self).__init__(self, *args, **named)

    setattr(cls, _INIT, first)
    setattr(cls, _FIELDS, _Fields())
    return cls


class _Fields:
    """Stands for the fields of a record that is not finished."""

    def __get__(self, instance: object, owner: type[Any]) -> object:
        _finish(owner)
        return getattr(owner, _FIELDS)


def _finish(cls: type[Any]) -> None:
    for each in reversed(cls.__mro__):
        if isinstance(each.__dict__.get(_FIELDS), _Fields):
            # A dataclass makes no method that is there already.
            delattr(each, _INIT)
            delattr(each, _FIELDS)
            dataclass(frozen=True)(each)
