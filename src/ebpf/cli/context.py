"""What every command is given: the options, the writers, and the kernel, opened when first asked for."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from ebpf.sys.kernel import Kernel

HELP_KERNELS = "user|linux|auto"


class Context:
    """The options of one invocation: what was called (ebpf, bpftool), the noun as typed. Close it to give back the kernel."""

    def __init__(self, command: str = "ebpf", *, kernel_name: str | None = None, json: bool = False, out: TextIO | None = None) -> None:
        self.command = command
        self.bpftool = command == "bpftool"
        self.noun = ""
        self.kernel_name = kernel_name
        self.strace = False
        self.json = json
        self.pretty = False
        self.bpffs = False
        self.nomount = False
        self.debug = False
        self.use_loader = False
        self.base_btf = ""
        self.out = out or sys.stdout
        self.err: TextIO = sys.stderr
        self._kernel: Kernel | None = None

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
