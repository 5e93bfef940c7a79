"""An attachment that is held: closing it detaches."""

from collections.abc import Callable
from types import TracebackType
from typing import Self


class Link:
    """A program's attachment to `target`. Close it to detach, or use it in a with statement; closing twice does nothing."""

    def __init__(self, kind: str, target: str, undo: Callable[[], None]) -> None:
        self.kind = kind
        self.target = target
        self._undo: Callable[[], None] | None = undo

    def describe(self) -> str:
        """What is attached where, in a few words."""
        return f"{self.kind} {self.target}"

    def close(self) -> None:
        """Detach. Idempotent."""
        undo, self._undo = self._undo, None
        if undo is not None:
            undo()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
