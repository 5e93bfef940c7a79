"""Which helpers a program type may call: a program of one call for each pair. The verdicts differ in their last lines alone."""

from collections.abc import Iterator
from typing import Final

from bench.agreement.case import Case
from bench.agreement.generate import insn

from ebpf.uapi import AttachType, ProgType
from ebpf.uapi.helpers import HELPERS
from ebpf.uapi.prog_types import PROGRAM_TYPES

#: Types that must say how or where they would be attached.
_ATTACHED: Final[dict[ProgType, tuple[tuple[int, str], ...]]] = {
    ProgType.TRACING: (
        (AttachType.TRACE_FENTRY, "bpf_fentry_test1"),
        (AttachType.TRACE_FEXIT, "bpf_fentry_test1"),
        (AttachType.TRACE_RAW_TP, "sys_enter"),
        (AttachType.TRACE_ITER, "task"),
    ),
    ProgType.LSM: ((AttachType.LSM_MAC, "file_open"),),
    ProgType.CGROUP_SOCK: ((AttachType.CGROUP_INET_SOCK_CREATE, ""),),
    ProgType.CGROUP_SOCK_ADDR: ((AttachType.CGROUP_INET4_CONNECT, ""),),
    ProgType.CGROUP_SOCKOPT: ((AttachType.CGROUP_SETSOCKOPT, ""), (AttachType.CGROUP_GETSOCKOPT, "")),
    ProgType.SK_LOOKUP: ((AttachType.SK_LOOKUP, ""),),
    ProgType.SK_REUSEPORT: ((AttachType.SK_REUSEPORT_SELECT, ""),),
    ProgType.NETFILTER: ((AttachType.NETFILTER, ""),),
}


def cases() -> Iterator[Case]:
    """A case for each program type and helper."""
    for kind in PROGRAM_TYPES.values():
        for attach_type, target in _ATTACHED.get(kind.type, ((0, ""),)) if kind.helpers is not None else ():
            for helper in HELPERS.values():
                code = insn(0x85, imm=helper.id) + insn(0xB7) + insn(0x95)
                name = f"{kind.name} {attach_type} {helper.name}"
                file = f"{kind.name}:{attach_type}"
                yield Case(f"permitted/{file}#{helper.id}", "permitted", file, name, code, int(kind.type), int(attach_type), target=target)
