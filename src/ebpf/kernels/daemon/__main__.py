"""`python -m ebpf.kernels.daemon SOCKET`: ebpfd, as its first client starts it."""

import os
import sys
import time
from pathlib import Path

from ebpf.kernels.daemon.server import Server, stop_on_signals
from ebpf.kernels.user.state import State

_IDLE_S = 20.0


def main(argv: list[str]) -> int:
    """Serve until nobody needs it."""
    if len(argv) != 1:
        sys.stderr.write("usage: python -m ebpf.kernels.daemon SOCKET\n")
        return 2

    def log(line: str) -> None:
        sys.stdout.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} ebpfd[{os.getpid()}] {line}\n")
        sys.stdout.flush()

    server = Server(Path(argv[0]), State(), idle_s=float(os.environ.get("EBPF_DAEMON_IDLE_S", _IDLE_S)), log=log)
    stop_on_signals(server)
    log(f"serves {argv[0]}")
    log(f"ends: {server.run()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
