"""The context structs of programs: fields with their offsets, widths and what may be done with them.

Sources: linux/bpf.h, linux/bpf_perf_event.h, asm/ptrace.h (x86-64).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final


class FieldKind(Enum):
    """What a load of a field gives."""

    SCALAR = auto()
    PACKET = auto()
    PACKET_END = auto()
    PACKET_META = auto()
    POINTER = auto()  # a kernel object: not for this verifier yet


@dataclass(frozen=True, slots=True)
class Field:
    """A field. `narrow`: a part of it may be read; `writable`: programs may store to it."""

    name: str
    offset: int
    size: int
    kind: FieldKind = FieldKind.SCALAR
    narrow: bool = True
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Context:
    """A context struct of `size` bytes. `words`: every aligned 8-byte word is a readable number (raw arguments)."""

    name: str
    size: int
    fields: tuple[Field, ...] = ()
    words: bool = False


def _u32s(names: str, start: int = 0, *, narrow: bool = True) -> tuple[Field, ...]:
    return tuple(Field(name, start + 4 * i, 4, narrow=narrow) for i, name in enumerate(names.split()))


def _u64s(names: str) -> tuple[Field, ...]:
    return tuple(Field(name, 8 * i, 8) for i, name in enumerate(names.split()))


_PT_REGS: Final = _u64s("r15 r14 r13 r12 bp bx r11 r10 r9 r8 ax cx dx si di orig_ax ip cs flags sp ss")

_ROWS: Final = (
    Context(
        "xdp_md",
        24,
        (
            Field("data", 0, 4, FieldKind.PACKET, narrow=False),
            Field("data_end", 4, 4, FieldKind.PACKET_END, narrow=False),
            Field("data_meta", 8, 4, FieldKind.PACKET_META, narrow=False),
            *_u32s("ingress_ifindex rx_queue_index egress_ifindex", 12, narrow=False),
        ),
    ),
    Context(
        "__sk_buff",
        192,
        (
            *_u32s("len pkt_type"),
            Field("mark", 8, 4, writable=True),
            Field("queue_mapping", 12, 4, writable=True),
            *_u32s("protocol vlan_present vlan_tci vlan_proto", 16),
            Field("priority", 32, 4, writable=True),
            *_u32s("ingress_ifindex ifindex", 36),
            Field("tc_index", 44, 4, writable=True),
            *(Field(f"cb{i}", 48 + 4 * i, 4, writable=True) for i in range(5)),
            Field("hash", 68, 4),
            Field("tc_classid", 72, 4, writable=True),
            Field("data", 76, 4, FieldKind.PACKET, narrow=False),
            Field("data_end", 80, 4, FieldKind.PACKET_END, narrow=False),
            Field("napi_id", 84, 4),
            *_u32s("family remote_ip4 local_ip4", 88),
            *_u32s("remote_ip6_0 remote_ip6_1 remote_ip6_2 remote_ip6_3", 100),
            *_u32s("local_ip6_0 local_ip6_1 local_ip6_2 local_ip6_3 remote_port local_port", 116),
            Field("data_meta", 140, 4, FieldKind.PACKET_META, narrow=False),
            Field("flow_keys", 144, 8, FieldKind.POINTER),
            Field("tstamp", 152, 8, writable=True),
            *_u32s("wire_len gso_segs", 160),
            Field("sk", 168, 8, FieldKind.POINTER),
            Field("gso_size", 176, 4),
            Field("tstamp_type", 180, 1),
            Field("hwtstamp", 184, 8),
        ),
    ),
    Context("pt_regs", 168, _PT_REGS),
    Context("bpf_perf_event_data", 184, (*_PT_REGS, Field("sample_period", 168, 8), Field("addr", 176, 8))),
    Context("bpf_raw_tracepoint_args", 96, words=True),
    Context("bpf_cgroup_dev_ctx", 12, _u32s("access_type major minor")),
)
CONTEXTS: Final[Mapping[str, Context]] = {row.name: row for row in _ROWS}
