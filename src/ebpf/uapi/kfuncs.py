"""Functions of Linux's kernel that programs may call: which program types, and what the kernel says of their arguments and result.

Sources: the flags that the kernel registers its functions with (Documentation/bpf/kfuncs.rst says what they mean); which types may
call which was asked of a 6.18 kernel. Their prototypes are in the kernel's BTF. A function that is not here is not judged.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Flag, auto
from typing import Final

from ebpf.uapi.bpf import AttachType, ProgType


class Says(Flag):
    """What the kernel says of a function."""

    NOTHING = 0
    ACQUIRE = auto()  # what it returns must be given back
    RELEASE = auto()  # it takes back what was acquired
    RET_NULL = auto()  # it may return null
    TRUSTED_ARGS = auto()  # pointers must be trusted
    RCU = auto()  # pointers must be trusted, or under RCU
    SLEEPABLE = auto()  # only for programs that may sleep
    RCU_PROTECTED = auto()  # only inside of an RCU section
    ITER_NEW = auto()  # an iterator begins
    ITER_NEXT = auto()  # it gives its next element
    ITER_DESTROY = auto()  # it ends
    MOVES_PACKET = auto()  # pointers into the packet are void afterwards


@dataclass(frozen=True, slots=True)
class Kfunc:
    """A kernel function. `types` are the program types that may call it, `attach` their attach types; None: all."""

    name: str
    says: Says
    types: frozenset[ProgType] | None
    attach: frozenset[AttachType] | None

    def open_to(self, prog_type: int, attach_type: int) -> bool:
        """Whether programs of these types may call it."""
        return (self.types is None or prog_type in self.types) and (self.attach is None or attach_type in self.attach)


_CGROUP: Final = frozenset(
    {
        ProgType.CGROUP_SKB,
        ProgType.CGROUP_SOCK,
        ProgType.CGROUP_DEVICE,
        ProgType.CGROUP_SOCK_ADDR,
        ProgType.CGROUP_SOCKOPT,
        ProgType.CGROUP_SYSCTL,
        ProgType.SOCK_OPS,
    }
)
_TRACE: Final = frozenset({ProgType.TRACING, ProgType.TRACEPOINT, ProgType.PERF_EVENT, ProgType.LSM})
_TC: Final = frozenset({ProgType.SCHED_CLS, ProgType.SCHED_ACT})
_SKB: Final = (
    _CGROUP
    | _TRACE
    | _TC
    | {ProgType.LWT_IN, ProgType.LWT_OUT, ProgType.LWT_XMIT, ProgType.LWT_SEG6LOCAL}
    | {ProgType.NETFILTER, ProgType.SK_SKB, ProgType.SOCKET_FILTER}
)
_GROUPS: Final[Mapping[str, frozenset[ProgType] | None]] = {
    "ANY": None,
    "GENERIC": _CGROUP | _TRACE | {ProgType.SCHED_CLS, ProgType.XDP, ProgType.SYSCALL},
    "CPUMASK": _TRACE | {ProgType.SYSCALL},
    "TEST": _TRACE | {ProgType.SCHED_CLS, ProgType.SYSCALL},
    "TRACE": _TRACE,
    "CRYPTO": _TC | {ProgType.XDP},
    "CRYPTO_CONTEXT": frozenset({ProgType.SYSCALL}),
    "CONNTRACK": frozenset({ProgType.SCHED_CLS, ProgType.XDP}),
    "PACKETS": _SKB,
    "TC": _TC,
    "TC_INGRESS": frozenset({ProgType.SCHED_CLS}),
    "XDP": frozenset({ProgType.XDP}),
    "SESSION": frozenset({ProgType.KPROBE}),
    "SOCK_OPS": frozenset({ProgType.SOCK_OPS}),
    "UNIX_SOCKETS": frozenset({ProgType.CGROUP_SOCK_ADDR}),
    "SOCKET_ITERATORS": frozenset({ProgType.TRACING}),
    "FILES": frozenset({ProgType.LSM}),
}


#: Of groups that only some attach types belong to, which.
_ATTACH: Final[Mapping[str, frozenset[AttachType]]] = {
    "SESSION": frozenset({AttachType.TRACE_KPROBE_SESSION}),
    "SOCKET_ITERATORS": frozenset({AttachType.TRACE_ITER}),
    "UNIX_SOCKETS": frozenset(
        {
            AttachType.CGROUP_UNIX_CONNECT,
            AttachType.CGROUP_UNIX_SENDMSG,
            AttachType.CGROUP_UNIX_RECVMSG,
            AttachType.CGROUP_UNIX_GETPEERNAME,
            AttachType.CGROUP_UNIX_GETSOCKNAME,
        }
    ),
}


def _rows(group: str, says: Says, names: str) -> dict[str, Kfunc]:
    return {name: Kfunc(name, says, _GROUPS[group], _ATTACH.get(group)) for name in names.split()}


KFUNCS: Final[Mapping[str, Kfunc]] = {
    **_rows(
        "ANY",
        Says.NOTHING,
        """
        __bpf_trap bpf_cast_to_kern_ctx bpf_dynptr_adjust bpf_dynptr_clone bpf_dynptr_copy bpf_dynptr_is_null
        bpf_dynptr_is_rdonly bpf_dynptr_memset bpf_dynptr_size bpf_get_kmem_cache bpf_local_irq_restore
        bpf_local_irq_save bpf_modify_return_test_tp bpf_preempt_disable bpf_preempt_enable
        bpf_probe_read_kernel_dynptr bpf_probe_read_kernel_str_dynptr bpf_probe_read_user_dynptr
        bpf_probe_read_user_str_dynptr bpf_rcu_read_lock bpf_rcu_read_unlock bpf_rdonly_cast bpf_res_spin_lock
        bpf_res_spin_lock_irqsave bpf_res_spin_unlock bpf_res_spin_unlock_irqrestore bpf_strcasecmp bpf_strchr
        bpf_strchrnul bpf_strcmp bpf_strcspn bpf_strlen bpf_strnchr bpf_strnlen bpf_strnstr bpf_strrchr bpf_strspn
        bpf_strstr bpf_throw bpf_wq_init bpf_wq_set_callback_impl bpf_wq_start
        """,
    ),
    **_rows(
        "ANY",
        Says.ITER_DESTROY,
        """
        bpf_iter_bits_destroy bpf_iter_css_destroy bpf_iter_css_task_destroy bpf_iter_num_destroy
        bpf_iter_task_destroy bpf_iter_task_vma_destroy
        """,
    ),
    **_rows(
        "ANY",
        Says.ITER_DESTROY | Says.SLEEPABLE,
        "bpf_iter_dmabuf_destroy bpf_iter_kmem_cache_destroy",
    ),
    **_rows(
        "ANY",
        Says.ITER_NEW,
        "bpf_iter_bits_new bpf_iter_num_new",
    ),
    **_rows(
        "ANY",
        Says.ITER_NEW | Says.RCU,
        "bpf_iter_task_vma_new",
    ),
    **_rows(
        "ANY",
        Says.ITER_NEW | Says.RCU_PROTECTED | Says.TRUSTED_ARGS,
        "bpf_iter_css_new bpf_iter_task_new",
    ),
    **_rows(
        "ANY",
        Says.ITER_NEW | Says.SLEEPABLE,
        "bpf_iter_dmabuf_new bpf_iter_kmem_cache_new",
    ),
    **_rows(
        "ANY",
        Says.ITER_NEW | Says.TRUSTED_ARGS,
        "bpf_iter_css_task_new",
    ),
    **_rows(
        "ANY",
        Says.ITER_NEXT | Says.RET_NULL,
        """
        bpf_iter_bits_next bpf_iter_css_next bpf_iter_css_task_next bpf_iter_num_next bpf_iter_task_next
        bpf_iter_task_vma_next
        """,
    ),
    **_rows(
        "ANY",
        Says.ITER_NEXT | Says.RET_NULL | Says.SLEEPABLE,
        "bpf_iter_dmabuf_next bpf_iter_kmem_cache_next",
    ),
    **_rows(
        "ANY",
        Says.RCU,
        "bpf_cgroup_read_xattr",
    ),
    **_rows(
        "ANY",
        Says.RET_NULL,
        "bpf_dynptr_slice bpf_dynptr_slice_rdwr",
    ),
    **_rows(
        "ANY",
        Says.SLEEPABLE,
        "bpf_copy_from_user_dynptr bpf_copy_from_user_str bpf_copy_from_user_str_dynptr bpf_copy_from_user_task_str",
    ),
    **_rows(
        "ANY",
        Says.SLEEPABLE | Says.TRUSTED_ARGS,
        """
        bpf_arena_alloc_pages bpf_arena_free_pages bpf_arena_reserve_pages bpf_copy_from_user_task_dynptr
        bpf_copy_from_user_task_str_dynptr
        """,
    ),
    **_rows(
        "ANY",
        Says.TRUSTED_ARGS,
        """
        bpf_map_sum_elem_count bpf_stream_vprintk_impl bpf_task_work_schedule_resume_impl bpf_task_work_schedule_signal_impl
        """,
    ),
    **_rows(
        "UNIX_SOCKETS",
        Says.NOTHING,
        "bpf_sock_addr_set_sun_path",
    ),
    **_rows(
        "SOCK_OPS",
        Says.TRUSTED_ARGS,
        "bpf_sock_ops_enable_tx_tstamp",
    ),
    **_rows(
        "CONNTRACK",
        Says.ACQUIRE | Says.RELEASE | Says.RET_NULL,
        "bpf_ct_insert_entry",
    ),
    **_rows(
        "CONNTRACK",
        Says.ACQUIRE | Says.RET_NULL,
        "bpf_skb_ct_alloc bpf_skb_ct_lookup bpf_xdp_ct_alloc bpf_xdp_ct_lookup",
    ),
    **_rows(
        "CONNTRACK",
        Says.RELEASE,
        "bpf_ct_release",
    ),
    **_rows(
        "CONNTRACK",
        Says.TRUSTED_ARGS,
        "bpf_ct_change_status bpf_ct_change_timeout bpf_ct_set_nat_info bpf_ct_set_status bpf_ct_set_timeout",
    ),
    **_rows(
        "CPUMASK",
        Says.ACQUIRE | Says.RET_NULL,
        "bpf_cpumask_create",
    ),
    **_rows(
        "CPUMASK",
        Says.ACQUIRE | Says.TRUSTED_ARGS,
        "bpf_cpumask_acquire",
    ),
    **_rows(
        "CPUMASK",
        Says.RCU,
        """
        bpf_cpumask_and bpf_cpumask_any_and_distribute bpf_cpumask_any_distribute bpf_cpumask_clear
        bpf_cpumask_clear_cpu bpf_cpumask_copy bpf_cpumask_empty bpf_cpumask_equal bpf_cpumask_first
        bpf_cpumask_first_and bpf_cpumask_first_zero bpf_cpumask_full bpf_cpumask_intersects bpf_cpumask_or
        bpf_cpumask_populate bpf_cpumask_set_cpu bpf_cpumask_setall bpf_cpumask_subset bpf_cpumask_test_and_clear_cpu
        bpf_cpumask_test_and_set_cpu bpf_cpumask_test_cpu bpf_cpumask_weight bpf_cpumask_xor
        """,
    ),
    **_rows(
        "CPUMASK",
        Says.RELEASE,
        "bpf_cpumask_release",
    ),
    **_rows(
        "CRYPTO",
        Says.RCU,
        "bpf_crypto_decrypt bpf_crypto_encrypt",
    ),
    **_rows(
        "CRYPTO_CONTEXT",
        Says.ACQUIRE | Says.RCU | Says.RET_NULL,
        "bpf_crypto_ctx_acquire",
    ),
    **_rows(
        "CRYPTO_CONTEXT",
        Says.ACQUIRE | Says.RET_NULL | Says.SLEEPABLE,
        "bpf_crypto_ctx_create",
    ),
    **_rows(
        "CRYPTO_CONTEXT",
        Says.RELEASE,
        "bpf_crypto_ctx_release",
    ),
    **_rows(
        "FILES",
        Says.ACQUIRE | Says.RET_NULL | Says.TRUSTED_ARGS,
        "bpf_get_task_exe_file",
    ),
    **_rows(
        "FILES",
        Says.RELEASE,
        "bpf_put_file",
    ),
    **_rows(
        "FILES",
        Says.SLEEPABLE | Says.TRUSTED_ARGS,
        "bpf_get_dentry_xattr bpf_get_file_xattr bpf_remove_dentry_xattr bpf_set_dentry_xattr",
    ),
    **_rows(
        "FILES",
        Says.TRUSTED_ARGS,
        "bpf_path_d_path",
    ),
    **_rows(
        "GENERIC",
        Says.ACQUIRE | Says.RCU | Says.RET_NULL,
        "bpf_cgroup_acquire bpf_cgroup_ancestor bpf_task_acquire bpf_task_get_cgroup1",
    ),
    **_rows(
        "GENERIC",
        Says.ACQUIRE | Says.RET_NULL,
        "bpf_cgroup_from_id bpf_lookup_system_key bpf_task_from_pid bpf_task_from_vpid",
    ),
    **_rows(
        "GENERIC",
        Says.ACQUIRE | Says.RET_NULL | Says.SLEEPABLE,
        "bpf_lookup_user_key",
    ),
    **_rows(
        "GENERIC",
        Says.RCU,
        "bpf_task_under_cgroup",
    ),
    **_rows(
        "GENERIC",
        Says.RELEASE,
        "bpf_cgroup_release bpf_key_put bpf_task_release",
    ),
    **_rows(
        "GENERIC",
        Says.TRUSTED_ARGS,
        "bpf_send_signal_task",
    ),
    **_rows(
        "PACKETS",
        Says.TRUSTED_ARGS,
        "bpf_dynptr_from_skb",
    ),
    **_rows(
        "SESSION",
        Says.NOTHING,
        "bpf_session_cookie bpf_session_is_return",
    ),
    **_rows(
        "SOCKET_ITERATORS",
        Says.TRUSTED_ARGS,
        "bpf_sock_destroy",
    ),
    **_rows(
        "TC",
        Says.TRUSTED_ARGS,
        "bpf_dynptr_from_skb_meta",
    ),
    **_rows(
        "TC_INGRESS",
        Says.TRUSTED_ARGS,
        "bpf_sk_assign_tcp_reqsk",
    ),
    **_rows(
        "TEST",
        Says.RELEASE,
        "bpf_kfunc_call_memb_release bpf_kfunc_call_test_release",
    ),
    **_rows(
        "TRACE",
        Says.NOTHING,
        "css_rstat_updated",
    ),
    **_rows(
        "TRACE",
        Says.SLEEPABLE,
        "css_rstat_flush",
    ),
    **_rows(
        "XDP",
        Says.MOVES_PACKET,
        "bpf_xdp_pull_data",
    ),
    **_rows(
        "XDP",
        Says.NOTHING,
        "bpf_dynptr_from_xdp",
    ),
    **_rows(
        "XDP",
        Says.ACQUIRE | Says.RET_NULL,
        "bpf_xdp_get_xfrm_state",
    ),
    **_rows(
        "XDP",
        Says.RELEASE,
        "bpf_xdp_xfrm_state_release",
    ),
}
