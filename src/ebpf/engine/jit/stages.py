"""Machine code that is there soon: of a large program first quickly made code, and in its place the optimised when that is ready."""

import os
import threading
from collections.abc import Callable, Sequence
from typing import Final

from ebpf.engine.jit.cache import compile_image, compile_quickly, kept_image
from ebpf.engine.jit.image import LoadedCode, load_image
from ebpf.engine.jit.writer import Slot
from ebpf.engine.program import Prepared
from ebpf.errors import EbpfError

#: From so many instructions on optimising takes a fifth of a second or more.
LARGE: Final = 1500

Fill = Callable[[Sequence[Slot]], Sequence[int]]


class Compiled:
    """A program's machine code. `entry` stays the same whichever code is behind it. Close it to give back its memory.

    `fill` gives the values of a table's entries.
    """

    def __init__(self, program: Prepared, fill: Fill) -> None:
        self._program, self._fill = program, fill
        self._lock = threading.Lock()
        self._closed = False
        self._better: LoadedCode | None = None
        large = len(program.insns) > LARGE
        kept = kept_image(program) if large else None
        quick = large and kept is None
        image, table = kept or (compile_quickly(program) if quick else compile_image(program))
        self._code = load_image(image, fill(table))
        self.entry = self._code.entry
        if quick:
            _Improving(self._improve).start()

    @property
    def optimised(self) -> bool:
        """Whether the code is as good as it gets."""
        return self._better is not None or not self._code.leads

    @property
    def size(self) -> int:
        """Bytes of the code that runs."""
        return (self._better or self._code).size

    def image(self) -> bytes:
        """The code that runs, as it is."""
        return (self._better or self._code).image()

    def _improve(self) -> None:
        try:
            image, table = compile_image(self._program)
            with self._lock:
                if not self._closed:
                    self._better = load_image(image, self._fill(table))
                    self._code.lead_to(self._better.entry)
        except EbpfError:
            # The first code is as right, and there is nobody here to tell.
            return

    def close(self) -> None:
        """Unmap the code; nothing may run it any more. Idempotent."""
        with self._lock:
            self._closed = True
            if self._better is not None:
                self._better.close()
            self._code.close()


class _Improving(threading.Thread):
    """Compiles while the program runs. The process waits for its end, and so does a fork: LLVM has locks."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(target=work, name="ebpf-jit")


def _wait() -> None:
    for thread in threading.enumerate():
        if isinstance(thread, _Improving):
            thread.join()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_wait)
