"""What may be attached where: a small program for each LSM hook and for some functions, in each way that has rules of its own.

The verdicts are what the tables of `uapi` say of hooks; the names come from the types of the kernels that were asked.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from bench.agreement.case import Case
from bench.agreement.folder import cache
from bench.agreement.generate import insn

from ebpf.btf import Btf, Kind
from ebpf.sys.kernel import VMLINUX
from ebpf.uapi import AttachType, ProgFlag, ProgType
from ebpf.uapi.helpers import HELPERS

_PREFIX: Final = "bpf_lsm_"
_EXIT: Final = insn(0x95)
_D_PATH: Final = insn(0x85, imm=147) + insn(0xB7) + _EXIT
_RETURNS: Final = (0, 1, 2, -1, -4095, -4096)
#: Hooks whose helpers are asked for: one that sleeps, one that does not, and those with which sockets come.
_ASKED: Final = ("file_open", "task_free", "socket_post_create", "sock_graft", "sk_alloc_security", "socket_bind", "bprm_check_security")
#: Functions that are traced: of each rule one that it is of, and one that it is not.
_FUNCTIONS: Final = """
    bpf_fentry_test1 bpf_fentry_test2 bpf_fentry_test10 bpf_modify_return_test bpf_modify_return_test2
    bpf_modify_return_test_tp bpf_rstat_flush __x64_sys_getpgid __x64_sys_nanosleep __x64_sys_exit __x64_sys_exit_group
    __ia32_sys_getpgid do_exit do_group_exit make_task_dead kthread_exit __module_put_and_kthread_exit migrate_disable
    migrate_enable rcu_read_unlock_strict preempt_count_add preempt_count_sub __rcu_read_lock __rcu_read_unlock vfs_read
    vfs_truncate vfs_fallocate vfs_getattr dentry_open filp_close do_unlinkat tcp_v4_connect security_file_open
    security_file_permission security_inode_getattr security_path_truncate security_path_unlink security_task_free
    security_bprm_check should_failslab should_fail_alloc_page __filemap_add_folio kmem_cache_alloc bpf_lsm_file_open
    bpf_prog_run schedule __schedule sock_sendmsg
"""


def cases() -> Iterator[Case]:
    """The programs of all kernels whose types are known."""
    kernels = [Path(VMLINUX), *sorted((cache() / "oracle").glob("*/vmlinux"))]
    hooks = {
        row.name.removeprefix(_PREFIX)
        for path in kernels
        for row in Btf.parse(path.read_bytes())
        if row.kind == Kind.FUNC and row.name.startswith(_PREFIX)
    }
    for hook in sorted(hooks):
        yield from _lsm(hook)
    for function in _FUNCTIONS.split():
        yield from _traced(function)


def _case(kind: ProgType, attach: AttachType, target: str, name: str, code: bytes, flags: int = 0) -> Case:
    file = f"{kind.name}:{attach.name}".lower()
    return Case(f"hooks/{file}:{target}#{name}", "hooks", file, f"{target} {name}", code, int(kind), int(attach), flags, target=target)


def _lsm(hook: str) -> Iterator[Case]:
    mac = partial(_case, ProgType.LSM, AttachType.LSM_MAC, hook)
    of_cgroup = partial(_case, ProgType.LSM, AttachType.LSM_CGROUP, hook)
    for number in _RETURNS:
        yield mac(f"returns {number}", insn(0xB7, imm=number) + _EXIT)
    for number in _RETURNS[:3]:
        yield of_cgroup(f"returns {number}", insn(0xB7, imm=number) + _EXIT)
    yield mac("sleeps", insn(0xB7) + _EXIT, ProgFlag.SLEEPABLE)
    yield mac("d_path", _D_PATH)
    if hook in _ASKED:
        for helper in HELPERS.values():
            code = insn(0x85, imm=helper.id) + insn(0xB7) + _EXIT
            yield mac(helper.name, code)
            yield of_cgroup(helper.name, code)
            yield mac(f"{helper.name} sleeps", code, ProgFlag.SLEEPABLE)


def _traced(function: str) -> Iterator[Case]:
    for attach in (AttachType.TRACE_FENTRY, AttachType.TRACE_FEXIT, AttachType.MODIFY_RETURN):
        case = partial(_case, ProgType.TRACING, attach, function)
        yield case("returns 0", insn(0xB7) + _EXIT)
        yield case("sleeps", insn(0xB7) + _EXIT, ProgFlag.SLEEPABLE)
        yield case("d_path", _D_PATH)
        yield case("returns 1", insn(0xB7, imm=1) + _EXIT)
