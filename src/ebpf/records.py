"""Records: frozen dataclasses that are finished when the first one is made, so that a module with fifty of them is quick to import."""

from dataclasses import dataclass, field
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")
_PENDING, _INIT = "_record_pending", "__init__"


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """A class whose annotated names are its fields: `dataclass(frozen=True)`, at the first use."""

    def first(self: T, *args: object, **named: object) -> None:
        finish(cls)
        # The class has its own by now.
        type(self).__init__(self, *args, **named)

    setattr(cls, _PENDING, True)
    setattr(cls, _INIT, first)
    return cls


def finish(cls: type[Any]) -> None:
    """See to it that a record's fields are known, and its bases' first."""
    for each in reversed(cls.__mro__):
        if each.__dict__.get(_PENDING):
            delattr(each, _PENDING)
            # A dataclass makes no method that is there already.
            delattr(each, _INIT)
            dataclass(frozen=True)(each)
