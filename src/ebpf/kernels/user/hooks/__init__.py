"""Where events come from: system calls of real processes."""

from ebpf.kernels.user.hooks.hooks import ANY_CALL, Hook, Hooks, Kind
from ebpf.kernels.user.hooks.process import Launch, launch

__all__ = ["ANY_CALL", "Hook", "Hooks", "Kind", "Launch", "launch"]
