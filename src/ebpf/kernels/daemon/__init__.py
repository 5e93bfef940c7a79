"""ebpfd: a user kernel in a process of its own, for what outlives one process."""

from ebpf.kernels.daemon.server import Server

__all__ = ["Server"]
