"""The laboratory: a shell in namespaces of its own, with its own ebpfd around it."""

from ebpf.kernels.daemon.lab.session import open_lab

__all__ = ["open_lab"]
