"""The context structs of programs: fields with their offsets, widths and what may be done with them.

Sources: linux/bpf.h, linux/bpf_perf_event.h, asm/ptrace.h (x86-64); the rights were asked of a 6.18 kernel. Where they
depend on the attach type, a row has all that any of them has.
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
    """A field. `narrow`: a part of it may be read; `writable`: programs may store to it; `since`: older kernels in use have it not."""

    name: str
    offset: int
    size: int
    kind: FieldKind = FieldKind.SCALAR
    narrow: bool = True
    writable: bool = False
    since: str = ""


@dataclass(frozen=True, slots=True)
class Context:
    """A context struct of `size` bytes. `words`: every aligned 8-byte word is a readable number (raw arguments)."""

    name: str
    size: int
    fields: tuple[Field, ...] = ()
    words: bool = False


def _u32s(names: str, start: int = 0, *, narrow: bool = True) -> tuple[Field, ...]:
    return tuple(Field(name, start + 4 * i, 4, narrow=narrow) for i, name in enumerate(names.split()))


def _u64s(names: str, *, narrow: bool = True) -> tuple[Field, ...]:
    return tuple(Field(name, 8 * i, 8, narrow=narrow) for i, name in enumerate(names.split()))


def _ip6(name: str) -> str:
    return " ".join(f"{name}_{i}" for i in range(4))


def _bulk(names: str, start: int, *, narrow: bool = False, writable: bool = False) -> tuple[Field, ...]:
    return tuple(Field(name, start + 4 * i, 4, narrow=narrow, writable=writable) for i, name in enumerate(names.split()))


def _pointers(names: str, start: int) -> tuple[Field, ...]:
    """8-byte fields: `*_end` ends the packet memory that the one before it begins, `*sk` is a socket."""
    return tuple(Field(name, start + 8 * i, 8, _pointer_kind(name), narrow=False) for i, name in enumerate(names.split()))


def _pointer_kind(name: str) -> FieldKind:
    if name.endswith("sk"):
        return FieldKind.POINTER
    return FieldKind.PACKET_END if name.endswith("_end") else FieldKind.PACKET


_REGISTERS: Final = "r15 r14 r13 r12 bp bx r11 r10 r9 r8 ax cx dx si di orig_ax ip cs flags sp ss"

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
            *_u32s("family", 88),
            *_bulk(f"remote_ip4 local_ip4 {_ip6('remote_ip6')} {_ip6('local_ip6')}", 92),
            *_u32s("remote_port local_port", 132),
            Field("data_meta", 140, 4, FieldKind.PACKET_META, narrow=False),
            Field("flow_keys", 144, 8, FieldKind.POINTER),
            Field("tstamp", 152, 8, narrow=False, writable=True),
            *_u32s("wire_len gso_segs", 160),
            Field("sk", 168, 8, FieldKind.POINTER),
            Field("gso_size", 176, 4),
            Field("tstamp_type", 180, 1),
            Field("hwtstamp", 184, 8, narrow=False),
        ),
    ),
    Context("pt_regs", 168, _u64s(_REGISTERS)),
    Context("bpf_perf_event_data", 184, (*_u64s(_REGISTERS, narrow=False), Field("sample_period", 168, 8), Field("addr", 176, 8))),
    Context("bpf_raw_tracepoint_args", 96, words=True),
    Context(
        "bpf_sock",
        80,
        (
            *_bulk("bound_dev_if", 0, writable=True),
            *_u32s("family type protocol", 4),
            *_bulk("mark priority", 16, writable=True),
            *_u32s(f"src_ip4 {_ip6('src_ip6')} src_port", 24),
            Field("dst_port", 48, 2),
            *_u32s(f"dst_ip4 {_ip6('dst_ip6')} state rx_queue_mapping", 52),
        ),
    ),
    Context(
        "bpf_tcp_sock",
        112,
        (
            *_bulk("snd_cwnd srtt_us rtt_min snd_ssthresh rcv_nxt snd_nxt snd_una mss_cache ecn_flags rate_delivered", 0),
            *_bulk("rate_interval_us packets_out retrans_out total_retrans segs_in data_segs_in segs_out data_segs_out", 40),
            *_bulk("lost_out sacked_out", 72),
            Field("bytes_received", 80, 8, narrow=False),
            Field("bytes_acked", 88, 8, narrow=False),
            *_bulk("dsack_dups delivered delivered_ce icsk_retransmits", 96),
        ),
    ),
    Context("bpf_xdp_sock", 4, _bulk("queue_id", 0)),
    Context(
        "bpf_sock_ops",
        224,
        (
            *_bulk("op", 0),
            *_bulk("args_0", 4, writable=True),
            *_bulk(f"args_1 args_2 args_3 family remote_ip4 local_ip4 {_ip6('remote_ip6')} {_ip6('local_ip6')}", 8),
            *_bulk("remote_port local_port is_fullsock snd_cwnd srtt_us bpf_sock_ops_cb_flags state rtt_min", 64),
            *_bulk("snd_ssthresh rcv_nxt snd_nxt snd_una mss_cache ecn_flags rate_delivered rate_interval_us", 96),
            *_bulk("packets_out retrans_out total_retrans segs_in data_segs_in segs_out data_segs_out lost_out", 128),
            *_bulk("sacked_out", 160),
            *_bulk("sk_txhash", 164, writable=True),
            *(Field(name, 168 + 8 * i, 8, narrow=False) for i, name in enumerate(("bytes_received", "bytes_acked"))),
            *_pointers("sk skb_data skb_data_end", 184),
            *_bulk("skb_len", 208),
            *_u32s("skb_tcp_flags", 212),
            Field("skb_hwtstamp", 216, 8, narrow=False, since="6.2"),
        ),
    ),
    Context(
        "sk_msg_md",
        80,
        (
            *_pointers("data data_end", 0),
            *_bulk(f"family remote_ip4 local_ip4 {_ip6('remote_ip6')} {_ip6('local_ip6')} remote_port local_port size", 16),
            *_pointers("sk", 72),
        ),
    ),
    Context(
        "bpf_sock_addr",
        72,
        (
            *_bulk("user_family", 0),
            *_bulk(f"user_ip4 {_ip6('user_ip6')} user_port", 4, narrow=True, writable=True),
            *_bulk("family type protocol", 28),
            *_bulk(f"msg_src_ip4 {_ip6('msg_src_ip6')}", 40, narrow=True, writable=True),
            *_pointers("sk", 64),
        ),
    ),
    Context(
        "sk_reuseport_md",
        56,
        (
            *_pointers("data data_end", 0),
            *_u32s("len", 16),
            *_bulk("eth_protocol", 20),
            *_u32s("ip_protocol bind_inany", 24),
            *_bulk("hash", 32),
            *_pointers("sk migrating_sk", 40),
        ),
    ),
    Context("bpf_sysctl", 8, (*_u32s("write"), *_bulk("file_pos", 4, narrow=True, writable=True))),
    Context("bpf_sockopt", 40, (*_pointers("sk optval optval_end", 0), *_bulk("level optname optlen retval", 24, writable=True))),
    Context(
        "bpf_sk_lookup",
        72,
        (
            *_pointers("sk", 0),
            *_u32s(f"family protocol remote_ip4 {_ip6('remote_ip6')}", 8),
            Field("remote_port", 36, 2),
            *_u32s(f"local_ip4 {_ip6('local_ip6')} local_port ingress_ifindex", 40),
        ),
    ),
    Context("bpf_cgroup_dev_ctx", 12, (*_u32s("access_type"), *_bulk("major minor", 4))),
)
CONTEXTS: Final[Mapping[str, Context]] = {row.name: row for row in _ROWS}
