"""A kernel that answers from a script: for tests of what is above the seam, with no kernel at all."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, cast

from ebpf.errors import NotSupportedError
from ebpf.sys.calls import Call, R

Answer = Any


class Scripted:
    """Answers each call by the first rule for its type; an exception as answer is raised. `calls` has what was asked.

    A rule is (type of call, answer or function of the call). Descriptors that were closed are in `closed`.
    """

    name = "scripted"
    possible_cpus = 2
    lasting = True
    lab = None

    def __init__(self, rules: Sequence[tuple[type[Call[Any]], "Answer | Callable[[Any], Answer]"]]) -> None:
        self._rules = list(rules)
        self.calls: list[Call[Any]] = []
        self.closed: list[int] = []

    def bpf(self, call: Call[R]) -> R:
        """Answer by the script."""
        self.calls.append(call)
        for kind, answer in self._rules:
            if isinstance(call, kind):
                value = answer(call) if callable(answer) else answer
                if isinstance(value, BaseException):
                    raise value
                return cast(R, value)
        raise NotSupportedError(f"bpf({call.cmd.name})", "is not in the script")

    def finder(self, fd: int, key: str, value: str) -> None:
        """None: look-ups are calls as all others."""

    def close(self, fd: int) -> None:
        """Note that a descriptor was closed."""
        self.closed.append(fd)

    def shutdown(self) -> None:
        """Nothing is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.shutdown()
