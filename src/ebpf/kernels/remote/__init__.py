"""The user kernel of another process: ebpfd, or a laboratory's."""

from ebpf.kernels.remote.kernel import RemoteKernel
from ebpf.kernels.remote.start import connect, folder, socket_path, terminate

__all__ = ["RemoteKernel", "connect", "folder", "socket_path", "terminate"]
