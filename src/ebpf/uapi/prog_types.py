"""Every program type: bpftool's name, its context, what it may return, and which helpers it may call.

The helper lists were asked of a 6.18 kernel (a program of one call for each pair); `helpers` None means nobody answered.
"""

from collections.abc import Mapping
from typing import Final

from ebpf.records import record
from ebpf.uapi.bpf import ProgType


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Helpers that every probed type may call.
_BASE: Final = frozenset(
    """
    map_lookup_elem map_update_elem map_delete_elem ktime_get_ns trace_printk get_prandom_u32
    get_smp_processor_id tail_call get_current_pid_tgid get_current_uid_gid get_current_comm get_cgroup_classid
    perf_event_read get_current_task current_task_under_cgroup get_numa_node_id perf_event_read_value get_current_cgroup_id
    map_push_elem map_pop_elem map_peek_elem spin_lock spin_unlock strtol
    strtoul send_signal probe_read_user probe_read_kernel probe_read_user_str probe_read_kernel_str
    send_signal_thread jiffies64 get_ns_current_pid_tgid get_current_ancestor_cgroup_id ktime_get_boot_ns ringbuf_output
    ringbuf_reserve ringbuf_submit ringbuf_discard ringbuf_query get_task_stack copy_from_user
    snprintf_btf per_cpu_ptr this_cpu_ptr task_storage_get task_storage_delete get_current_task_btf
    for_each_map_elem snprintf timer_init timer_set_callback timer_start timer_cancel
    task_pt_regs get_branch_snapshot trace_vprintk find_vma loop strncmp
    copy_from_user_task kptr_xchg map_lookup_percpu_elem dynptr_from_mem ringbuf_reserve_dynptr ringbuf_submit_dynptr
    ringbuf_discard_dynptr dynptr_read dynptr_write dynptr_data ktime_get_tai_ns user_ringbuf_drain
    cgrp_storage_get cgrp_storage_delete
    """.split()
)

#: Of them, and of those of networks, the helpers for which a program needs CAP_PERFMON.
PERFMON_HELPERS: Final = frozenset(
    """
    trace_printk get_current_task get_current_task_btf get_current_comm probe_read_user probe_read_kernel probe_read_user_str
    probe_read_kernel_str snprintf_btf snprintf task_pt_regs trace_vprintk copy_from_user copy_from_user_task find_vma
    get_branch_snapshot get_task_stack perf_event_read perf_event_read_value send_signal send_signal_thread
    skc_to_tcp6_sock skc_to_tcp_sock skc_to_tcp_timewait_sock skc_to_tcp_request_sock skc_to_udp6_sock skc_to_unix_sock
    skc_to_mptcp_sock
    """.split()
)

#: What programs on kernel events may call besides.
_TRACING: Final = frozenset(
    """
    probe_read perf_event_output get_stackid probe_read_str get_stack get_func_ip
    get_attach_cookie
    """.split()
)

#: What programs on what the kernel's types name may call.
_BY_BTF: Final = (
    _BASE
    | _TRACING
    | _names(
        """
    d_path get_socket_cookie sk_storage_delete sk_storage_get skb_output skc_to_mptcp_sock skc_to_tcp6_sock
    skc_to_tcp_request_sock skc_to_tcp_sock skc_to_tcp_timewait_sock skc_to_udp6_sock skc_to_unix_sock
    sock_from_file xdp_get_buff_len xdp_output
    """
    )
)

#: What tc programs may call besides.
_SKB: Final = frozenset(
    """
    skb_store_bytes l3_csum_replace l4_csum_replace clone_redirect skb_vlan_push skb_vlan_pop
    skb_get_tunnel_key skb_set_tunnel_key redirect get_route_realm perf_event_output skb_load_bytes
    csum_diff skb_get_tunnel_opt skb_set_tunnel_opt skb_change_proto skb_change_type skb_under_cgroup
    get_hash_recalc skb_change_tail skb_pull_data csum_update set_hash_invalid skb_change_head
    get_socket_cookie get_socket_uid set_hash skb_adjust_room skb_get_xfrm_state skb_load_bytes_relative
    fib_lookup skb_cgroup_id skb_ancestor_cgroup_id sk_lookup_tcp sk_lookup_udp sk_release
    sk_fullsock tcp_sock skb_ecn_set_ce get_listener_sock skc_lookup_tcp tcp_check_syncookie
    sk_storage_get sk_storage_delete tcp_gen_syncookie get_netns_cookie sk_assign csum_level
    skc_to_tcp6_sock skc_to_tcp_sock skc_to_tcp_timewait_sock skc_to_tcp_request_sock skc_to_udp6_sock skb_cgroup_classid
    redirect_neigh redirect_peer ktime_get_coarse_ns check_mtu skc_to_unix_sock skb_set_tstamp
    skc_to_mptcp_sock tcp_raw_gen_syncookie_ipv4 tcp_raw_gen_syncookie_ipv6 tcp_raw_check_syncookie_ipv4 tcp_raw_check_syncookie_ipv6
    """.split()
)


@record
class ProgramType:
    """A row. `context` names a struct of contexts.py ("": special); `returns` is the range r0 must lie in, if it must.

    Of the context's fields, `hidden` are not for this type, and `writes` (all that are writable, if None) may be stored to.
    `since` is the first Linux that has the type, where there are kernels in use that have it not.
    """

    type: ProgType
    name: str
    context: str
    helpers: frozenset[str] | None = None
    returns: tuple[int, int] | None = None
    hidden: frozenset[str] = frozenset()
    writes: frozenset[str] | None = None
    since: str = ""


#: Of __sk_buff: what only programs on sockets' packets see.
_SOCKET: Final = _names(
    "family remote_ip4 local_ip4 remote_ip6_0 remote_ip6_1 remote_ip6_2 remote_ip6_3"
    " local_ip6_0 local_ip6_1 local_ip6_2 local_ip6_3 remote_port local_port"
)
_CB: Final = _names("cb0 cb1 cb2 cb3 cb4")
_TC_WRITES: Final = _CB | _names("mark queue_mapping priority tc_index tc_classid tstamp")
_LWT: Final = _SOCKET | _names("data_meta flow_keys hwtstamp tc_classid tstamp tstamp_type wire_len")


_ROWS: Final = (
    ProgramType(
        ProgType.SOCKET_FILTER,
        "socket_filter",
        "__sk_buff",
        helpers=_BASE
        | _names(
            "perf_event_output skb_load_bytes get_socket_cookie get_socket_uid skb_load_bytes_relative get_netns_cookie skc_to_tcp6_sock skc_to_tcp_sock skc_to_tcp_timewait_sock skc_to_tcp_request_sock skc_to_udp6_sock ktime_get_coarse_ns skc_to_unix_sock skc_to_mptcp_sock"
        ),
        hidden=_SOCKET | _names("data data_end data_meta flow_keys hwtstamp tc_classid tstamp tstamp_type wire_len"),
        writes=_CB,
    ),
    ProgramType(ProgType.KPROBE, "kprobe", "pt_regs", helpers=_BASE | _TRACING),
    ProgramType(
        ProgType.SCHED_CLS, "sched_cls", "__sk_buff", helpers=_BASE | _SKB, hidden=_SOCKET | _names("flow_keys"), writes=_TC_WRITES
    ),
    ProgramType(
        ProgType.SCHED_ACT, "sched_act", "__sk_buff", helpers=_BASE | _SKB, hidden=_SOCKET | _names("flow_keys"), writes=_TC_WRITES
    ),
    ProgramType(ProgType.TRACEPOINT, "tracepoint", "", helpers=_BASE | _TRACING),
    ProgramType(
        ProgType.XDP,
        "xdp",
        "xdp_md",
        helpers=_BASE
        | _names(
            "redirect perf_event_output csum_diff xdp_adjust_head redirect_map xdp_adjust_meta xdp_adjust_tail fib_lookup sk_lookup_tcp sk_lookup_udp sk_release skc_lookup_tcp tcp_check_syncookie tcp_gen_syncookie skc_to_tcp6_sock skc_to_tcp_sock skc_to_tcp_timewait_sock skc_to_tcp_request_sock skc_to_udp6_sock ktime_get_coarse_ns check_mtu skc_to_unix_sock xdp_get_buff_len xdp_load_bytes xdp_store_bytes skc_to_mptcp_sock tcp_raw_gen_syncookie_ipv4 tcp_raw_gen_syncookie_ipv6 tcp_raw_check_syncookie_ipv4 tcp_raw_check_syncookie_ipv6"
        ),
    ),
    ProgramType(
        ProgType.PERF_EVENT,
        "perf_event",
        "bpf_perf_event_data",
        helpers=_BASE | _TRACING | _names("perf_prog_read_value read_branch_records"),
    ),
    ProgramType(
        ProgType.CGROUP_SKB,
        "cgroup_skb",
        "__sk_buff",
        helpers=_BASE
        | _names(
            "perf_event_output skb_load_bytes get_socket_cookie get_socket_uid skb_load_bytes_relative skb_cgroup_id get_local_storage skb_ancestor_cgroup_id sk_lookup_tcp sk_lookup_udp sk_release sk_fullsock tcp_sock skb_ecn_set_ce get_listener_sock skc_lookup_tcp sk_storage_get sk_storage_delete get_netns_cookie sk_cgroup_id sk_ancestor_cgroup_id skc_to_tcp6_sock skc_to_tcp_sock skc_to_tcp_timewait_sock skc_to_tcp_request_sock skc_to_udp6_sock ktime_get_coarse_ns skc_to_unix_sock skc_to_mptcp_sock"
        ),
        returns=(0, 1),
        hidden=_names("data_meta flow_keys tc_classid tstamp_type wire_len"),
        writes=_CB | _names("mark priority tstamp"),
    ),
    ProgramType(
        ProgType.CGROUP_SOCK,
        "cgroup_sock",
        "bpf_sock",
        helpers=_BASE
        | _names(
            "perf_event_output get_socket_cookie get_local_storage sk_storage_get get_netns_cookie ktime_get_coarse_ns get_retval set_retval"
        ),
        returns=(0, 1),
    ),
    ProgramType(
        ProgType.LWT_IN,
        "lwt_in",
        "__sk_buff",
        helpers=_BASE
        | _names(
            "get_route_realm perf_event_output skb_load_bytes csum_diff skb_under_cgroup get_hash_recalc skb_pull_data lwt_push_encap skc_to_tcp6_sock skc_to_tcp_sock skc_to_tcp_timewait_sock skc_to_tcp_request_sock skc_to_udp6_sock ktime_get_coarse_ns skc_to_unix_sock skc_to_mptcp_sock"
        ),
        hidden=_LWT,
        writes=_CB | _names("mark priority"),
    ),
    ProgramType(
        ProgType.LWT_OUT,
        "lwt_out",
        "__sk_buff",
        helpers=_BASE
        | _names(
            "get_route_realm perf_event_output skb_load_bytes csum_diff skb_under_cgroup get_hash_recalc skb_pull_data skc_to_tcp6_sock skc_to_tcp_sock skc_to_tcp_timewait_sock skc_to_tcp_request_sock skc_to_udp6_sock ktime_get_coarse_ns skc_to_unix_sock skc_to_mptcp_sock"
        ),
        hidden=_LWT,
        writes=_CB | _names("mark priority"),
    ),
    ProgramType(
        ProgType.LWT_XMIT,
        "lwt_xmit",
        "__sk_buff",
        helpers=_BASE
        | _names(
            "skb_store_bytes l3_csum_replace l4_csum_replace clone_redirect skb_get_tunnel_key skb_set_tunnel_key redirect get_route_realm perf_event_output skb_load_bytes csum_diff skb_get_tunnel_opt skb_set_tunnel_opt skb_under_cgroup get_hash_recalc skb_change_tail skb_pull_data csum_update set_hash_invalid skb_change_head lwt_push_encap csum_level skc_to_tcp6_sock skc_to_tcp_sock skc_to_tcp_timewait_sock skc_to_tcp_request_sock skc_to_udp6_sock ktime_get_coarse_ns skc_to_unix_sock skc_to_mptcp_sock"
        ),
        hidden=_LWT,
        writes=_CB | _names("mark priority"),
    ),
    ProgramType(
        ProgType.SOCK_OPS,
        "sock_ops",
        "bpf_sock_ops",
        helpers=_BASE
        | _names(
            "perf_event_output get_socket_cookie setsockopt sock_map_update getsockopt sock_ops_cb_flags_set sock_hash_update get_local_storage tcp_sock sk_storage_get sk_storage_delete get_netns_cookie skc_to_tcp6_sock skc_to_tcp_sock skc_to_tcp_timewait_sock skc_to_tcp_request_sock skc_to_udp6_sock load_hdr_opt store_hdr_opt reserve_hdr_opt ktime_get_coarse_ns skc_to_unix_sock skc_to_mptcp_sock"
        ),
    ),
    ProgramType(
        ProgType.SK_SKB,
        "sk_skb",
        "__sk_buff",
        helpers=_BASE
        | _names(
            "skb_store_bytes perf_event_output skb_load_bytes skb_change_tail skb_pull_data skb_change_head get_socket_cookie get_socket_uid skb_adjust_room sk_redirect_map sk_redirect_hash sk_lookup_tcp sk_lookup_udp sk_release skc_lookup_tcp skc_to_tcp6_sock skc_to_tcp_sock skc_to_tcp_timewait_sock skc_to_tcp_request_sock skc_to_udp6_sock ktime_get_coarse_ns skc_to_unix_sock skc_to_mptcp_sock"
        ),
        hidden=_names("data_meta flow_keys hwtstamp mark tc_classid tstamp tstamp_type wire_len"),
        writes=_names("priority tc_index"),
    ),
    ProgramType(
        ProgType.CGROUP_DEVICE,
        "cgroup_device",
        "bpf_cgroup_dev_ctx",
        helpers=_BASE | _names("perf_event_output get_local_storage get_retval set_retval"),
        returns=(0, 1),
    ),
    ProgramType(
        ProgType.SK_MSG,
        "sk_msg",
        "sk_msg_md",
        helpers=_BASE
        | _names(
            "perf_event_output msg_redirect_map msg_apply_bytes msg_cork_bytes msg_pull_data msg_redirect_hash msg_push_data msg_pop_data sk_storage_get sk_storage_delete get_netns_cookie skc_to_tcp6_sock skc_to_tcp_sock skc_to_tcp_timewait_sock skc_to_tcp_request_sock skc_to_udp6_sock ktime_get_coarse_ns skc_to_unix_sock skc_to_mptcp_sock"
        ),
    ),
    ProgramType(ProgType.RAW_TRACEPOINT, "raw_tracepoint", "bpf_raw_tracepoint_args", helpers=_BASE | _TRACING),
    ProgramType(
        ProgType.CGROUP_SOCK_ADDR,
        "cgroup_sock_addr",
        "bpf_sock_addr",
        helpers=_BASE
        | _names(
            "perf_event_output get_socket_cookie setsockopt getsockopt bind get_local_storage sk_lookup_tcp sk_lookup_udp sk_release skc_lookup_tcp sk_storage_get sk_storage_delete get_netns_cookie skc_to_tcp6_sock skc_to_tcp_sock skc_to_tcp_timewait_sock skc_to_tcp_request_sock skc_to_udp6_sock ktime_get_coarse_ns skc_to_unix_sock get_retval set_retval skc_to_mptcp_sock"
        ),
        returns=(0, 1),
    ),
    ProgramType(
        ProgType.LWT_SEG6LOCAL,
        "lwt_seg6local",
        "__sk_buff",
        helpers=_BASE
        | _names(
            "get_route_realm perf_event_output skb_load_bytes csum_diff skb_under_cgroup get_hash_recalc skb_pull_data lwt_seg6_store_bytes lwt_seg6_adjust_srh lwt_seg6_action skc_to_tcp6_sock skc_to_tcp_sock skc_to_tcp_timewait_sock skc_to_tcp_request_sock skc_to_udp6_sock ktime_get_coarse_ns skc_to_unix_sock skc_to_mptcp_sock"
        ),
    ),
    ProgramType(ProgType.LIRC_MODE2, "lirc_mode2", ""),
    ProgramType(
        ProgType.SK_REUSEPORT,
        "sk_reuseport",
        "sk_reuseport_md",
        helpers=_BASE | _names("skb_load_bytes get_socket_cookie skb_load_bytes_relative sk_select_reuseport ktime_get_coarse_ns"),
    ),
    ProgramType(
        ProgType.FLOW_DISSECTOR,
        "flow_dissector",
        "__sk_buff",
        helpers=_BASE
        | _names(
            "skb_load_bytes skc_to_tcp6_sock skc_to_tcp_sock skc_to_tcp_timewait_sock skc_to_tcp_request_sock skc_to_udp6_sock ktime_get_coarse_ns skc_to_unix_sock skc_to_mptcp_sock"
        ),
    ),
    ProgramType(
        ProgType.CGROUP_SYSCTL,
        "cgroup_sysctl",
        "bpf_sysctl",
        helpers=_BASE
        | _names(
            "perf_event_output get_local_storage sysctl_get_name sysctl_get_current_value sysctl_get_new_value sysctl_set_new_value ktime_get_coarse_ns get_retval set_retval"
        ),
        returns=(0, 1),
    ),
    ProgramType(ProgType.RAW_TRACEPOINT_WRITABLE, "raw_tracepoint_writable", "bpf_raw_tracepoint_args", helpers=_BASE | _TRACING),
    ProgramType(
        ProgType.CGROUP_SOCKOPT,
        "cgroup_sockopt",
        "bpf_sockopt",
        helpers=_BASE
        | _names("perf_event_output get_local_storage tcp_sock sk_storage_get sk_storage_delete get_netns_cookie get_retval set_retval"),
        returns=(0, 1),
    ),
    ProgramType(
        ProgType.TRACING,
        "tracing",
        "",
        helpers=_BY_BTF,
    ),
    ProgramType(ProgType.STRUCT_OPS, "struct_ops", ""),
    ProgramType(ProgType.EXT, "ext", ""),
    ProgramType(
        ProgType.LSM,
        "lsm",
        "",
        helpers=_BY_BTF | _names("bprm_opts_set ima_inode_hash ima_file_hash inode_storage_get inode_storage_delete"),
    ),
    ProgramType(
        ProgType.SK_LOOKUP,
        "sk_lookup",
        "bpf_sk_lookup",
        helpers=_BASE
        | _names(
            "perf_event_output sk_release sk_assign skc_to_tcp6_sock skc_to_tcp_sock skc_to_tcp_timewait_sock skc_to_tcp_request_sock skc_to_udp6_sock ktime_get_coarse_ns skc_to_unix_sock skc_to_mptcp_sock"
        ),
        returns=(0, 1),
    ),
    ProgramType(
        ProgType.SYSCALL,
        "syscall",
        "",
        helpers=_BASE
        | _names(
            "probe_read perf_event_output get_stackid probe_read_str get_socket_cookie get_stack sk_storage_get sk_storage_delete skb_output xdp_output skc_to_tcp6_sock skc_to_tcp_sock skc_to_tcp_timewait_sock skc_to_tcp_request_sock skc_to_udp6_sock d_path sock_from_file sys_bpf btf_find_by_name_kind sys_close get_func_ip skc_to_unix_sock kallsyms_lookup_name xdp_get_buff_len skc_to_mptcp_sock"
        ),
    ),
    ProgramType(ProgType.NETFILTER, "netfilter", "bpf_nf_ctx", helpers=_BASE, since="6.4"),
)
PROGRAM_TYPES: Final[Mapping[ProgType, ProgramType]] = {row.type: row for row in _ROWS}
#: Programs that may write to packets.
WRITES_PACKETS: Final = frozenset(
    {ProgType.CGROUP_SOCKOPT, ProgType.SCHED_CLS, ProgType.SCHED_ACT, ProgType.XDP, ProgType.LWT_XMIT, ProgType.SK_SKB, ProgType.SK_MSG}
)
