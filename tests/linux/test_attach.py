"""Programs in Linux's kernel that see a command's tree only: code is put before them, whatever they are made of."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ebpf import attach
from ebpf.attach import Link
from ebpf.btf import Kind
from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import EbpfError, NotSupportedError
from ebpf.kernels import open_kernel
from ebpf.object import Collection, Program
from ebpf.sys.kernel import Command
from support.lacking import has_type

pytestmark = pytest.mark.linux
HEAD = """
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
int counter = 0;
static int each(__u32 i, void *ctx) { counter++; return 0; }
__attribute__((noinline)) int of_context(struct pt_regs *ctx) { volatile int x = ctx ? 3 : 0; counter += x; return x; }
char LICENSE[] SEC("license") = "GPL";
"""
EXECVE = "__x64_sys_execve"
#: name: section, body, how it is attached. Each adds 3 for a program that is started.
CASES: dict[str, tuple[str, str, Callable[[Program], Link]]] = {
    "kprobe-with-a-callback": ("kprobe", "bpf_loop(3, each, 0, 0);", lambda p: attach.kprobe(p, EXECVE)),
    "kprobe-that-passes-its-context": ("kprobe", "of_context(ctx);", lambda p: attach.kprobe(p, EXECVE)),
    "tracepoint-with-a-callback": (
        "tracepoint",
        "bpf_loop(3, each, 0, 0);",
        lambda p: attach.tracepoint(p, "syscalls:sys_enter_execve"),
    ),
    "raw-tracepoint": ("raw_tp", "bpf_loop(3, each, 0, 0);", lambda p: attach.raw_tracepoint(p, "sched_process_exec")),
}


@pytest.mark.parametrize("case", CASES)
def test_what_the_commands_tree_starts_is_counted_and_nothing_else(case: str) -> None:
    section, body, attach_it = CASES[case]
    source = HEAD + f'SEC("{section}") int watch(struct pt_regs *ctx) {{ {body} return 0; }}\n'
    spec = read_object(compile_c("watch.bpf.c", text=source).object)
    with open_kernel("linux") as kernel:
        kernel.lab.spawn(Command(("/bin/sh", "-c", "/bin/true; /bin/true; :"), dict(os.environ)))
        with Collection.load(spec, kernel, load=False) as loaded, attach_it(loaded.programs["watch"]):
            os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
            with pytest.raises(KeyboardInterrupt):
                kernel.wait([], 10)
            assert loaded.variables()["counter"] == 9


def test_a_raw_tracepoint_that_is_unknown_is_named() -> None:
    spec = read_object(compile_c("watch.bpf.c", text=HEAD + 'SEC("raw_tp") int watch(void *ctx) { return 0; }\n').object)
    with (
        open_kernel("linux") as kernel,
        Collection.load(spec, kernel) as loaded,
        pytest.raises(EbpfError, match="no_such_event"),
    ):
        attach.raw_tracepoint(loaded.programs["watch"], "no_such_event")


def test_a_kernel_without_kprobes_says_what_it_has_instead() -> None:
    if os.path.exists("/sys/bus/event_source/devices/kprobe"):
        pytest.skip("this kernel has kprobes: /sys/bus/event_source/devices/kprobe exists")
    spec = read_object(compile_c("watch.bpf.c", text=HEAD + 'SEC("kprobe") int watch(void *ctx) { return 0; }\n').object)
    with (
        open_kernel("linux") as kernel,
        Collection.load(spec, kernel, load=False) as loaded,
        pytest.raises(NotSupportedError, match=r"kprobe 'tcp_v4_connect': this kernel has no kprobes .* System calls' functions"),
    ):
        attach.kprobe(loaded.programs["watch"], "tcp_v4_connect")


LIBC = next((line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libc.so" in line), "")
SECTIONS = {
    "tp/syscalls/sys_enter_getpgid": "tracepoint",
    "raw_tp/sys_enter": "",
    "tp_btf/sys_enter": "",
    f"uprobe/{LIBC}:getpgid": "uprobe",
    f"uretprobe/{LIBC}:getpgid": "uretprobe",
}


@pytest.mark.skipif(not LIBC, reason="this process has no libc.so of which a function could be traced")
@pytest.mark.parametrize("section", SECTIONS)
def test_a_program_is_attached_as_its_section_says(section: str) -> None:
    kind = SECTIONS[section]
    # Of this process alone, and of raw tracepoints the same system call alone.
    only = "" if kind else "if (((unsigned long *)ctx)[1] != 121) return 0;"
    source = HEAD + (
        f'SEC("{section}") int watch(void *ctx) {{ if (bpf_get_current_pid_tgid() >> 32 != {os.getpid()}) return 0; {only} counter++; return 0; }}\n'
    )
    spec = read_object(compile_c("watch.bpf.c", text=source).object)
    with open_kernel("linux") as kernel, Collection.load(spec, kernel) as loaded:
        link = attach.by_section(loaded.programs["watch"])
        assert link is not None
        for _ in range(5):
            os.getpgid(0)
        info = link.info()
        link.close()
        os.getpgid(0)
        assert loaded.variables()["counter"] == 5
        assert info.prog_id == loaded.programs["watch"].info().id
        if kind:
            # Since Linux 6.6 a link tells of what kind its event is.
            assert info.detail["event"] == (kind if has_type("bpf_perf_event_type", Kind.ENUM) else "")


@pytest.mark.parametrize(
    ("section", "why"),
    [
        ("tp/syscalls", "a tracepoint is written category/name"),
        ("uprobe/getpgid", "is written path:function"),
        (f"uprobe/{LIBC}:getpgidd", "no function 'getpgidd' in .*getpgid"),
        (f"uprobe/{LIBC}:getpgid+x", "'x' is no offset"),
    ],
)
def test_a_target_that_is_not_there_is_named(section: str, why: str) -> None:
    source = HEAD + f'SEC("{section}") int watch(void *ctx) {{ return 0; }}\n'
    spec = read_object(compile_c("watch.bpf.c", text=source).object)
    with open_kernel("linux") as kernel, Collection.load(spec, kernel) as loaded, pytest.raises(EbpfError, match=why):
        attach.by_section(loaded.programs["watch"])


def test_a_section_that_says_nothing_attaches_nothing() -> None:
    spec = read_object(compile_c("watch.bpf.c", text=HEAD + 'SEC("xdp") int watch(void *ctx) { return 2; }\n').object)
    with open_kernel("linux") as kernel, Collection.load(spec, kernel) as loaded:
        assert attach.by_section(loaded.programs["watch"]) is None
