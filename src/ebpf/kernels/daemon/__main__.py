"""`python -m ebpf.kernels.daemon SOCKET`: ebpfd, as its first client starts it."""

import fcntl
import os
import sys
import time
from pathlib import Path

from ebpf.errors import UsageError
from ebpf.kernels.daemon.limits import SECONDS, limits_of, number
from ebpf.kernels.daemon.saved import Saved
from ebpf.kernels.daemon.server import Server, raise_descriptors, stop_on_signals
from ebpf.kernels.user.state import State

_IDLE_S = 20.0
# How long another one's end is waited for.
_ENDING_S = 5.0


def main(argv: list[str]) -> int:
    """Serve until nobody needs it."""
    if len(argv) != 1:
        sys.stderr.write("usage: python -m ebpf.kernels.daemon SOCKET\n")
        return 2
    try:
        limits = limits_of()
        idle_s = number(os.environ, "EBPF_DAEMON_IDLE_S", SECONDS, "seconds, like 0.5") or _IDLE_S
    except UsageError as error:
        _log(str(error))
        return 2
    path, save = Path(argv[0]), os.environ.get("EBPF_DAEMON_SAVE", "")
    if save and not os.path.isabs(save):
        _log(f"EBPF_DAEMON_SAVE='{save}': not the whole path of a file")
        return 2
    lock = _alone(path.with_suffix(".alive"))
    if lock < 0:
        _log("another ebpfd serves here: leaves")
        return 0
    raise_descriptors()
    server = Server(path, State(), idle_s=idle_s, log=_log, limits=limits, saved=Saved(Path(save)) if save else None)
    stop_on_signals(server)
    _log(f"serves {path}")
    _log(f"ends: {server.run()}")
    return 0


def _alone(path: Path) -> int:
    """Hold a lock as long as this process lives, so that of two that were started one serves; -1 if another one does and stays."""
    lock = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _ENDING_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > deadline:
                os.close(lock)
                return -1
            time.sleep(0.01)
        else:
            return lock


def _log(line: str) -> None:
    sys.stdout.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} ebpfd[{os.getpid()}] {line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
