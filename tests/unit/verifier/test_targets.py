"""What a program is attached to says what it may do: LSM hooks and traced functions, with types that are made here."""

from dataclasses import dataclass
from typing import Final

import pytest

from ebpf.btf import Btf
from ebpf.btf.build import Builder
from ebpf.engine.program import Code, Verdict
from ebpf.engine.verifier import RULES, verify
from ebpf.isa import asm
from ebpf.uapi import AttachType, ProgType
from ebpf.uapi.targets import (
    BOOLEAN_HOOKS,
    DISABLED_HOOKS,
    ERROR_LIST,
    NO_MORE_SLEEPABLE_HOOKS,
    NO_RETURN_FUNCTIONS,
    SLEEPABLE_HOOKS,
    SOCKOPT_HOOKS,
)

_HOOKS: Final = ("file_open", "task_free", "sock_graft", "inode_xattr_skipcap", "getprocattr", "path_unlink", "inet_conn_established")
_NOTHING: Final = ("task_free", "sock_graft", "inet_conn_established")
_FUNCTIONS: Final = ("vfs_read", "filp_close", "security_file_open", "bpf_fentry_test1", "do_exit", "migrate_disable")


def _kernel(*, lists_errors: bool) -> Btf:
    """A kernel with some hooks and functions; `lists_errors`: it has a list of functions that can be made to fail."""
    build = Builder()
    number = build.integer("int", 4, signed=True)
    gives, gives_nothing = build.func_proto(number, [("n", number)]), build.func_proto(0, [("n", number)])
    build.union("security_list_options", 8, [(name, number) for name in _HOOKS])
    for name in (*_HOOKS, "init"):
        build.func(f"bpf_lsm_{name}", gives_nothing if name in _NOTHING else gives)
    for name in (*_FUNCTIONS, "bpf_sk_storage_free", "__x64_sys_getpgid", *([ERROR_LIST] if lists_errors else [])):
        build.func(name, gives)
    return build.build()


KERNEL: Final = _kernel(lists_errors=False)
LISTING: Final = _kernel(lists_errors=True)
MAC, CGROUP = AttachType.LSM_MAC, AttachType.LSM_CGROUP
ENTRY, EXIT, CHANGE = AttachType.TRACE_FENTRY, AttachType.TRACE_FEXIT, AttachType.MODIFY_RETURN
ZERO: Final = "r0 = 0; exit"
D_PATH: Final = "call 147; r0 = 0; exit"
NOT_READ: Final = "R1 type=ctx expected=ptr_, trusted_ptr_, rcu_ptr_"
NOT_HERE: Final = "helper call is not allowed in probe"


@dataclass(frozen=True)
class Row:
    """A program and what Linux 6.12 says last ("": accepted); `old` is what 6.1 says, where it is something else."""

    attach: AttachType
    to: str
    text: str = ZERO
    says: str = ""
    old: str = "same"
    sleeps: bool = False
    gpl: bool = True
    kernel: Btf = KERNEL

    @property
    def name(self) -> str:
        return f"{self.attach.name.lower()} {self.to} {self.text}{' sleeps' if self.sleeps else ''}".replace(" ", "-")


def _out_of(number: int, allowed: str) -> str:
    return f"At program exit the register R0 has smin={number} smax={number} should have been in {allowed}"


ROWS: Final = [
    Row(MAC, "file_open"),
    Row(MAC, "file_open", "r0 = -4095; exit"),
    Row(MAC, "file_open", "w0 = -1; exit"),
    Row(MAC, "file_open", "r0 = 1; exit", _out_of(1, "[-4095, 0]"), old=""),
    Row(MAC, "file_open", "r0 = -4096; exit", _out_of(-4096, "[-4095, 0]"), old=""),
    Row(MAC, "inode_xattr_skipcap", "r0 = 1; exit"),
    Row(MAC, "inode_xattr_skipcap", "r0 = -1; exit", _out_of(-1, "[0, 1]"), old=""),
    Row(MAC, "task_free", "r0 = 7; exit"),
    Row(MAC, "file_open", says="LSM programs must have a GPL compatible license", gpl=False),
    Row(MAC, "getprocattr", says="points to disabled hook bpf_lsm_getprocattr"),
    Row(MAC, "init", says="points to wrong type name bpf_lsm_init"),
    Row(MAC, "file_open", sleeps=True),
    Row(MAC, "task_free", says="bpf_lsm_task_free is not sleepable", sleeps=True),
    Row(MAC, "path_unlink", sleeps=True, old="bpf_lsm_path_unlink is not sleepable"),
    Row(MAC, "inet_conn_established", says="bpf_lsm_inet_conn_established is not sleepable", sleeps=True, old=""),
    Row(MAC, "file_open", D_PATH, NOT_READ, old="*"),
    Row(MAC, "task_free", D_PATH, NOT_HERE),
    Row(MAC, "file_open", "call 185; r0 = 0; exit"),
    Row(CGROUP, "file_open", "r0 = 1; exit"),
    Row(CGROUP, "file_open", "r0 = 2; exit", _out_of(2, "[0, 1]"), old="*"),
    Row(CGROUP, "task_free", "r0 = 1; exit"),
    Row(CGROUP, "task_free", says="can't modify return value!"),
    Row(CGROUP, "file_open", says="*", sleeps=True),
    Row(CGROUP, "file_open", "call 186; r0 = 1; exit"),
    Row(CGROUP, "file_open", "call 174; r0 = 1; exit", "*"),
    Row(MAC, "file_open", "call 186; r0 = 0; exit", "*"),
    Row(CGROUP, "file_open", "call 57; r0 = 1; exit", "program of this type cannot use helper bpf_getsockopt#57", old="*"),
    Row(CGROUP, "sock_graft", "call 57; r0 = 1; exit", "R1 type=ctx expected=*", old="*"),
    Row(ENTRY, "vfs_read"),
    Row(ENTRY, "vfs_read", says="vfs_read is not sleepable", sleeps=True),
    Row(ENTRY, "bpf_fentry_test1", sleeps=True, old="bpf_fentry_test1 is not sleepable"),
    Row(ENTRY, "__x64_sys_getpgid", says="__x64_sys_getpgid is not sleepable", sleeps=True),
    Row(ENTRY, "__x64_sys_getpgid", sleeps=True, kernel=LISTING),
    Row(ENTRY, "vfs_read", D_PATH, NOT_HERE),
    Row(ENTRY, "filp_close", D_PATH, NOT_READ, old="*"),
    Row(ENTRY, "bpf_sk_storage_free", "call 107; exit", NOT_HERE),
    Row(CHANGE, "vfs_read", says="vfs_read() is not modifiable"),
    Row(CHANGE, "security_file_open", "r0 = 5; exit"),
    Row(CHANGE, "bpf_fentry_test1", old="bpf_fentry_test1() is not modifiable"),
    Row(CHANGE, "__x64_sys_getpgid", kernel=LISTING),
    Row(ENTRY, "do_exit"),
    Row(EXIT, "do_exit", says="Attaching fexit/fmod_ret to __noreturn functions is rejected.", old=""),
    Row(ENTRY, "migrate_disable", says="Attaching tracing programs to function 'migrate_disable' is rejected."),
    Row(AttachType.TRACE_RAW_TP, "wakes", says="*", sleeps=True, old=""),
    Row(AttachType.TRACE_RAW_TP, "filp_close", D_PATH, NOT_HERE),
]


def _judged(row: Row, release: str) -> Verdict:
    kind = ProgType.LSM if row.attach in (MAC, CGROUP) else ProgType.TRACING
    code = Code(
        asm(row.text.replace("; ", "\n")),
        int(kind),
        gpl=row.gpl,
        attach_type=int(row.attach),
        attach_to=row.to,
        sleepable=row.sleeps,
        kernel_btf=row.kernel,
    )
    return verify(code, rules=RULES[release])


@pytest.mark.parametrize("release", ["6.1", "6.12", "6.18"])
@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.name)
def test_what_a_program_is_attached_to_says_what_it_may_do(row: Row, release: str) -> None:
    verdict = _judged(row, release)
    says = row.old if release == "6.1" and row.old != "same" else row.says
    assert not verdict.unknown
    assert verdict.accepted == (not says), verdict.log
    assert says.rstrip("*") in verdict.says


def test_a_kernel_that_lists_errors_may_list_others_too() -> None:
    verdict = _judged(Row(CHANGE, "vfs_read", kernel=LISTING), "6.12")
    assert not verdict.accepted
    assert verdict.unknown == "whether the kernel lists vfs_read() among the functions that can be made to fail"


def test_no_hook_is_of_two_kinds() -> None:
    assert not DISABLED_HOOKS & BOOLEAN_HOOKS
    assert not SLEEPABLE_HOOKS.keys() & NO_MORE_SLEEPABLE_HOOKS.keys()
    assert not DISABLED_HOOKS & SOCKOPT_HOOKS
    assert not any(name.startswith("bpf_lsm_") for name in (*SLEEPABLE_HOOKS, *DISABLED_HOOKS, *BOOLEAN_HOOKS, *NO_RETURN_FUNCTIONS))
