"""`ebpf lab [-- COMMAND...]`: a shell in namespaces of its own, where the tutorial's commands work as they stand."""

import os
import sys

from ebpf.cli.context import Context
from ebpf.errors import UsageError

USAGE = """usage: ebpf [--kernel linux] lab [-q] [-- COMMAND [ARGS...]]

Open a shell (or run COMMAND, and end with its exit status) in a laboratory: user, network and mount namespaces of its own where the
host allows them, its own ebpfd, and `bpftool`, `clang` for BPF and python's `bcc` by their names. Programs see the system calls of
all that runs in it, and the packets of its interfaces. Root is not needed. With --kernel linux, as root, the same names in a network
and a /sys/fs/bpf of its own, on Linux's kernel.
  -q   no banner"""


def run(context: Context, words: list[str]) -> int:
    """Open it, and return the shell's exit status."""
    if words and words[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    quiet = False
    while words and words[0].startswith("-") and words[0] != "--":
        option = words.pop(0)
        if option not in ("-q", "--quiet"):
            raise UsageError(f"lab: unrecognized option '{option}'; ebpf lab --help")
        quiet = True
    if words and words[0] != "--":
        raise UsageError(f"lab: a command stands behind --: ebpf lab -- {' '.join(words)}")
    if words and len(words) == 1:
        raise UsageError("lab: nothing after '--'; name the command to run")
    command = words[1:]
    if not command:
        if not sys.stdin.isatty():
            raise UsageError("lab: standard input is no terminal: name a command, ebpf lab -- COMMAND")
        command = [os.environ.get("SHELL") or "/bin/sh"]
    from ebpf.kernels import open_lab

    # In scripts the lab is quiet.
    speaks = not quiet and sys.stderr.isatty()
    # Only who asks for it gets Linux's kernel: the lab is for what needs no root.
    return open_lab(command, context.note if speaks else None, linux=context.kernel_name == "linux")
