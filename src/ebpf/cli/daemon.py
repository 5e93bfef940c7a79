"""`ebpf daemon`: look after ebpfd, which keeps the user kernel's pinned objects."""

import errno
import re
import time

from ebpf.cli.context import Context
from ebpf.cli.jsonw import Json, dumps
from ebpf.cli.noun import Verb, dispatch, help_verb
from ebpf.cli.words import Words
from ebpf.errors import KernelError

# How long an end may take: what is pinned may have to be saved.
_ENDS_S = 60


def run(context: Context, argv: list[str]) -> int:
    """Carry out one `daemon` command."""
    return dispatch(context, argv or ["status"], "daemon", _VERBS)


def status(context: Context, words: Words) -> int:
    """Print what the daemon tells of itself; 1 if it does not run."""
    from ebpf.kernels import daemon_fell, daemon_status

    words.end()
    answer = daemon_status()
    if answer is None:
        fell = daemon_fell()
        if context.json:
            context.write(dumps({"running": False, "ended_unexpectedly": fell}, pretty=context.pretty))
        else:
            context.write("ebpfd does not run" + (": it ended unexpectedly, and the next command starts it again" if fell else ""))
        return 1
    if context.json:
        context.write(dumps({"running": True, **answer}, pretty=context.pretty))
        return 0
    limits = answer["limits"]
    context.write(f"ebpfd runs: pid {answer['pid']}, for {answer['uptime_s']} s, {answer['resident_bytes'] >> 20} MB, {answer['socket']}")
    context.write(
        f"{answer['programs']} programs, {answer['maps']} maps, {answer['links']} links, {answer['btfs']} BTFs; "
        f"{answer['clients'] - 1} other clients"
    )
    context.write(
        f"a client may have {limits['objects']} objects, {limits['memory'] >> 20} MB, {limits['cpu_ms'] / 1000:g} s for a test run"
    )
    if answer["saved"]:
        context.write(f"pins are saved in {answer['saved']}")
    for pin in answer["pins"]:
        context.write(f"pinned {pin}")
    for pin in answer["lost"]:
        context.write(f"lost by an unexpected end: {pin}")
    return 0


def stop(context: Context, words: Words) -> int:
    """End the daemon."""
    from ebpf.kernels import daemon_runs, stop_daemon

    words.end()
    stopped = stop_daemon()
    deadline = time.monotonic() + _ENDS_S
    while stopped and daemon_runs():
        if time.monotonic() > deadline:
            raise KernelError(errno.ETIMEDOUT, "daemon stop", f"ebpfd did not end within {_ENDS_S} s")
        time.sleep(0.01)
    if context.json:
        context.write(dumps({"stopped": stopped}, pretty=context.pretty))
    elif not stopped:
        context.note("ebpfd does not run")
    return 0


def log(context: Context, words: Words) -> int:
    """Print the daemon's log: in JSON a time, a pid and a text for each line."""
    from ebpf.kernels import daemon_log

    words.end()
    path = daemon_log()
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    if context.json:
        context.write(dumps({"file": str(path), "lines": [_parsed(line) for line in lines]}, pretty=context.pretty))
    elif lines:
        context.write("\n".join(lines))
    else:
        context.note(f"there is no log yet ({path})")
    return 0


def _parsed(line: str) -> dict[str, Json]:
    """A line of the log; what is in no form of ours (a fault's text) is text alone."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) ebpfd\[(\d+)\] (.*)", line)
    return {"time": found[1], "pid": int(found[2]), "text": found[3]} if found else {"text": line}


_VERBS: dict[str, Verb] = {"status": status, "stop": stop, "log": log, "help": help_verb("daemon")}
