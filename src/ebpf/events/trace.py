"""The trace pipe: the lines that bpf_trace_printk writes."""

import re
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from ebpf.events.waiting import ready
from ebpf.sys.kernel import Kernel

_LINE = re.compile(rb"^\s*(?P<task>.{1,16}?)-(?P<pid>\d+)\s+(?:\([ \d-]+\)\s+)?\[(?P<cpu>\d+)\]\s+(?P<flags>\S+)\s+(?P<ts>[\d.]+): ")
_MESSAGE = re.compile(rb"^.*?: (?:bpf_trace_printk|[^\s:]+): (?P<text>.*)$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class TraceLine:
    """A line taken apart: who wrote it, where and when (seconds), and the message."""

    task: bytes
    pid: int
    cpu: int
    flags: bytes
    timestamp_s: float
    message: bytes

    @classmethod
    def parse(cls, line: bytes) -> "TraceLine | None":
        """Take a line apart; None for one of another shape (a notice of lost lines)."""
        found = _LINE.match(line)
        if found is None:
            return None
        text = _MESSAGE.match(line[found.start("ts") :])
        message = text["text"] if text is not None else line[found.end() :]
        return cls(found["task"], int(found["pid"]), int(found["cpu"]), found["flags"], float(found["ts"]), message)


class TracePipe:
    """Lines of a kernel's trace, from its opening on. Close it, or use it in a with statement."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._fd = kernel.trace_open()
        self._rest = b""
        self._lines: deque[bytes] = deque()

    @property
    def fd(self) -> int:
        """The kernel's descriptor to wait on."""
        return self._fd

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._fd < 0

    def _fill(self) -> bool:
        self._rest += self._kernel.trace_read(self._fd)
        whole, newline, self._rest = self._rest.rpartition(b"\n")
        if newline:
            self._lines.extend(whole.split(b"\n"))
        else:
            self._rest = whole + self._rest
        return bool(self._lines)

    def read(self, timeout_s: float | None = None) -> bytes | None:
        """The next line without its newline, waiting for it; None when the time is over."""
        while not self._lines:
            if self._fill():
                break
            if not self._kernel.wait([self._fd], timeout_s) and timeout_s is not None:
                return None
        return self._lines.popleft()

    def pending(self) -> bytes | None:
        """The next line if there is one, without waiting."""
        return self._lines.popleft() if self._lines or self._fill() else None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Lines as they come, for ever, in asyncio."""
        while True:
            while (line := self.pending()) is not None:
                yield line
            await ready(self._kernel, [self._fd])

    def __iter__(self) -> Iterator[bytes]:
        """Lines as they come, for ever (a command's end is KeyboardInterrupt)."""
        while True:
            line = self.read()
            if line is not None:
                yield line

    def close(self) -> None:
        """Stop reading. Idempotent."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._kernel.close(fd)

    def __enter__(self) -> "TracePipe":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
