"""What a kernel function or LSM hook allows the program that is attached to it: to sleep, to change what it returns, to be there at all.

The rows were asked of Debian's 6.1 and 6.12 (bench/agreement's set `hooks`); `since` is the first of them that has it so. LSM
hooks are named without `bpf_lsm_`.
"""

from collections.abc import Mapping
from typing import Final

from ebpf.uapi.bpf import AttachType


def _names(text: str, since: str = "") -> dict[str, str]:
    return dict.fromkeys(text.split(), since)


#: Hooks of LSM that no program may be attached to.
DISABLED_HOOKS: Final = frozenset(
    """
    audit_rule_match getprocattr getselfattr inode_copy_up_xattr inode_getsecurity inode_listsecurity inode_need_killpriv ismaclabel
    key_getsecurity setprocattr vm_enough_memory xfrm_decode_session
    """.split()
)
#: Hooks that return whether something is so; others that return something return 0 or an error.
BOOLEAN_HOOKS: Final = frozenset({"audit_rule_known", "inode_xattr_skipcap", "xfrm_state_pol_flow_match"})
#: Hooks whose programs may sleep, and since when they may.
SLEEPABLE_HOOKS: Final[Mapping[str, str]] = {
    **_names(
        """
        bpf bpf_map bpf_prog bprm_check_security bprm_committed_creds bprm_committing_creds bprm_creds_for_exec
        bprm_creds_from_file capget capset cred_prepare current_getsecid_subj file_ioctl file_lock file_open file_receive
        inode_create inode_free_security inode_getattr inode_getxattr inode_mknod inode_need_killpriv inode_post_setxattr
        inode_readlink inode_rename inode_rmdir inode_setattr inode_setxattr inode_symlink inode_unlink kernel_module_request
        kernel_read_file kernfs_init_security mmap_file netlink_send path_notify release_secctx sb_alloc_security
        sb_eat_lsm_opts sb_kern_mount sb_mount sb_remount sb_set_mnt_opts sb_show_options sb_statfs sb_umount settime
        socket_accept socket_bind socket_connect socket_create socket_getpeername socket_getpeersec_dgram socket_getsockname
        socket_getsockopt socket_listen socket_post_create socket_recvmsg socket_sendmsg socket_shutdown socket_socketpair
        syslog task_alloc task_getsecid_obj task_prctl task_setscheduler userns_create
        bpf_map_alloc_security bpf_map_free_security key_free
        """
    ),
    **_names(
        """
        bpf_map_create bpf_map_free bpf_prog_load bpf_token_capable bpf_token_cmd bpf_token_create bpf_token_free file_post_open
        path_chmod path_chown path_link path_mkdir path_rename path_rmdir path_symlink path_truncate path_unlink
        """,
        "6.12",
    ),
}
#: Hooks whose programs may sleep no more, and since when.
NO_MORE_SLEEPABLE_HOOKS: Final[Mapping[str, str]] = {"inet_conn_established": "6.12"}
#: Hooks whose programs of cgroups may ask for and set the options of a socket.
SOCKOPT_HOOKS: Final = frozenset({"sock_graft", "inet_csk_clone", "inet_conn_established", "socket_post_create", "socket_socketpair"})

#: Ways of attaching that older kernels have not, and since when there are these.
LATER_ATTACHMENTS: Final[Mapping[int, str]] = {
    AttachType.CGROUP_UNIX_CONNECT: "6.7",
    AttachType.CGROUP_UNIX_SENDMSG: "6.7",
    AttachType.CGROUP_UNIX_RECVMSG: "6.7",
    AttachType.CGROUP_UNIX_GETPEERNAME: "6.7",
    AttachType.CGROUP_UNIX_GETSOCKNAME: "6.7",
}

#: Functions whose programs may call bpf_d_path.
PATH_FUNCTIONS: Final = frozenset(
    """
    security_file_permission security_inode_getattr security_file_open security_path_truncate vfs_truncate vfs_fallocate
    dentry_open vfs_getattr filp_close
    """.split()
)
#: Functions that no program may be attached to, and since when.
DENIED_FUNCTIONS: Final[Mapping[str, str]] = {
    **_names("migrate_disable migrate_enable rcu_read_unlock_strict preempt_count_add preempt_count_sub"),
    **_names("__rcu_read_lock __rcu_read_unlock", "6.12"),
}
#: Functions that do not return, so that nothing can be done after them, or instead; since 6.12 that is refused.
NO_RETURN_FUNCTIONS: Final = frozenset(
    """
    __ia32_sys_exit __ia32_sys_exit_group __kunit_abort kunit_try_catch_throw __module_put_and_kthread_exit __x64_sys_exit
    __x64_sys_exit_group do_exit do_group_exit kthread_complete_and_exit kthread_exit make_task_dead
    """.split()
)
NO_RETURN_SINCE: Final = "6.12"
#: Functions that are there to be changed, most of them for tests, in every kernel since 6.12; in one of them programs may sleep.
CHANGEABLE_FUNCTIONS: Final = frozenset(
    {"bpf_fentry_test1", "bpf_modify_return_test", "bpf_modify_return_test2", "bpf_modify_return_test_tp", "update_socket_protocol"}
)
SLEEPABLE_FUNCTIONS: Final = frozenset({"bpf_fentry_test1"})
CHANGEABLE_SINCE: Final = "6.12"
#: What else may be changed: functions with this beginning, and those that the kernel lists as able to fail, if it keeps such a list.
CHANGEABLE_PREFIX: Final = "security_"
#: A function of kernels that keep the list, and the beginnings of names that surely are on it.
ERROR_LIST: Final = "within_error_injection_list"
ERROR_PREFIXES: Final = ("__x64_sys_", "__ia32_sys_", "__arm64_sys_")
