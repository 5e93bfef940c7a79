"""Programs in Linux's kernel that see a command's tree only: code is put before them, whatever they are made of."""

import os
from collections.abc import Callable

import pytest

from ebpf import attach
from ebpf.attach import Link
from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import EbpfError, NotSupportedError
from ebpf.kernels import open_kernel
from ebpf.object import Collection, Program
from ebpf.sys.kernel import Command

pytestmark = pytest.mark.linux
HEAD = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct pt_regs;
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
