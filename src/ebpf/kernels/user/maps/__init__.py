"""Maps of the user kernel: one table of kinds, and what each needs besides memory."""

from ebpf.kernels.user.maps.base import Map, create

__all__ = ["Map", "create"]
