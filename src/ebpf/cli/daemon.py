"""`ebpf daemon`: look after ebpfd, which keeps the user kernel's pinned objects."""

import errno
import time

from ebpf.cli.context import Context
from ebpf.cli.jsonw import dumps
from ebpf.cli.noun import Verb, dispatch, done, help_verb
from ebpf.cli.words import Words
from ebpf.errors import KernelError

# How long an end may take: what is pinned may have to be saved.
_ENDS_S = 60


def run(context: Context, argv: list[str]) -> int:
    """Carry out one `daemon` command."""
    return dispatch(context, argv or ["status"], "daemon", _VERBS)


def status(context: Context, words: Words) -> int:
    """Print what the daemon tells of itself."""
    from ebpf.kernels import daemon_status

    words.end()
    answer = daemon_status()
    if answer is None:
        if context.json:
            context.write(dumps({"running": False}, pretty=context.pretty))
        else:
            context.write("ebpfd does not run")
        return 1
    if context.json:
        context.write(dumps({"running": True, **answer}, pretty=context.pretty))
        return 0
    context.write(f"ebpfd runs: pid {answer['pid']}, for {answer['uptime_s']} s, {answer['resident_bytes'] >> 20} MB, {answer['socket']}")
    context.write(
        f"{answer['programs']} programs, {answer['maps']} maps, {answer['links']} links, {answer['btfs']} BTFs; "
        f"{answer['clients'] - 1} other clients"
    )
    for pin in answer["pins"]:
        context.write(f"pinned {pin}")
    return 0


def stop(context: Context, words: Words) -> int:
    """End the daemon."""
    from ebpf.kernels import daemon_runs, stop_daemon

    words.end()
    if not stop_daemon():
        context.note("ebpfd does not run")
        done(context)
        return 0
    deadline = time.monotonic() + _ENDS_S
    while daemon_runs():
        if time.monotonic() > deadline:
            raise KernelError(errno.ETIMEDOUT, "daemon stop", f"ebpfd did not end within {_ENDS_S} s")
        time.sleep(0.01)
    done(context)
    return 0


def log(context: Context, words: Words) -> int:
    """Print the daemon's log."""
    from ebpf.kernels import daemon_log

    words.end()
    path = daemon_log()
    if path.is_file():
        context.write(path.read_text(errors="replace").rstrip("\n"))
    return 0


_VERBS: dict[str, Verb] = {"status": status, "stop": stop, "log": log, "help": help_verb("daemon")}
