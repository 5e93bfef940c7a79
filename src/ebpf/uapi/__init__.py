"""The kernel's numbers and names as tables. The large ones are read when they are first asked for."""

from typing import TYPE_CHECKING

from ebpf.lazy import names
from ebpf.uapi.bpf import (
    AttachType,
    CallSrc,
    Cmd,
    LinkType,
    MapFlag,
    MapType,
    ProgFlag,
    ProgType,
    PseudoSrc,
    UpdateFlag,
    XdpAction,
    XdpFlag,
)
from ebpf.uapi.licenses import is_gpl
from ebpf.uapi.map_types import MAP_TYPES, MapKind
from ebpf.uapi.prog_types import PERFMON_HELPERS, PROGRAM_TYPES, ProgramType

if TYPE_CHECKING:
    from ebpf.uapi.contexts import CONTEXTS, Context, Field, FieldKind
    from ebpf.uapi.helpers import HELPERS, HELPERS_BY_NAME, Arg, Helper, Ret
    from ebpf.uapi.perf import PERF_EVENTS
    from ebpf.uapi.sections import SECTIONS, Section, section_row
    from ebpf.uapi.syscalls import SYSCALLS

__getattr__ = names(
    __name__,
    {
        "CONTEXTS": "contexts",
        "Context": "contexts",
        "Field": "contexts",
        "FieldKind": "contexts",
        "HELPERS": "helpers",
        "HELPERS_BY_NAME": "helpers",
        "Arg": "helpers",
        "Helper": "helpers",
        "Ret": "helpers",
        "PERF_EVENTS": "perf",
        "SECTIONS": "sections",
        "Section": "sections",
        "section_row": "sections",
        "SYSCALLS": "syscalls",
    },
)
__all__ = [
    "CONTEXTS",
    "HELPERS",
    "HELPERS_BY_NAME",
    "MAP_TYPES",
    "PERF_EVENTS",
    "PERFMON_HELPERS",
    "PROGRAM_TYPES",
    "SECTIONS",
    "SYSCALLS",
    "Arg",
    "AttachType",
    "CallSrc",
    "Cmd",
    "Context",
    "Field",
    "FieldKind",
    "Helper",
    "LinkType",
    "MapFlag",
    "MapKind",
    "MapType",
    "ProgFlag",
    "ProgType",
    "ProgramType",
    "PseudoSrc",
    "Ret",
    "Section",
    "UpdateFlag",
    "XdpAction",
    "XdpFlag",
    "is_gpl",
    "section_row",
]
