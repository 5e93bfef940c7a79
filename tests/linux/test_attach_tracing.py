"""Programs that trace, each attached by one call to this process's own doings: counted, with cookies, detached, refused."""

import ctypes
import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebpf import attach
from ebpf.attach import Link
from ebpf.compile import compile_c
from ebpf.elf import read_object, read_probes
from ebpf.errors import AttachError, EbpfError, FormatError, KernelError, NotFoundError, NotSupportedError, UsageError
from ebpf.kernels import open_kernel
from ebpf.object import Collection, Program
from ebpf.uapi import AttachType
from support import place, probes
from support.lacking import need, raw_cookies

pytestmark = pytest.mark.linux
SOURCE = """
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/usdt.bpf.h>
char LICENSE[] SEC("license") = "GPL";
long seen = 0, cookie = 0, sum = 0, wide = 0, pointed = 0, count = 0;
const volatile int mine = 0;
const volatile bool raw_cookies = false;
const volatile long pgid = 0;
#define OURS (bpf_get_current_pid_tgid() >> 32 == mine)
#define RAW_COUNT(ctx) if (OURS) { __sync_fetch_and_add(&seen, 1); cookie = raw_cookies ? bpf_get_attach_cookie(ctx) : 0; } return 0
#define COUNT(ctx) if (OURS) { __sync_fetch_and_add(&seen, 1); cookie = bpf_get_attach_cookie(ctx); } return 0
SEC("tp") int on_tracepoint(void *ctx) { COUNT(ctx); }
SEC("kprobe") int on_function(struct pt_regs *ctx) { COUNT(ctx); }
SEC("ksyscall/getpgid") int on_call(struct pt_regs *ctx) { if (OURS) __sync_fetch_and_add(&seen, 1); return 0; }
SEC("kretsyscall/getpgid") int on_answer(struct pt_regs *ctx) { if (OURS && PT_REGS_RC(ctx) == pgid) __sync_fetch_and_add(&seen, 1); return 0; }
SEC("kprobe.multi") int on_many(struct pt_regs *ctx) { COUNT(ctx); }
SEC("uprobe") int on_place(struct pt_regs *ctx) { COUNT(ctx); }
SEC("uprobe.multi") int on_places(struct pt_regs *ctx) { COUNT(ctx); }
SEC("uprobe.session") int on_both(struct pt_regs *ctx) { COUNT(ctx); }
SEC("perf_event") int on_sample(struct bpf_perf_event_data *ctx) { COUNT(ctx); }
SEC("raw_tp") int on_raw(struct bpf_raw_tracepoint_args *ctx) { if (ctx->args[1] != 121) return 0; RAW_COUNT(ctx); }
SEC("tp_btf/sys_enter") int on_btf(u64 *ctx) { if (ctx[1] != 121) return 0; RAW_COUNT(ctx); }
SEC("usdt") int on_probe(struct pt_regs *ctx) {
    long a = 0, b = 0, c = 0;
    if (!OURS) return 0;
    bpf_usdt_arg(ctx, 0, &a); bpf_usdt_arg(ctx, 1, &b); bpf_usdt_arg(ctx, 2, &c);
    sum = a; wide = b; pointed = c; count = bpf_usdt_arg_cnt(ctx); cookie = bpf_usdt_cookie(ctx); seen++;
    return 0;
}
SEC("iter/task") int tasks(struct bpf_iter__task *ctx) {
    struct task_struct *task = ctx->task;
    if (task) BPF_SEQ_PRINTF(ctx->meta->seq, "%d\\n", task->tgid);
    return 0;
}
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 8); __type(key, int); __type(value, int); } numbers SEC(".maps");
SEC("iter/bpf_map_elem") int elements(struct bpf_iter__bpf_map_elem *ctx) {
    int *key = ctx->key, *value = ctx->value;
    if (key && value) BPF_SEQ_PRINTF(ctx->meta->seq, "%d=%d\\n", *key, *value);
    return 0;
}
SEC("cgroup_skb/egress") int on_egress(struct __sk_buff *skb) { __sync_fetch_and_add(&seen, 1); return 1; }
SEC("cgroup/connect4") int on_connect(struct bpf_sock_addr *ctx) { __sync_fetch_and_add(&seen, 1); return 1; }
SEC("cgroup/skb") int of_no_side(struct __sk_buff *skb) { __sync_fetch_and_add(&seen, 1); return 1; }
"""
OBJECT = compile_c("trace.bpf.c", text=SOURCE.replace("const volatile int mine = 0", f"const volatile int mine = {os.getpid()}")).object
LIBC = next((line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libc.so" in line), "")


@pytest.fixture
def held() -> Iterator[Collection]:
    """The programs above, each loaded when it is first needed."""
    spec = read_object(OBJECT).with_variables({"raw_cookies": raw_cookies(), "pgid": os.getpgid(0)})
    with open_kernel("linux") as kernel, Collection.load(spec, kernel, load=False) as collection:
        yield collection


def value(held: Collection, name: str = "seen") -> int:
    return int(held.variables()[name])  # type: ignore[arg-type]


def raw_cookie() -> int:
    """What raw tracepoints are attached with."""
    return 77 if raw_cookies() else 0


#: name: program, how it is attached (with cookie 77 where the kernel has them), how often three calls of getpgid are seen.
KINDS: dict[str, tuple[str, Callable[[Program], Link], int]] = {
    "tracepoint": ("on_tracepoint", lambda p: attach.tracepoint(p, "syscalls:sys_enter_getpgid", cookie=77), 3),
    "raw_tracepoint": ("on_raw", lambda p: attach.raw_tracepoint(p, "sys_enter", cookie=raw_cookie()), 3),
    "tp_btf": ("on_btf", lambda p: attach.trace(p, cookie=raw_cookie()), 3),
    "uprobe": ("on_place", lambda p: attach.uprobe(p, LIBC, "getpgid", cookie=77), 3),
    "uprobe-bare-name-and-pid": ("on_place", lambda p: attach.uprobe(p, "libc.so.6", "getpgid", cookie=77, pid=os.getpid()), 3),
    "uretprobe": ("on_place", lambda p: attach.uprobe(p, LIBC, "getpgid", ret=True, cookie=77), 3),
    "uprobe.multi": ("on_places", lambda p: attach.uprobe_multi(p, LIBC, ["getpgid"], cookies=[77]), 3),
    "uretprobe.multi": ("on_places", lambda p: attach.uprobe_multi(p, LIBC, ["getpgid"], cookies=[77], ret=True, pid=os.getpid()), 3),
    "uprobe.session": ("on_both", lambda p: attach.uprobe_multi(p, LIBC, ["getpgid"], cookies=[77], session=True), 6),
}

#: Those that an older kernel has not.
_PROBED = {"uprobe.multi": "uprobe.multi", "uretprobe.multi": "uprobe.multi", "uprobe.session": "uprobe.session"}


@pytest.mark.skipif(not LIBC, reason="this process has no libc.so of which a function could be traced")
@pytest.mark.parametrize("kind", KINDS)
def test_a_program_sees_what_happens_until_its_link_is_closed(kind: str, held: Collection) -> None:
    name, attach_it, expected = KINDS[kind]
    if kind in _PROBED:
        need(_PROBED[kind])
    with attach_it(held.programs[name]) as link:
        for _ in range(3):
            os.getpgid(0)
        assert link.info().prog_id == held.programs[name].info().id
    os.getpgid(0)
    assert (value(held), value(held, "cookie")) == (expected, raw_cookie() if name in ("on_raw", "on_btf") else 77)


@pytest.mark.parametrize(
    "attach_it",
    [
        lambda h: attach.raw_tracepoint(h.programs["on_raw"], "sys_enter", cookie=77),
        lambda h: attach.trace(h.programs["on_btf"], cookie=77),
    ],
    ids=["raw_tracepoint", "tp_btf"],
)
def test_a_kernel_without_cookies_for_raw_tracepoints_says_so(attach_it: Callable[[Collection], Link], held: Collection) -> None:
    if raw_cookies():
        pytest.skip("this kernel has cookies for raw tracepoints: a program that asks for its own was loaded")
    with pytest.raises(NotSupportedError, match=r"a cookie: this kernel has none for .* \(Linux 6\.10\)"):
        attach_it(held)


@pytest.mark.skipif(not LIBC, reason="this process has no libc.so of which a function could be traced")
def test_a_pattern_hooks_all_functions_of_that_name(held: Collection) -> None:
    need("uprobe.multi")
    with attach.uprobe_multi(held.programs["on_places"], LIBC, "getpg?d") as link:
        assert link.info().detail["func_cnt"] == 1
        os.getpgid(0)
        os.getsid(0)
    assert value(held) == 1


@pytest.mark.parametrize("name", ["on_call", "on_answer"])
def test_a_system_call_by_its_name(name: str, held: Collection) -> None:
    """Where there are no kprobes, its raw tracepoint serves."""
    with attach.by_section(held.programs[name]) or pytest.fail("not attached"):
        for _ in range(3):
            os.getpgid(0)
    assert value(held) == 3


@pytest.mark.parametrize("event", ["cpu-clock", "task-clock"])
def test_a_clock_samples_this_process(event: str, held: Collection) -> None:
    with attach.perf_event(held.programs["on_sample"], event, frequency=200, pid=os.getpid(), cookie=5):
        deadline = time.monotonic() + 20
        while not value(held) and time.monotonic() < deadline:
            sum(range(100_000))
    assert value(held) > 0
    assert value(held, "cookie") == 5


def test_events_of_every_cpu_are_one_attachment(held: Collection) -> None:
    with attach.perf_event(held.programs["on_sample"], "context-switches", period=1) as link:
        assert len(link.fds) == len(os.sched_getaffinity(0)) or len(link.fds) == os.cpu_count()
        for _ in range(5):
            time.sleep(0.001)
    assert value(held) > 0


def test_a_counter_that_the_machine_has_not_is_named(held: Collection) -> None:
    try:
        with attach.perf_event(held.programs["on_sample"], "cycles", period=100_000, pid=os.getpid()):
            pass
    except NotSupportedError as error:
        assert "this machine has no such counter" in str(error)  # noqa: PT017
    with pytest.raises(NotFoundError, match="no perf event 'cycle'; did you mean 'cycles'"):
        attach.perf_event(held.programs["on_sample"], "cycle", period=1)
    with pytest.raises(UsageError, match="how often"):
        attach.perf_event(held.programs["on_sample"], "cycles")


def test_a_breakpoint_sees_a_write(held: Collection) -> None:
    watched = ctypes.c_long(1)
    with attach.breakpoint(held.programs["on_sample"], ctypes.addressof(watched), pid=os.getpid()):
        for number in range(3):
            watched.value = number
    watched.value = 9
    assert value(held) == 3


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A library with a function `work(int, short *)` and a probe in it."""
    return probes.library(tmp_path_factory.mktemp("probes"))


def test_a_probe_of_a_library_gives_its_arguments_and_lifts_its_semaphore(library: str, held: Collection) -> None:
    loaded = ctypes.CDLL(library)
    semaphore = ctypes.c_ushort.in_dll(loaded, "sem")
    numbers = (ctypes.c_short * 2)(1, -300)
    assert semaphore.value == 0
    with attach.usdt(held.programs["on_probe"], library, "ours:work", cookie=123, pid=os.getpid()):
        # The kernel counts once for each mapping of the page that the code lies in.
        assert semaphore.value > 0
        loaded.work(ctypes.c_int(-5), numbers)
    loaded.work(ctypes.c_int(8), numbers)
    assert semaphore.value == 0
    names = ("seen", "count", "sum", "wide", "pointed", "cookie")
    assert [value(held, name) for name in names] == [1, 3, -5, -7, -300, 123]


def test_probes_that_are_not_there_are_named(library: str, held: Collection) -> None:
    assert [(p.provider, p.name, p.arguments) for p in read_probes(library)] == [("ours", "work", "-4@%edi 8@$-7 -2@2(%rsi)")]
    with pytest.raises(NotFoundError, match=r"no USDT probe 'ours:wrok' in .*; did you mean 'ours:work'"):
        attach.usdt(held.programs["on_probe"], library, "ours:wrok")
    with pytest.raises(NotFoundError, match=r"no library 'libnone\.so\.9'"):
        attach.usdt(held.programs["on_probe"], "libnone.so.9", "a:b")
    with pytest.raises(UsageError, match="provider:name"):
        attach.usdt(held.programs["on_probe"], library, "work")


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("-4@%eax", {"arg_type": 1, "reg_off": 80, "arg_signed": 1, "arg_bitshift": 32}),
        ("8@%r8d", {"arg_type": 1, "reg_off": 72, "arg_bitshift": 0}),
        ("1@%dil", {"arg_type": 1, "reg_off": 112, "arg_bitshift": 56}),
        ("-4@-20(%rbp)", {"arg_type": 2, "reg_off": 32, "val_off": (1 << 64) - 20}),
        ("8@(%rsp)", {"arg_type": 2, "reg_off": 152, "val_off": 0}),
        ("4@$-9", {"arg_type": 0, "val_off": (1 << 64) - 9}),
        ("8@16(%rdx,%rcx,8)", {"arg_type": 3, "reg_off": 96, "idx_reg_off": 88, "scale_bitshift": 3, "val_off": 16}),
        ("8@(%rdx,%rcx)", {"arg_type": 3, "scale_bitshift": 0}),
    ],
)
def test_arguments_as_assemblers_write_them(text: str, row: dict[str, int]) -> None:
    from ebpf.attach.static_probes import locate

    assert locate(text).items() >= row.items()


@pytest.mark.parametrize("text", ["8@foo(%rip)", "3@%rax", "8@%xyz", "8", "8@16(%rdx,%rcx,3)"])
def test_arguments_that_cannot_be_found_are_named(text: str) -> None:
    from ebpf.attach.static_probes import locate

    with pytest.raises(FormatError, match=r"the argument .* (is written|lies)"):
        locate(text, "a:b")


def test_an_iterator_is_read_again_and_again(held: Collection) -> None:
    with attach.iterate(held.programs["tasks"], pid=os.getpid()) as link:
        first = link.read().split()
        assert set(first) == {str(os.getpid()).encode()}
        assert link.read().split() == first
    with attach.iterate(held.programs["tasks"]) as link:
        assert str(os.getpid()).encode() in link.read().split()


def test_an_iterator_over_the_elements_of_a_map(held: Collection) -> None:
    for number in range(3):
        held.maps["numbers"].update(number.to_bytes(4, "little"), (number * number).to_bytes(4, "little"))
    try:
        held.programs["elements"].load()
    except KernelError as refusal:
        assert refusal.errno == errno.EPERM  # noqa: PT017
        assert "some hosts forbid this iter" in str(refusal)  # noqa: PT017
        return
    with attach.iterate(held.programs["elements"], walked=held.maps["numbers"]) as link:
        assert sorted(link.read().split()) == [b"0=0", b"1=1", b"2=4"]
    with pytest.raises(AttachError, match="walks the elements of a map: say which"):
        attach.iterate(held.programs["elements"])


SEND = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('127.0.0.1', 9)); s.send(b'x')"


def in_cgroup(path: str, code: str) -> None:
    """Run Python code as a process of a cgroup."""
    join = f"open({path + '/cgroup.procs'!r}, 'w').write('0'); "
    subprocess.run([sys.executable, "-S", "-c", join + code], check=True, timeout=60)


@pytest.mark.skipif(not place.cgroup_mount(), reason="no cgroup2 is mounted")
@pytest.mark.parametrize(
    ("name", "kind", "flags"),
    [
        ("on_egress", None, None),
        ("on_connect", None, None),
        ("of_no_side", AttachType.CGROUP_INET_EGRESS, None),
        ("on_egress", None, "multi"),
        ("on_connect", None, "override"),
    ],
)
def test_a_program_sees_what_the_processes_of_a_cgroup_do(name: str, kind: AttachType | None, flags: str | None, held: Collection) -> None:
    with place.cgroup(name) as path:
        with attach.cgroup(held.programs[name], path, kind, flags=flags):
            in_cgroup(path, SEND)
        during = value(held)
        in_cgroup(path, SEND)
    assert during >= 1
    assert value(held) == during


def test_what_cannot_be_attached_says_why_and_what_would_work(held: Collection, tmp_path: Path) -> None:
    programs = held.programs
    refusals: list[tuple[Callable[[], Link], type[EbpfError], int, str]] = [
        (lambda: attach.cgroup(programs["on_egress"], str(tmp_path)), AttachError, errno.EBADF, "is no cgroup of version 2"),
        (lambda: attach.cgroup(programs["of_no_side"], str(tmp_path)), UsageError, errno.EINVAL, "give kind"),
        (lambda: attach.cgroup(programs["on_egress"], "/no/such"), NotFoundError, errno.ENOENT, "no cgroup '/no/such'"),
        (lambda: attach.uprobe(programs["on_place"], LIBC, "getpgidd"), NotFoundError, errno.ENOENT, "no function 'getpgidd'"),
        (lambda: attach.uprobe_multi(programs["on_places"], LIBC, "nothing*like"), NotFoundError, errno.ENOENT, "nothing*like"),
        (lambda: attach.uprobe_multi(programs["on_places"], LIBC, ["getpgid"], cookies=[1, 2]), UsageError, errno.EINVAL, "2 cookies"),
        (lambda: attach.uprobe_multi(programs["on_place"], LIBC, ["getpgid"]), AttachError, errno.EINVAL, "a uprobe to each"),
        (lambda: attach.iterate(programs["on_btf"]), AttachError, errno.EINVAL, "is no iterator"),
        (lambda: attach.trace(programs["on_raw"]), EbpfError, errno.EFAULT, "not loaded for something that is traced"),
    ]
    for call, kind, number, text in refusals:
        with pytest.raises(kind) as caught:
            call()
        assert caught.value.errno == number, caught.value
        assert text in f"{caught.value} {caught.value.hint}"


def test_many_functions_of_the_kernel_or_a_word_on_why_not(held: Collection) -> None:
    try:
        with attach.kprobe_multi(held.programs["on_many"], "__x64_sys_getpg*d"):
            os.getpgid(0)
    except AttachError as error:
        assert error.errno in (errno.EOPNOTSUPP, errno.EPERM)  # noqa: PT017
        assert "attach a kprobe to each function" in str(error.hint)  # noqa: PT017
    else:
        assert value(held) == 1
    with pytest.raises(NotFoundError, match="no kernel function"):
        attach.kprobe_multi(held.programs["on_many"], "no_such_function_of_*")


@pytest.mark.skipif(not LIBC, reason="this process has no libc.so of which a function could be traced")
def test_a_pinned_link_outlives_its_holder(held: Collection) -> None:
    with place.bpffs() as folder:
        with attach.uprobe(held.programs["on_place"], LIBC, "getpgid") as link:
            link.pin(f"{folder}/link")
        os.getpgid(0)
        assert value(held) == 1
    # What was only pinned goes a little later.
    deadline, before = time.monotonic() + 20, -1
    while value(held) != before and time.monotonic() < deadline:
        before = value(held)
        time.sleep(0.05)
        os.getpgid(0)
    assert value(held) == before
