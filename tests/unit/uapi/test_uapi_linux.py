"""The rights that the context tables give are those of Linux's verifier, asked field by field."""

import os

import pytest

from ebpf.isa import asm, encode
from ebpf.uapi import CONTEXTS, PROGRAM_TYPES, AttachType, Field, FieldKind, ProgType
from support import linux_bpf

A, P = AttachType, ProgType
#: By context: program and attach types that together have all of its rights.
ASKED: dict[str, tuple[tuple[ProgType, int], ...]] = {
    "xdp_md": ((P.XDP, 0), (P.XDP, A.XDP_DEVMAP)),
    "__sk_buff": ((P.SCHED_CLS, 0), (P.SK_SKB, 0), (P.FLOW_DISSECTOR, A.FLOW_DISSECTOR)),
    "pt_regs": ((P.KPROBE, 0),),
    "bpf_perf_event_data": ((P.PERF_EVENT, 0),),
    "bpf_cgroup_dev_ctx": ((P.CGROUP_DEVICE, A.CGROUP_DEVICE),),
    "bpf_sock": tuple(
        (P.CGROUP_SOCK, attach) for attach in (A.CGROUP_INET_SOCK_CREATE, A.CGROUP_INET4_POST_BIND, A.CGROUP_INET6_POST_BIND)
    ),
    "bpf_sock_ops": ((P.SOCK_OPS, A.CGROUP_SOCK_OPS),),
    "sk_msg_md": ((P.SK_MSG, A.SK_MSG_VERDICT),),
    "bpf_sock_addr": tuple(
        (P.CGROUP_SOCK_ADDR, attach) for attach in (A.CGROUP_INET4_CONNECT, A.CGROUP_UDP4_SENDMSG, A.CGROUP_UDP6_SENDMSG)
    ),
    "sk_reuseport_md": ((P.SK_REUSEPORT, A.SK_REUSEPORT_SELECT_OR_MIGRATE),),
    "bpf_sysctl": ((P.CGROUP_SYSCTL, A.CGROUP_SYSCTL),),
    "bpf_sockopt": ((P.CGROUP_SOCKOPT, A.CGROUP_SETSOCKOPT), (P.CGROUP_SOCKOPT, A.CGROUP_GETSOCKOPT)),
    "bpf_sk_lookup": ((P.SK_LOOKUP, A.SK_LOOKUP),),
}
TYPES = {1: "u8", 2: "u16", 4: "u32", 8: "u64"}


def test_every_context_with_fields_is_asked() -> None:
    used = {row.context for row in PROGRAM_TYPES.values()}
    assert set(ASKED) == {row.name for row in CONTEXTS.values() if row.fields and row.name in used}


def _allowed(text: str, context: str) -> bool:
    for prog_type, attach in ASKED[context]:
        fd, _ = linux_bpf.load(encode(asm(f"r6 = r1\nr7 = 1\n{text}\nr0 = 1\nexit")), prog_type, attach_type=attach)
        if fd >= 0:
            os.close(fd)
            return True
    return False


@pytest.mark.linux
@pytest.mark.parametrize(
    ("context", "field"),
    [(context, field) for context in ASKED for field in CONTEXTS[context].fields],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_linux_gives_the_same_rights(context: str, field: Field) -> None:
    cell = f"*({TYPES[field.size]} *)(r6 + {field.offset})"
    assert _allowed(f"r0 = {cell}", context)
    if field.size > 1 and field.kind is FieldKind.SCALAR:
        assert _allowed(f"r0 = *(u8 *)(r6 + {field.offset})", context) == field.narrow
    assert _allowed(f"{cell} = r7", context) == field.writable
    is_pointer = not _allowed(f"r0 = {cell}\nr0 *= 3", context)
    assert is_pointer == (field.kind is not FieldKind.SCALAR)
