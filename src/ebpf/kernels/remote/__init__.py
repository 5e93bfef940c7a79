"""The user kernel of another process: ebpfd, or a laboratory's."""

from ebpf.kernels.remote.find import connect, folder, socket_path, terminate
from ebpf.kernels.remote.kernel import RemoteKernel

__all__ = ["RemoteKernel", "connect", "folder", "socket_path", "terminate"]
