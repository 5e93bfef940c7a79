"""What tracing programs are given: arguments of tracepoints that may be null, contexts of iterators.

Sources: the tracepoints of Linux 6.12 that pass null or an error in a pointer"s place (their assignments say so); linux/bpf.h and
the `bpf_iter__*` structs of the kernel"s BTF. An argument is counted from 0, without the tracepoint"s own data.
"""

from collections.abc import Mapping
from typing import Final

from ebpf.uapi.bpf import AttachType


def _each(places: tuple[int, ...], names: str) -> dict[str, tuple[int, ...]]:
    return dict.fromkeys(names.split(), places)


#: Arguments of tracepoints that may be null.
NULL_ARGUMENTS: Final[Mapping[str, tuple[int, ...]]] = {
    **_each(
        (0,),
        "afs_protocol_error cachefiles_io_error cachefiles_mark_active cachefiles_mark_failed cachefiles_mark_inactive "
        "cachefiles_ondemand_close cachefiles_ondemand_copen cachefiles_ondemand_cread cachefiles_ondemand_fd_release "
        "cachefiles_ondemand_fd_write cachefiles_ondemand_open cachefiles_ondemand_read cachefiles_prep_read "
        "cachefiles_rename cachefiles_unlink cachefiles_vfs_error mm_collapse_huge_page_isolate mm_page_alloc "
        "mm_page_alloc_zone_locked mm_page_pcpu_drain rxrpc_recvdata sched_process_wait tmigr_update_events "
        "xs_stream_read_data",
    ),
    **_each(
        (0,),
        "cachefiles_lookup",
    ),
    **_each(
        (0, 1),
        "tcp_send_reset",
    ),
    **_each(
        (1,),
        "afs_flock_ev afs_make_fs_call afs_make_fs_call1 afs_make_fs_call2 afs_make_fs_calli break_lease_block "
        "break_lease_noblock break_lease_unblock device_pm_callback_start ext4_mballoc_discard ext4_mballoc_free "
        "fcntl_setlk flock_lock_inode folio_wait_writeback generic_delete_lease locks_remove_posix "
        "mm_khugepaged_collapse_file mm_khugepaged_scan_file mm_khugepaged_scan_pmd netfs_failure posix_lock_inode "
        "rxrpc_resend sched_pi_setprio time_out_leases writeback_dirty_folio xprt_get_cong xprt_put_cong "
        "xprt_release_cong xprt_reserve_cong",
    ),
    **_each(
        (2,),
        "fib_table_lookup sched_stick_numa sched_swap_numa tegra_dma_tx_status",
    ),
    **_each(
        (3,),
        "kfree_skb qdisc_dequeue",
    ),
    **_each(
        (4,),
        "host1x_cdma_push_gather",
    ),
}
#: Arguments that may be an error instead of a pointer: numbers to a program.
ERROR_ARGUMENTS: Final[Mapping[str, tuple[int, ...]]] = {
    **_each((1,), "signal_deliver signal_generate"),
    **_each((3,), "mr_integ_alloc"),
    **_each((2,), "cachefiles_lookup"),
}

#: How an iterator's argument is given: a kernel object that may be null, a trusted one that may be null, memory.
OBJECT, TRUSTED_OBJECT, BUFFER, READ_BUFFER = "object", "trusted", "buffer", "read-only buffer"
#: The pointers in the contexts of iterators, by offset, besides the trusted `meta` at 0.
ITERATORS: Final[Mapping[str, Mapping[int, str]]] = {
    "task": {8: TRUSTED_OBJECT},
    "task_file": {8: OBJECT, 24: OBJECT},
    "task_vma": {8: OBJECT, 16: OBJECT},
    "bpf_map": {8: TRUSTED_OBJECT},
    "bpf_map_elem": {16: READ_BUFFER, 24: BUFFER},
    "bpf_sk_storage_map": {16: OBJECT, 24: BUFFER},
    "sockmap": {16: READ_BUFFER, 24: OBJECT},
    "bpf_prog": {8: OBJECT},
    "bpf_link": {8: OBJECT},
    "cgroup": {8: TRUSTED_OBJECT},
    "tcp": {8: TRUSTED_OBJECT},
    "udp": {8: TRUSTED_OBJECT},
    "unix": {8: TRUSTED_OBJECT},
    "netlink": {8: OBJECT},
    "ipv6_route": {8: OBJECT},
    "ksym": {8: OBJECT},
    "kmem_cache": {8: TRUSTED_OBJECT},
    "dmabuf": {8: TRUSTED_OBJECT},
}

#: Hooks of LSM whose arguments are being made or taken apart: their pointers are not to be trusted.
UNTRUSTED_HOOKS: Final = frozenset(
    """
    bpf_map_free bpf_prog_free file_alloc_security file_free_security sk_alloc_security sk_free_security task_free
    """.split()
)

_OF_FUNCTIONS: Final = frozenset({"get_func_arg", "get_func_ret", "get_func_arg_cnt"})
#: Helpers that only programs with an attach type have.
ATTACH_HELPERS: Final[Mapping[int, frozenset[str]]] = {
    AttachType.TRACE_ITER: frozenset({"seq_printf", "seq_write", "seq_printf_btf"}),
    AttachType.TRACE_FENTRY: _OF_FUNCTIONS,
    AttachType.TRACE_FEXIT: _OF_FUNCTIONS,
    AttachType.MODIFY_RETURN: _OF_FUNCTIONS,
    AttachType.LSM_MAC: _OF_FUNCTIONS,
}

#: Helpers of tracing and LSM programs that those of an attach type may not call.
DENIED_HELPERS: Final[Mapping[int, frozenset[str]]] = {
    AttachType.TRACE_ITER: frozenset({"get_attach_cookie"}),
    AttachType.LSM_CGROUP: frozenset({"get_attach_cookie"}),
}

#: Helpers of programs that iterate over these.
ITERATOR_HELPERS: Final[Mapping[str, frozenset[str]]] = dict.fromkeys(("tcp", "unix"), frozenset({"setsockopt", "getsockopt"}))
