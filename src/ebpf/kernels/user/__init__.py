"""A kernel in user space: this process's own."""

from ebpf.kernels.user.kernel import UserKernel

__all__ = ["UserKernel"]
