"""What objects may have besides programs and maps: arenas, exceptions, structs of functions; and what can be changed before the load."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpf import attach
from ebpf.btf import Builder, Kind
from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import AttachError, EbpfError, FormatError, KernelError, NotFoundError, NotSupportedError, UsageError
from ebpf.kernels import open_kernel
from ebpf.object import Collection, Map
from ebpf.spec import ObjectSpec
from ebpf.sys.calls import BtfLoad, Call, GetBtfInfo, R
from ebpf.sys.kernel import Kernel
from ebpf.sys.types import open_types
from support.lacking import has_type, need_type

pytestmark = pytest.mark.linux
HEAD = """
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>
char LICENSE[] SEC("license") = "GPL";
"""
ARENA = """
#define __arena __attribute__((address_space(1)))
struct { __uint(type, BPF_MAP_TYPE_ARENA); __uint(map_flags, BPF_F_MMAPABLE); __uint(max_entries, 10); } arena SEC(".maps");
int __arena number SEC(".addr_space.1") = 5;
long __arena other SEC(".addr_space.1") = 40;
SEC("syscall") int add(void *ctx) { asm volatile("" :: "r"(&arena)); other += 2; return ++number; }
"""
PLACE = """
struct made_up { long a, b; } __attribute__((preserve_access_index));
extern struct task_struct *bpf_task_from_pid(s32 pid) __ksym;
extern void bpf_task_release(struct task_struct *p) __ksym;
SEC("syscall") int place(void *ctx)
{
    struct task_struct *task = bpf_task_from_pid(1);
    if (task)
        bpf_task_release(task);
    return bpf_core_field_offset(struct made_up, b);
}
SEC("tp_btf/sys_enter") int BPF_PROG(traced, struct pt_regs *regs, long id) { return 0; }
"""
THROW = """
extern void bpf_throw(u64 cookie) __ksym;
__noinline int handle(u64 cookie) { return cookie + 1; }
__noinline static int deep(int len) { if (len > 20) bpf_throw(41); return 1; }
SEC("tc") int plain(struct __sk_buff *skb) { return deep(skb->len); }
SEC("tc") __attribute__((btf_decl_tag("exception_callback:handle"))) int handled(struct __sk_buff *skb) { return deep(skb->len); }
"""
OPS = """
SEC("struct_ops") u32 BPF_PROG(ss, struct sock *sk) { return 5; }
SEC("struct_ops") void BPF_PROG(av, struct sock *sk, u32 ack, u32 acked) { }
SEC("struct_ops") u32 BPF_PROG(undo, struct sock *sk) { return 5; }
SEC(".struct_ops.link") struct tcp_congestion_ops by_link = { .ssthresh=(void*)ss, .cong_avoid=(void*)av, .undo_cwnd=(void*)undo, .name="ebpf_test_l" };
SEC(".struct_ops") struct tcp_congestion_ops by_map = { .ssthresh=(void*)ss, .cong_avoid=(void*)av, .undo_cwnd=(void*)undo, .name="ebpf_test_m" };
SEC(".struct_ops.link") struct tcp_congestion_ops lacking = { .ssthresh=(void*)ss, .name="ebpf_test_x" };
"""
CONTROLS = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")


#: A struct of functions by a link (Linux 6.4).
LINK = ("bpf_struct_ops_link", Kind.STRUCT)


def ops() -> str:
    """The structs of functions that this kernel takes."""
    return OPS if has_type(*LINK) else "".join(line for line in OPS.splitlines(keepends=True) if "struct_ops.link" not in line)


def read(text: str) -> ObjectSpec:
    return read_object(compile_c("parts.bpf.c", text=HEAD + text).object, "parts.bpf.o")


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    with open_kernel("linux") as opened:
        yield opened


def test_variables_of_an_arena_are_memory_of_both(kernel: Kernel) -> None:
    need_type("bpf_arena", Kind.STRUCT)
    with Collection.load(read(ARENA), kernel) as held:
        assert (held.variables()["number"], held.variables()["other"]) == (5, 40)
        assert held.programs["add"].run().retval == 6
        held.set_variable("number", 100)
        assert held.programs["add"].run().retval == 101
        assert (held.variables()["number"], held.variables()["other"]) == (101, 44)


def test_an_arena_may_say_at_which_address_it_is(kernel: Kernel) -> None:
    need_type("bpf_arena", Kind.STRUCT)
    text = ARENA.replace("__uint(max_entries, 10);", "__uint(max_entries, 10); __ulong(map_extra, 0x3ull << 43);")
    with Collection.load(read(text), kernel) as held:
        held.set_variable("number", 100)
        assert held.programs["add"].run().retval == 101
        assert f"{3 << 43:x}-{(3 << 43) + 10 * 4096:x} rw-s" in Path("/proc/self/maps").read_text()
        with pytest.raises(NotSupportedError, match="file exists"):
            Collection.load(read(text), kernel)
    assert f"{3 << 43:x}-" not in Path("/proc/self/maps").read_text()


def test_types_that_are_given_stand_for_the_kernels_in_core_alone(kernel: Kernel) -> None:
    """What is traced and what is called has the ids of the kernel that the object is loaded into."""
    need_type("bpf_task_from_pid", Kind.FUNC)
    builder = Builder()
    builder.struct("made_up", 80, [("b", builder.integer("long", 8, signed=True), 72)])
    with Collection.load(read(PLACE), kernel, types=open_types(builder.raw(), "given")) as held:
        assert held.programs["place"].run().retval == 72


def test_a_program_that_throws_ends_with_what_its_callback_says(kernel: Kernel) -> None:
    need_type("bpf_throw", Kind.FUNC)
    with Collection.load(read(THROW), kernel) as held:
        short, long = bytes(14), bytes(64)
        assert [held.programs["plain"].run(data).retval for data in (short, long)] == [1, 41]
        assert [held.programs["handled"].run(data).retval for data in (short, long)] == [1, 42]


@pytest.mark.parametrize(("name", "control"), [("by_link", "ebpf_test_l"), ("by_map", "ebpf_test_m")])
def test_a_struct_of_functions_is_the_kernels_until_it_is_closed(name: str, control: str, kernel: Kernel) -> None:
    if name == "by_link":
        need_type(*LINK)
    with Collection.load(read(ops()), kernel) as held:
        with attach.struct_ops(held, name):
            assert control in CONTROLS.read_text().split()
            with pytest.raises(EbpfError):
                attach.struct_ops(held, name)
        assert control not in CONTROLS.read_text().split()


def test_a_struct_that_lacks_a_function_is_refused(kernel: Kernel) -> None:
    need_type(*LINK)
    with Collection.load(read(ops()), kernel) as held:
        with pytest.raises(AttachError, match="a function that must be there is missing") as caught:
            attach.struct_ops(held, "lacking")
        assert caught.value.errno == errno.EINVAL
        with pytest.raises(NotFoundError, match=r"no struct of functions 'by_lnk' in .*; did you mean"):
            attach.struct_ops(held, "by_lnk")


def test_a_program_that_no_struct_names_says_so(kernel: Kernel) -> None:
    text = 'SEC("struct_ops") u32 BPF_PROG(alone, struct sock *sk) { return 5; }'
    with pytest.raises(UsageError, match=r"program 'alone': no struct of functions in SEC\(\.struct_ops\) names it"):
        Collection.load(read(text), kernel).close()


def test_a_struct_that_the_kernel_has_not_is_named(kernel: Kernel) -> None:
    text = 'struct no_such_ops { int (*f)(void); }; SEC("struct_ops") int f(void *c) { return 0; }\n'
    text += 'SEC(".struct_ops") struct no_such_ops mine = { .f = (void *)f };'
    with pytest.raises(NotFoundError, match="no struct of functions 'no_such_ops' in this kernel's types"):
        Collection.load(read(text), kernel).close()


def test_a_member_that_the_kernel_has_not_must_be_empty(kernel: Kernel) -> None:
    text = """
struct tcp_congestion_ops___mine { u32 (*ssthresh)(struct sock *sk); int (*no_such)(void); char name[16]; };
SEC("struct_ops") u32 BPF_PROG(ss, struct sock *sk) { return 5; }
SEC(".struct_ops") struct tcp_congestion_ops___mine ours = { .ssthresh = (void *)ss, .no_such = %s, .name = "ebpf_test_y" };
"""
    Collection.load(read(text % "0"), kernel).close()
    with pytest.raises(FormatError, match=r"struct_ops 'ours': this kernel's tcp_congestion_ops has no 'no_such'"):
        Collection.load(read(text % "(void *)ss"), kernel).close()


KNOBS = """
const volatile int limit = 3; const volatile char who[8] = "nobody"; long start = 1;
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 1); __type(key, int); __type(value, int); } table SEC(".maps");
SEC("nosuch") int free_form(void *ctx) { return 2; }
SEC("fentry/placeholder") int target(void *ctx) { return 0; }
SEC("tc") int answer(struct __sk_buff *skb) { int k = 0; bpf_map_lookup_elem(&table, &k); return limit * 1000 + who[0] + start; }
"""


def test_an_object_is_changed_before_it_is_loaded(kernel: Kernel) -> None:
    spec = (
        read(KNOBS)
        .with_map("table", max_entries=77)
        .with_program("free_form", section="xdp")
        .with_program("target", section="tp_btf/sys_enter")
        .with_variables({"limit": 5, "who": "A", "start": -1})
    )
    with Collection.load(spec, kernel, log_level=1) as held:
        assert held.maps["table"].info().max_entries == 77
        assert held.programs["free_form"].info().type == 6
        assert held.programs["answer"].run(bytes(14)).retval == 5000 + ord("A") - 1
        assert "processed" in held.programs["answer"].log
    without = read(KNOBS).with_program("free_form", autoload=False).with_program("target", autoload=False)
    with Collection.load(without, kernel) as held:
        assert [name for name, program in held.programs.items() if program.loaded] == ["answer"]
        assert held.programs["answer"].log == ""


def test_a_map_that_is_there_is_used_again(kernel: Kernel) -> None:
    spec = read(KNOBS).with_program("free_form", autoload=False).with_program("target", autoload=False)
    with Collection.load(spec, kernel) as first:
        table: Map = first.maps["table"]
        with Collection.load(spec, kernel, reuse={"table": table}) as second:
            assert table.info().id in second.programs["answer"].info().map_ids


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda s: s.with_map("tabel", max_entries=1), "no map 'tabel' in .*; did you mean 'table'"),
        (lambda s: s.with_map("table", entries=1), "map 'table' has no 'entries'; it has flags"),
        (lambda s: s.with_program("answer", section="nothing"), "program 'answer': 'nothing' is no section name"),
        (lambda s: s.with_variables({"limits": 1}), "no variable 'limits' in .*; did you mean 'limit'"),
        (lambda s: s.with_variables({"limit": 1 << 40}), "1099511627776 does not fit 32 bits"),
    ],
)
def test_a_change_that_means_nothing_is_named(change: "object", why: str) -> None:
    with pytest.raises(EbpfError, match=why):
        change(read(KNOBS))  # type: ignore[operator]


class Older:
    """A kernel that refuses types of some kinds."""

    def __init__(self, kernel: Kernel, lacks: set[int]) -> None:
        self._kernel = kernel
        self._lacks = lacks
        self.refused = 0

    def bpf(self, call: Call[R]) -> R:
        if isinstance(call, BtfLoad):
            from ebpf.btf import Btf

            if any(int(type_.kind) in self._lacks for type_ in Btf.parse(call.data)):
                self.refused += 1
                raise KernelError(errno.EINVAL, "bpf(BTF_LOAD)")
        return self._kernel.bpf(call)

    def __getattr__(self, name: str) -> object:
        return getattr(self._kernel, name)


TYPED = """
enum big { HUGE = 0x100000000ULL }; struct all { enum big b; float f; int __attribute__((btf_type_tag("user"))) *p; };
int __attribute__((btf_decl_tag("mine"))) counter;
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 1); __type(key, int); __type(value, struct all); } table SEC(".maps");
__noinline int global(int x) { return x + counter; }
SEC("tc") int answer(struct __sk_buff *skb) { int k = 0; bpf_map_lookup_elem(&table, &k); return global(3); }
"""


@pytest.mark.parametrize("lacks", [{19}, {18}, {17}, {16}, {15, 14}, {13, 12, 14, 15, 16, 17, 18, 19}], ids=str)
def test_types_are_written_in_older_kinds_for_a_kernel_that_lacks_newer_ones(lacks: set[int], kernel: Kernel) -> None:
    """19 ENUM64, 18 TYPE_TAG, 17 DECL_TAG, 16 FLOAT, 15 DATASEC, 14 VAR, 13 FUNC_PROTO, 12 FUNC."""
    older = Older(kernel, lacks)
    with Collection.load(read(TYPED), older) as held:  # type: ignore[arg-type]
        assert older.refused
        assert held.programs["answer"].run(bytes(14)).retval == 3
        info = held.maps["table"].info()
        assert info.btf_id
        from ebpf.btf import Btf
        from ebpf.sys.calls import FdById
        from ebpf.uapi import Cmd

        fd = kernel.bpf(FdById(Cmd.BTF_GET_FD_BY_ID, info.btf_id))
        try:
            kinds = {int(type_.kind) for type_ in Btf.parse(kernel.bpf(GetBtfInfo(fd)).data)}
        finally:
            kernel.close(fd)
        assert not kinds & lacks


class WithoutPins:
    """A kernel for which no BPF file system is mounted."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def bpf(self, call: Call[R]) -> R:
        from ebpf.sys.calls import ObjGet, ObjPin

        if isinstance(call, (ObjGet, ObjPin)):
            raise KernelError(errno.ENOENT, f"bpf({call.cmd.name})")
        return self._kernel.bpf(call)

    def pin_roots(self) -> list[str]:
        return []

    def __getattr__(self, name: str) -> object:
        return getattr(self._kernel, name)


def test_a_map_that_cannot_be_pinned_says_what_is_missing(kernel: Kernel) -> None:
    text = """
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 1); __type(key, int); __type(value, int);
         __uint(pinning, LIBBPF_PIN_BY_NAME); } kept SEC(".maps");
SEC("tc") int f(struct __sk_buff *skb) { int k = 0; return bpf_map_lookup_elem(&kept, &k) != 0; }
"""
    with pytest.raises(UsageError, match="map 'kept': cannot be pinned at /sys/fs/bpf/kept: no BPF file system is mounted") as caught:
        Collection.load(read(text), WithoutPins(kernel)).close()  # type: ignore[arg-type]
    assert (caught.value.errno, caught.value.hint) == (errno.EINVAL, "mount -t bpf bpf /sys/fs/bpf")
