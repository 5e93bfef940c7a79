"""What is particular to some helpers: who moves packets, who may sleep, whose arguments differ by program type."""

from typing import Final

from ebpf.uapi import HELPERS, Arg, AttachType, ProgType

#: Helpers that may move the packet, so that pointers into it are void afterwards.
MOVES_PACKET_NAMES: Final = frozenset(
    [
        "tail_call",
        "skb_store_bytes",
        "l3_csum_replace",
        "l4_csum_replace",
        "clone_redirect",
        "skb_vlan_push",
        "skb_vlan_pop",
        "skb_change_proto",
        "skb_change_tail",
        "skb_pull_data",
        "skb_change_head",
        "skb_adjust_room",
        "xdp_adjust_head",
        "xdp_adjust_meta",
        "xdp_adjust_tail",
        "msg_pull_data",
        "msg_push_data",
        "msg_pop_data",
        "lwt_push_encap",
        "lwt_seg6_store_bytes",
        "lwt_seg6_adjust_srh",
        "lwt_seg6_action",
        "store_hdr_opt",
        "reserve_hdr_opt",
        "sk_skb_pull_data",
        "sk_skb_change_tail",
        "sk_skb_change_head",
        "sk_skb_adjust_room",
    ]
)
MOVES_PACKET: Final = frozenset(row.id for row in HELPERS.values() if row.name in MOVES_PACKET_NAMES)
#: Arguments that may be null.
NULLABLE: Final = (
    Arg.MEM_OR_NULL,
    Arg.MEM_UNINIT_OR_NULL,
    Arg.CTX_OR_NULL,
    Arg.VALUE_OR_NULL,
    Arg.BTF_OR_NULL,
    Arg.SOCK_OR_NULL,
    Arg.SOCKET_OR_NULL,
    Arg.STACK_OR_NULL,
    Arg.KPTR_OR_NULL,
)
RETVALS: Final = frozenset({"get_retval", "set_retval"})
#: Helpers that may sleep, which only sleepable programs may call.
SLEEPS: Final = frozenset(
    {"copy_from_user", "copy_from_user_task", "sys_bpf", "sys_close", "btf_find_by_name_kind", "ima_inode_hash", "ima_file_hash"}
)
SLEEPS_IDS: Final = frozenset(row.id for row in HELPERS.values() if row.name in SLEEPS)
#: Attach types whose programs must return 1.
FIXED_ONE: Final = frozenset(
    {
        AttachType.CGROUP_UDP4_RECVMSG,
        AttachType.CGROUP_UDP6_RECVMSG,
        AttachType.CGROUP_UNIX_RECVMSG,
        AttachType.CGROUP_INET4_GETPEERNAME,
        AttachType.CGROUP_INET6_GETPEERNAME,
        AttachType.CGROUP_UNIX_GETPEERNAME,
        AttachType.CGROUP_INET4_GETSOCKNAME,
        AttachType.CGROUP_INET6_GETSOCKNAME,
        AttachType.CGROUP_UNIX_GETSOCKNAME,
    }
)
#: Helpers that may read packets directly through a pointer.
SEES_PACKETS: Final = frozenset(
    {ProgType.SCHED_CLS, ProgType.SCHED_ACT, ProgType.XDP, ProgType.LWT_XMIT, ProgType.SK_SKB, ProgType.SK_MSG}
    | {ProgType.LWT_IN, ProgType.LWT_OUT, ProgType.LWT_SEG6LOCAL, ProgType.SK_REUSEPORT, ProgType.FLOW_DISSECTOR, ProgType.CGROUP_SKB}
)
PACKET_HELPERS: Final = frozenset(
    [
        "csum_diff",
        "map_delete_elem",
        "map_lookup_elem",
        "map_lookup_percpu_elem",
        "map_push_elem",
        "map_update_elem",
        "sk_lookup_tcp",
        "sk_lookup_udp",
        "skc_lookup_tcp",
        "tcp_check_syncookie",
        "tcp_gen_syncookie",
        "tcp_raw_check_syncookie_ipv4",
        "tcp_raw_check_syncookie_ipv6",
        "tcp_raw_gen_syncookie_ipv4",
        "tcp_raw_gen_syncookie_ipv6",
    ]
)
#: Helpers whose first arguments are others for a program type.
OTHER_ARGUMENTS: Final = {
    ("get_socket_cookie", ProgType.SK_REUSEPORT): (Arg.SOCK_OR_NULL,),
    ("get_socket_cookie", ProgType.TRACING): (Arg.SOCK_OR_NULL,),
    ("sk_storage_get", ProgType.TRACING): (Arg.MAP, Arg.BTF_OR_NULL),
    ("sk_storage_delete", ProgType.TRACING): (Arg.MAP, Arg.BTF_OR_NULL),
    ("getsockopt", ProgType.TRACING): (Arg.SOCK,),
    ("setsockopt", ProgType.TRACING): (Arg.SOCK,),
    ("xdp_output", ProgType.TRACING): (Arg.BTF,),
    ("xdp_get_buff_len", ProgType.TRACING): (Arg.BTF,),
    ("sk_assign", ProgType.SK_LOOKUP): (Arg.CTX, Arg.SOCKET_OR_NULL),
    ("sk_storage_get", ProgType.CGROUP_SOCK): (Arg.MAP, Arg.CTX),
    ("getsockopt", ProgType.CGROUP_SOCKOPT): (Arg.SOCK,),
    ("setsockopt", ProgType.CGROUP_SOCKOPT): (Arg.SOCK,),
}
