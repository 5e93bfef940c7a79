"""`ebpf run SCRIPT [ARGS] [-- COMMAND...]`: a BCC script, and a command whose events it sees.

The command is held before its exec until the script first blocks (reads its trace, polls, sleeps) or ends. When the command
ends, the events that remain are delivered, the script's main thread gets KeyboardInterrupt, and our exit status is the command's.
"""

import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ebpf.cli.context import Context
from ebpf.errors import EbpfError, NotFoundError, UsageError, near

if TYPE_CHECKING:
    from ebpf.cli.held import Watch

USAGE = """usage: ebpf [--kernel user|linux] run [--system-wide] SCRIPT [ARGS...] [-- COMMAND [ARGS...]]

Run a BCC script (`from bcc import BPF` is ebpf's while it runs). It sees the events of COMMAND and of all that COMMAND starts.
Without COMMAND: on the user kernel your shell, when you are on a terminal; on Linux everything, until Ctrl-C.
  --system-wide   on Linux: every process's events, also when there is a COMMAND"""


def run(context: Context, words: list[str]) -> int:
    """Run the script and return the command's exit status (the script's, if there is no command)."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    system_wide = False
    while words and words[0].startswith("-") and words[0] != "--":
        option = words.pop(0)
        if option != "--system-wide":
            raise UsageError(f"run: unrecognized option '{option}'; ebpf run --help")
        system_wide = True
    if not words or words[0] == "--":
        raise UsageError("run: which script? ebpf run SCRIPT [ARGS] [-- COMMAND]")
    cut = words.index("--") if "--" in words else len(words)
    script, argv = Path(words[0]), words[:cut]
    if not script.is_file():
        raise NotFoundError("script", str(script), near=[str(p) for p in _near(script)])
    command = resolve(words[cut + 1 :])
    if "--" in words and not command:
        raise UsageError("run: nothing after '--'; name the command to run")
    # A laboratory's daemon sees all that runs in it; a command of our own is seen from here.
    kernel = context.kernel(here=bool(command) or not os.environ.get("EBPF_DAEMON"))
    if not kernel.lab.system_wide:
        if system_wide:
            raise UsageError("run: --system-wide needs Linux's kernel: the user kernel sees the command's tree; add --kernel linux")
        command = command or _shell()
    with ExitStack() as stack:
        stack.enter_context(_notices())
        watch = None
        if command:
            from ebpf.cli.held import Watch

            watch = stack.enter_context(Watch(kernel, command, scoped=not system_wide))
        return _script(context, script, argv, watch)


class _Notice(logging.Handler):
    """Says what the package has to say, each thing once."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = str(record.msg)
        if text not in self._said:
            self._said.add(text)
            print(f"note: {record.getMessage()}", file=sys.stderr)


@contextmanager
def _notices() -> Iterator[None]:
    """Show the package's notices (what it does in another way than asked) while a script runs."""
    logger, handler = logging.getLogger("ebpf"), _Notice()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def resolve(command: list[str]) -> list[str]:
    """Resolve the command against PATH, as a shell does, so that its exec is one call and not one for each folder."""
    if not command:
        return []
    path = shutil.which(command[0])
    if path is None:
        raise NotFoundError("command", command[0], where="" if "/" in command[0] else "PATH")
    return [path, *command[1:]]


def _near(script: Path) -> list[Path]:
    try:
        names = [p.name for p in script.parent.iterdir() if p.suffix == ".py"]
    except OSError:
        return []
    return [script.parent / n for n in near(script.name, names)]


def _shell() -> list[str]:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("run: the user kernel sees a command's events: which? ebpf run SCRIPT -- COMMAND (or --kernel linux, as root)")
    return [os.environ.get("SHELL") or "/bin/sh"]


def _script(context: Context, script: Path, argv: list[str], watch: "Watch | None") -> int:
    """Run the script as __main__; what it leaves attached is detached before the command's end is awaited."""
    import runpy

    from ebpf import bcc

    failure: EbpfError | None = None
    status = 0
    kernel = context.kernel()
    with bcc.session(kernel) as opened, bcc.install(), _as_main(script, argv):
        if watch is not None:
            watch.begun = lambda: bool(opened)
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as stop:
            status = _status(stop)
        except KeyboardInterrupt:
            # Scripts end so when their command does; a real Ctrl-C looks the same to them.
            status = 130
        except EbpfError as error:
            failure = error
    sys.stdout.flush()
    if watch is None:
        if failure is not None:
            raise failure
        return status
    if failure is not None and not watch.process.released:
        raise failure
    status = watch.finish()
    if failure is not None:
        raise failure
    return status


def _status(stop: SystemExit) -> int:
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        return stop.code & 0xFF
    print(stop.code, file=sys.stderr)
    return 1


@contextmanager
def _as_main(script: Path, argv: list[str]) -> Iterator[None]:
    """Give the script the argv and import path that `python SCRIPT` would give it."""
    saved = sys.argv, list(sys.path)
    sys.argv = list(argv)
    sys.path.insert(0, str(script.resolve().parent))
    try:
        yield
    finally:
        sys.argv, sys.path[:] = saved
