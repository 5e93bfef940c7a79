"""Programs on the kernel's own functions, by each way that this kernel has: arguments, results, cookies, and an end."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebpf import attach
from ebpf.attach import Link
from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import KernelError, NotFoundError
from ebpf.isa import asm, encode
from ebpf.kernels import open_kernel
from ebpf.object import Collection, Program
from ebpf.sys.calls import GetProgInfo, ProgLoad
from ebpf.uapi import ProgType
from support.lacking import need

pytestmark = pytest.mark.linux
SOURCE = """
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>
char LICENSE[] SEC("license") = "GPL";
long seen = 0, cookie = 0, first = 0, result = 0;
const volatile int mine = 0;
#define OURS (bpf_get_current_pid_tgid() >> 32 == mine)
static void count(void *ctx, long a, long b) { if (OURS) { seen++; cookie = bpf_get_attach_cookie(ctx); first = a; result = b; } }
SEC("kprobe") int BPF_KPROBE(enters, struct pt_regs *regs) { count(ctx, PT_REGS_PARM1_CORE(regs), 0); return 0; }
SEC("kretprobe") int BPF_KRETPROBE(returns, long answer) { count(ctx, 0, answer); return 0; }
SEC("kprobe.multi") int BPF_KPROBE(many, struct pt_regs *regs) { count(ctx, PT_REGS_PARM1_CORE(regs), 0); return 0; }
SEC("kprobe.session") int session(struct pt_regs *ctx) { count(ctx, 0, 0); return 0; }
SEC("fentry/__x64_sys_getpgid") int BPF_PROG(before, struct pt_regs *regs) { count(ctx, regs->di, 0); return 0; }
SEC("fexit/__x64_sys_getpgid") int BPF_PROG(after, struct pt_regs *regs, long answer) { count(ctx, regs->di, answer); return 0; }
/* It only looks, at what is opened to append to: what the hooks before it said is said on. */
SEC("lsm/file_open") int BPF_PROG(opened, struct file *file, int before) { if (file->f_flags & 02000) count(ctx, file->f_flags & 3, before); return before; }
"""
FUNCTION = "__x64_sys_getpgid"


@pytest.fixture
def held() -> Iterator[Collection]:
    """The programs above, each loaded when it is first needed."""
    spec = read_object(compile_c("functions.bpf.c", text=SOURCE).object).with_variables({"mine": os.getpid()})
    with open_kernel("linux") as kernel, Collection.load(spec, kernel, load=False) as collection:
        yield collection


#: name: what the kernel must have, the program, how it is attached, (seen, cookie, first argument, result) after three calls.
KINDS: dict[str, tuple[str, str, Callable[[Program], Link], tuple[int, int, int, int]]] = {
    "kprobe": ("kprobe", "enters", lambda p: attach.kprobe(p, FUNCTION, cookie=7), (3, 7, 0, 0)),
    "kretprobe": ("kprobe", "returns", lambda p: attach.kprobe(p, FUNCTION, ret=True, cookie=7), (3, 7, 0, os.getpgid(0))),
    "kprobe.multi": ("kprobe.multi", "many", lambda p: attach.kprobe_multi(p, [FUNCTION], cookies=[7]), (3, 7, 0, 0)),
    "kretprobe.multi": ("kprobe.multi", "many", lambda p: attach.kprobe_multi(p, [FUNCTION], cookies=[7], ret=True), (3, 7, 0, 0)),
    "kprobe.session": ("kprobe.session", "session", lambda p: attach.kprobe_multi(p, [FUNCTION], cookies=[7], session=True), (6, 7, 0, 0)),
    "fentry": ("fentry", "before", lambda p: attach.trace(p, cookie=7), (3, 7, 0, 0)),
    "fexit": ("fexit", "after", lambda p: attach.trace(p, cookie=7), (3, 7, 0, os.getpgid(0))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_sees_the_calls_of_a_function_until_its_link_is_closed(kind: str, held: Collection) -> None:
    needed, name, attach_it, expected = KINDS[kind]
    need(needed)
    with attach_it(held.programs[name]) as link:
        for _ in range(3):
            os.getpgid(0)
        assert link.info().prog_id == held.programs[name].info().id
    os.getpgid(0)
    values = held.variables()
    seen, cookie, first, result = (values[each] for each in ("seen", "cookie", "first", "result"))
    # What a kretprobe.multi has in the place of its first argument, when the function is left, is nobody's.
    assert (seen, cookie, expected[2] if kind == "kretprobe.multi" else first, result) == expected


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory: where a root is laid over another (in a machine for tests), a file is opened once for each."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="ebpf-test.") as folder:
        yield Path(folder)


def test_a_security_hook_is_observed(held: Collection, memory: Path) -> None:
    need("lsm")
    path = memory / "file"
    with attach.trace(held.programs["opened"]):
        with path.open("a"):
            pass
        assert held.variables()["first"] == os.O_WRONLY
        with path.open("a+"):
            pass
    with path.open("a"):
        pass
    values = held.variables()
    assert (values["seen"], values["first"], values["result"]) == (2, os.O_RDWR, 0)


def test_a_function_that_there_is_not_is_named(held: Collection) -> None:
    need("kprobe", "kprobe.multi")
    with pytest.raises(NotFoundError, match="no kernel function '__x64_sys_getpgidd'; did you mean '__x64_sys_getpgid'"):
        attach.kprobe(held.programs["enters"], "__x64_sys_getpgidd")
    with pytest.raises(NotFoundError, match="no kernel function '__x64_sys_getpgidd'; did you mean '__x64_sys_getpgid'"):
        attach.kprobe_multi(held.programs["many"], ["__x64_sys_getpgidd"])


TASKS = """
SEC("iter/task") int tasks(struct bpf_iter__task *ctx) {
    struct task_struct *task = ctx->task;
    if (task) BPF_SEQ_PRINTF(ctx->meta->seq, "%d\\n", task->tgid);
    return 0;
}
"""
HEAD = SOURCE[: SOURCE.index("long seen")]
OPS = """
SEC("struct_ops") u32 BPF_PROG(ss, struct sock *sk) { return 5; }
SEC("struct_ops") void BPF_PROG(av, struct sock *sk, u32 ack, u32 acked) { }
SEC("struct_ops") u32 BPF_PROG(undo, struct sock *sk) { return 5; }
SEC("KIND") struct tcp_congestion_ops ops = { .ssthresh = (void *)ss, .cong_avoid = (void *)av, .undo_cwnd = (void *)undo, .name = "ebpf_fns" };
"""
CONTROLS = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")


def test_an_iterator_walks_the_tasks() -> None:
    spec = read_object(compile_c("tasks.bpf.c", text=HEAD + TASKS).object)
    with open_kernel("linux") as kernel, Collection.load(spec, kernel) as held, attach.iterate(held.programs["tasks"]) as link:
        assert str(os.getpid()) in link.read().decode().split()


@pytest.mark.parametrize("kind", [".struct_ops", ".struct_ops.link"])
def test_a_struct_of_functions_is_the_kernels_or_what_the_kernel_lacks_is_said(kind: str) -> None:
    spec = read_object(compile_c("ops.bpf.c", text=HEAD + OPS.replace("KIND", kind)).object)
    with open_kernel("linux") as kernel:
        try:
            held = Collection.load(spec, kernel)
        except KernelError as error:
            # Without a link every kernel that has such structs takes it.
            assert (kind, "this kernel has no links for structs of functions" in str(error)) == (".struct_ops.link", True)  # noqa: PT017
            return
        with held:
            with attach.struct_ops(held, "ops"):
                assert "ebpf_fns" in CONTROLS.read_text().split()
            assert "ebpf_fns" not in CONTROLS.read_text().split()


def test_a_programs_tag_is_one_hash_of_its_instructions_on_one_kernel() -> None:
    """SHA-256 since Linux 6.18, SHA-1 before."""
    kinds = set()
    with open_kernel("linux") as kernel:
        for text in ("r0 = 0\nexit", "r0 = 1\nexit", "r1 = 5\nr0 = r1\nr0 += 3\nexit"):
            code = encode(asm(text))
            fd = kernel.bpf(ProgLoad(int(ProgType.SOCKET_FILTER), code, "GPL", "tagged")).fd
            tag = kernel.bpf(GetProgInfo(fd)).tag
            kernel.close(fd)
            kinds.add({hashlib.sha1(code).digest()[:8]: "sha1", hashlib.sha256(code).digest()[:8]: "sha256"}.get(tag))
    assert kinds in ({"sha1"}, {"sha256"})
