"""Which helpers a program has in the user kernel: those with a body in the runtime, and why the others have none.

Whoever loads a program that calls one of the others is told so then, never when it runs.
"""

from collections.abc import Mapping
from typing import Final

from ebpf.btf import Kind, prototype
from ebpf.engine.runtime import address, helper_address
from ebpf.kernels.user.types import kernel_types
from ebpf.uapi import HELPERS, ProgType

#: Program types whose helpers have bodies of their own (`rt_FAMILY_NAME`), because the context is another.
_FAMILIES: Final[Mapping[int, str]] = {ProgType.XDP: "xdp"}

#: Helpers whose second argument is a function of the program that they call.
CALLING_BACK: Final = ("loop", "for_each_map_elem")
#: The helper that keeps such a function for later: bpf_timer_set_callback.
CALLING_LATER: Final = 170
#: Those that take or give objects of the kernel: bpf_get_task_stack, bpf_task_storage_*, bpf_get_current_task_btf, bpf_cgrp_storage_*.
WITH_OBJECTS: Final = frozenset({141, 156, 157, 158, 210, 211})


def body(prog_type: int, id_: int, family: str = "helper") -> int:
    """The address of a helper's body for a type of program, 0 if it has none; `family` as in helper_address()."""
    own = _FAMILIES.get(prog_type)
    return (helper_address(id_, own) if own is not None else 0) or helper_address(id_, family)


def why_not(name: str) -> str:
    """Why a helper has no body; "" if it has one."""
    if address(f"rt_helper_{name}"):
        return ""
    return next((why for why, names in REASONS.items() if name in names), "it is not built yet")


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Why helpers have no body in user space.
REASONS: Final[Mapping[str, frozenset[str]]] = {
    "there are no kernel objects (tasks, inodes, files) to point to": _names(
        "task_pt_regs copy_from_user_task find_vma d_path sock_from_file"
        " bprm_opts_set ima_inode_hash ima_file_hash inode_storage_get inode_storage_delete kptr_xchg"
    ),
    "there are no kernel variables and no kernel functions with addresses": _names(
        "per_cpu_ptr this_cpu_ptr kallsyms_lookup_name get_func_ip snprintf_btf seq_printf_btf btf_find_by_name_kind"
    ),
    "there are no sockets of the kernel's to look up or to change": _names(
        "sk_lookup_tcp sk_lookup_udp skc_lookup_tcp sk_release sk_fullsock tcp_sock get_listener_sock sk_storage_get sk_storage_delete"
        " sk_assign sk_cgroup_id sk_ancestor_cgroup_id skc_to_tcp6_sock skc_to_tcp_sock skc_to_tcp_timewait_sock"
        " skc_to_tcp_request_sock skc_to_udp6_sock skc_to_unix_sock skc_to_mptcp_sock"
        " setsockopt getsockopt bind tcp_check_syncookie tcp_gen_syncookie"
    ),
    "it belongs to socket maps, which are not built": _names(
        "sk_redirect_map sk_redirect_hash sock_map_update sock_hash_update msg_redirect_map msg_redirect_hash sk_select_reuseport"
        " msg_apply_bytes msg_cork_bytes msg_pull_data msg_push_data msg_pop_data"
    ),
    "it belongs to a type of program that the user kernel does not run": _names(
        "sock_ops_cb_flags_set load_hdr_opt store_hdr_opt reserve_hdr_opt tcp_send_ack lwt_push_encap lwt_seg6_store_bytes"
        " lwt_seg6_adjust_srh lwt_seg6_action rc_repeat rc_keydown rc_pointer_rel get_local_storage sysctl_get_name"
        " sysctl_get_current_value sysctl_get_new_value sysctl_set_new_value seq_printf seq_write skb_output xdp_output"
        " get_func_arg get_func_ret get_func_arg_cnt get_retval set_retval sys_bpf sys_close override_return"
    ),
    "there are no hardware counters": _names(
        "perf_event_read perf_event_read_value perf_prog_read_value read_branch_records get_branch_snapshot"
    ),
    "the map that it needs is not built": _names("user_ringbuf_drain"),
}


def page() -> str:
    """The documentation's page: every helper, since when Linux has it, and whether it works in user space."""
    rows = []
    for row in sorted(HELPERS.values(), key=lambda row: row.id):
        why = why_not(row.name)
        rows.append(f"| {row.id} | `bpf_{row.name}` | {row.since}{', GPL' if row.gpl else ''} | {'works' if not why else f'no: {why}'} |")
    works = sum(1 for row in HELPERS.values() if not why_not(row.name))
    types = kernel_types()
    functions = "\n".join(f"* `{prototype(types, row.id)}`" for row in types if row.kind == Kind.FUNC)
    return _PAGE.format(works=works, all=len(HELPERS), rows="\n".join(rows), functions=functions)


_PAGE: Final = """# Helpers in user space

Written by `tools/helper-page` from what the runtime has. {works} of Linux 6.12's {all} helpers work in the user kernel. A program that
calls one of the others is refused when it is loaded, with the reason that stands here; it runs with `--kernel linux`.

Answers differ from Linux's only where the world does:

* `bpf_fib_lookup` finds the routes that were given with `kernel.lab.set_routes(...)`; without any it answers 4 (not forwarded).
* `bpf_get_stack` and `bpf_get_stackid` give the task's own stack (`BPF_F_USER_STACK`) of events of real processes, by its frame
  pointers; where only the place of the call is known (at the entry of a system call) that is the one frame. There are no kernel
  frames: without that flag, and in test runs, they answer -EFAULT.
* `bpf_redirect` and its kin give their verdict; nothing is sent on in a test run, as on Linux. `bpf_clone_redirect` looks whether there
  is such an interface; the copy goes nowhere, where Linux would send it.
* The packet of a test run belongs to a socket of the task that runs it: `bpf_get_socket_cookie` is another number in each run, and
  `bpf_skb_cgroup_id` and its kin tell that task's cgroup, as on Linux. `bpf_get_netns_cookie` is 1.
* Packets come through no tunnel: `bpf_skb_get_tunnel_key` tells what the program itself has set. SYN cookies
  (`bpf_tcp_raw_gen_syncookie_ipv4` ...) are known again by the process that made them.
* `bpf_get_hash_recalc` is a hash of the flow, but not Linux's, which has a key of its own in each boot.
* `bpf_get_route_realm`, `bpf_get_cgroup_classid` and `bpf_skb_cgroup_classid` are 0: packets came over no route and from no socket.
* `bpf_get_current_task` and `bpf_get_current_task_btf` point to a `struct task_struct` of `pid`, `tgid`, `comm`, `real_parent`, `parent`
  (a process, known by the same fields; above it nothing is known: it is its own) and `cgroups->dfl_cgrp->kn->id`. CO-RE finds those
  fields; an object that reads another one of a task is refused when it is opened.

| id | helper | since Linux | in user space |
|---|---|---|---|
{rows}

# Kernel functions in user space

These functions can be called by name (`extern ... __ksym`, which `bpf_for` and `bpf_repeat` do); an object that needs another one is
refused when it is opened, and if it is `__weak`, `bpf_ksym_exists()` tells. `bpf_rcu_read_lock` and its kin have nothing to do here.

{functions}
"""
