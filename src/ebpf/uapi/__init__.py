"""The kernel's numbers and names as tables."""

from ebpf.uapi.bpf import (
    AttachType,
    CallSrc,
    Cmd,
    LinkType,
    MapFlag,
    MapType,
    ProgType,
    PseudoSrc,
    UpdateFlag,
    XdpAction,
    XdpFlag,
)

__all__ = [
    "AttachType",
    "CallSrc",
    "Cmd",
    "LinkType",
    "MapFlag",
    "MapType",
    "ProgType",
    "PseudoSrc",
    "UpdateFlag",
    "XdpAction",
    "XdpFlag",
]
