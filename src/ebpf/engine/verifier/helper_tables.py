"""What is particular to some helpers: who moves packets, who may sleep, whose arguments differ by program type."""

from typing import Final

from ebpf.uapi import HELPERS, Arg, AttachType, ProgType

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
#: Attach types whose programs cannot ask for what is returned: beside those, what stands for "none was named".
NO_RETVAL: Final = FIXED_ONE | {AttachType.CGROUP_INET_INGRESS, AttachType.CGROUP_INET_EGRESS, AttachType.CGROUP_SOCK_OPS}
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
    ("get_socket_cookie", ProgType.LSM): (Arg.SOCK_OR_NULL,),
    ("xdp_output", ProgType.LSM): (Arg.BTF,),
    ("xdp_get_buff_len", ProgType.LSM): (Arg.BTF,),
    ("getsockopt", ProgType.LSM): (Arg.SOCK,),
    ("setsockopt", ProgType.LSM): (Arg.SOCK,),
    ("xdp_output", ProgType.TRACING): (Arg.BTF,),
    ("xdp_get_buff_len", ProgType.TRACING): (Arg.BTF,),
    ("sk_assign", ProgType.SK_LOOKUP): (Arg.CTX, Arg.SOCKET_OR_NULL),
    ("sk_storage_get", ProgType.CGROUP_SOCK): (Arg.MAP, Arg.CTX),
    ("getsockopt", ProgType.CGROUP_SOCKOPT): (Arg.SOCK,),
    ("setsockopt", ProgType.CGROUP_SOCKOPT): (Arg.SOCK,),
}
