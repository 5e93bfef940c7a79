"""Which helpers some program types may call only since a later Linux than there are both.

The rows were asked of Debian's 6.1 and 6.12 and of 6.18 (bench/agreement's set `permitted`): `since` is the first of them that allows it.
"""

from collections.abc import Mapping
from typing import Final

from ebpf.uapi.bpf import AttachType, ProgType

#: On packets and sockets, wherever the current task is any.
_PACKETS: Final = frozenset(
    {
        *(ProgType.SOCKET_FILTER, ProgType.SCHED_CLS, ProgType.SCHED_ACT, ProgType.XDP, ProgType.CGROUP_SKB, ProgType.SOCK_OPS),
        *(ProgType.LWT_IN, ProgType.LWT_OUT, ProgType.LWT_XMIT, ProgType.LWT_SEG6LOCAL, ProgType.SK_SKB, ProgType.SK_REUSEPORT),
        *(ProgType.FLOW_DISSECTOR, ProgType.SK_LOOKUP, ProgType.NETFILTER),
    }
)
_LWT: Final = frozenset({ProgType.LWT_IN, ProgType.LWT_OUT, ProgType.LWT_XMIT, ProgType.LWT_SEG6LOCAL})
_TC: Final = frozenset({ProgType.SCHED_CLS, ProgType.SCHED_ACT})
_CGROUPS: Final = frozenset(
    {ProgType.CGROUP_DEVICE, ProgType.CGROUP_SOCK, ProgType.CGROUP_SOCK_ADDR, ProgType.CGROUP_SOCKOPT, ProgType.CGROUP_SYSCTL}
)
_RAW: Final = frozenset({ProgType.RAW_TRACEPOINT, ProgType.RAW_TRACEPOINT_WRITABLE})
_TRACING: Final = _RAW | {ProgType.KPROBE, ProgType.TRACEPOINT, ProgType.PERF_EVENT, ProgType.TRACING, ProgType.LSM}
_MSG: Final = frozenset({ProgType.SK_MSG})

#: Helpers, since when, and to which types (later rows are of older kernels and do not contradict).
_ROWS: Final = (
    ("get_current_uid_gid", "6.18", _PACKETS),
    ("get_current_comm current_task_under_cgroup", "6.18", _PACKETS | _MSG),
    (
        "perf_event_read perf_event_read_value send_signal send_signal_thread get_task_stack copy_from_user task_storage_get"
        " task_storage_delete get_branch_snapshot find_vma copy_from_user_task",
        "6.18",
        _PACKETS | _MSG | _CGROUPS,
    ),
    ("get_cgroup_classid", "6.18", (_PACKETS - _LWT - _TC) | _TRACING),
    ("get_netns_cookie", "6.18", _TC | {ProgType.SOCKET_FILTER, ProgType.CGROUP_SKB}),
    ("skb_pull_data", "6.18", frozenset({ProgType.LWT_SEG6LOCAL})),
    ("current_task_under_cgroup", "6.12", _CGROUPS),
    ("get_ns_current_pid_tgid", "6.12", _PACKETS | _MSG | _CGROUPS),
    ("get_current_pid_tgid get_current_cgroup_id get_current_ancestor_cgroup_id", "6.12", _PACKETS),
    ("get_attach_cookie", "6.12", _RAW),
)
#: Helpers that go with another one, except where the kernel is locked down, as that was which was asked as 6.18.
LOCKED_HELPERS: Final[Mapping[str, str]] = {"probe_write_user": "probe_read"}
#: The same of tracing programs, by how they are attached.
_ATTACHED: Final[Mapping[tuple[str, int], str]] = {
    ("get_attach_cookie", AttachType.TRACE_RAW_TP): "6.12",
}
_SINCE: Final[Mapping[tuple[str, int], str]] = {
    (helper, kind): since for helpers, since, kinds in _ROWS for helper in helpers.split() for kind in kinds
}


def helper_since(helper: str, prog_type: int, attach_type: int) -> str:
    """Since which Linux programs of a type may call a helper ("": as long as there are both)."""
    if prog_type == ProgType.TRACING and (helper, attach_type) in _ATTACHED:
        return _ATTACHED[helper, attach_type]
    return _SINCE.get((helper, prog_type), "")
