"""What every command is given: the options, the writers, and the kernel, opened when first asked for."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from ebpf.sys.kernel import Kernel

HELP_KERNELS = "user|linux|auto"


@dataclass(slots=True)
class Context:
    """The options of one invocation: what was called (ebpf, bpftool), the noun as typed. Close it to give back the kernel."""

    command: str = "ebpf"
    noun: str = ""
    kernel_name: str | None = None
    strace: bool = False
    json: bool = False
    pretty: bool = False
    bpffs: bool = False
    nomount: bool = False
    debug: bool = False
    use_loader: bool = False
    bpftool: bool = False
    base_btf: str = ""
    out: TextIO = field(default_factory=lambda: sys.stdout)
    err: TextIO = field(default_factory=lambda: sys.stderr)
    _kernel: "Kernel | None" = None

    def kernel(self, *, here: bool = False) -> "Kernel":
        """The kernel of this invocation: what --kernel says, else EBPF_KERNEL, else Linux's where it is permitted.

        The user kernel is ebpfd's, whose objects outlive the command, unless it has to be `here`, in this process.
        """
        if self._kernel is None:
            from ebpf.kernels import open_kernel

            kernel = open_kernel(self.kernel_name, here=here, lasting=not here)
            self._tell_news(kernel)
            if self.strace:
                from ebpf.sys import Recorder

                kernel = Recorder(kernel, self.err)
            self._kernel = kernel
        return self._kernel

    def _tell_news(self, kernel: "Kernel") -> None:
        """Say, once, what an ebpfd that ended unexpectedly took along."""
        from ebpf.kernels import daemon_news

        news = daemon_news(kernel)
        if news:
            self.note(f"note: {news}")

    def write(self, text: str) -> None:
        """Write a line to standard output."""
        print(text, file=self.out)

    def note(self, text: str) -> None:
        """Say something on the side (standard error), so that output can be piped."""
        print(text, file=self.err)

    def close(self) -> None:
        """Detach and close whatever this invocation still holds."""
        if self._kernel is not None:
            self._kernel.shutdown()
            self._kernel = None


Run = Callable[[Context, list[str]], int]
