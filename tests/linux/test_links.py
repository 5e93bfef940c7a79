"""What can be done with each kind of link: another program put in, detached, pinned and taken up again, told of."""

import errno
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from ebpf import attach
from ebpf.attach import Link
from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import KernelError
from ebpf.kernels import open_kernel
from ebpf.object import Collection
from ebpf.sys.calls import ObjGet
from ebpf.uapi import LinkType
from support import place
from support.lacking import need

pytestmark = pytest.mark.linux
SOURCE = """
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
char LICENSE[] SEC("license") = "GPL";
#define TWICE(section, name, type, answer) SEC(section) int name(type *ctx) { return answer; } SEC(section) int name##_other(type *ctx) { return answer; }
TWICE("xdp", packet, struct xdp_md, 2)
TWICE("tcx/ingress", traffic, struct __sk_buff, -1)
TWICE("netkit/primary", kit, struct __sk_buff, -1)
TWICE("netfilter", filter, struct bpf_nf_ctx, 1)
TWICE("sk_lookup", lookup, struct bpf_sk_lookup, 1)
TWICE("flow_dissector", dissect, struct __sk_buff, 0)
TWICE("cgroup_skb/egress", sends, struct __sk_buff, 1)
TWICE("sk_msg", message, struct sk_msg_md, 1)
TWICE("raw_tp/sys_enter", raw, void, 0)
TWICE("tp/syscalls/sys_enter_getpgid", event, void, 0)
TWICE("kprobe", function, struct pt_regs, 0)
TWICE("kprobe.multi", functions, struct pt_regs, 0)
TWICE("uprobe.multi", places, struct pt_regs, 0)
TWICE("fentry/__x64_sys_getpgid", before, void, 0)
TWICE("iter/task", tasks, struct bpf_iter__task, 0)
struct { __uint(type, BPF_MAP_TYPE_SOCKMAP); __uint(max_entries, 4); __type(key, int); __type(value, __u64); } socks SEC(".maps");
"""
FUNCTION = "__x64_sys_getpgid"
#: What the kernel answers who asks for what a kind of link has not.
NO, CANNOT = errno.EINVAL, errno.EOPNOTSUPP
#: name: what the kernel must have, the program, how it is attached, the link's type, what an update and what a detachment give.
KINDS: dict[str, tuple[str, str, Callable[[Collection, str, ExitStack], Link], LinkType, int, int]] = {
    "xdp": ("xdp", "packet", lambda c, n, s: attach.xdp(c.programs[n], "lo", mode="generic", link=True), LinkType.XDP, 0, 0),
    "tcx": ("tcx", "traffic", lambda c, n, s: attach.tcx(c.programs[n], "lo"), LinkType.TCX, 0, 0),
    "netkit": ("netkit", "kit", lambda c, n, s: attach.netkit(c.programs[n], "nk0"), LinkType.NETKIT, 0, 0),
    "netfilter": ("netfilter", "filter", lambda c, n, s: attach.netfilter(c.programs[n], "input"), LinkType.NETFILTER, CANNOT, 0),
    "sk_lookup": ("sk_lookup", "lookup", lambda c, n, s: attach.sk_lookup(c.programs[n]), LinkType.NETNS, 0, 0),
    "flow_dissector": ("flow_dissector", "dissect", lambda c, n, s: attach.flow_dissector(c.programs[n]), LinkType.NETNS, 0, 0),
    "cgroup": (
        "cgroup",
        "sends",
        lambda c, n, s: attach.cgroup(c.programs[n], s.enter_context(place.cgroup("link"))),
        LinkType.CGROUP,
        0,
        0,
    ),
    "sockmap": (
        "sockmap (link)",
        "message",
        lambda c, n, s: attach.sockmap(c.programs[n], c.maps["socks"], link=True),
        LinkType.SOCKMAP,
        0,
        0,
    ),
    "raw_tp": ("raw_tp", "raw", lambda c, n, s: attach.raw_tracepoint(c.programs[n], "sys_enter"), LinkType.RAW_TRACEPOINT, NO, CANNOT),
    "tracepoint": (
        "tracepoint",
        "event",
        lambda c, n, s: attach.tracepoint(c.programs[n], "syscalls:sys_enter_getpgid"),
        LinkType.PERF_EVENT,
        NO,
        CANNOT,
    ),
    "kprobe": ("kprobe", "function", lambda c, n, s: attach.kprobe(c.programs[n], FUNCTION), LinkType.PERF_EVENT, NO, CANNOT),
    "kprobe.multi": (
        "kprobe.multi",
        "functions",
        lambda c, n, s: attach.kprobe_multi(c.programs[n], [FUNCTION]),
        LinkType.KPROBE_MULTI,
        NO,
        CANNOT,
    ),
    "uprobe.multi": (
        "uprobe.multi",
        "places",
        lambda c, n, s: attach.uprobe_multi(c.programs[n], "libc.so.6", ["getpgid"]),
        LinkType.UPROBE_MULTI,
        NO,
        CANNOT,
    ),
    "fentry": ("fentry", "before", lambda c, n, s: attach.trace(c.programs[n]), LinkType.TRACING, NO, CANNOT),
    "iter": ("iter", "tasks", lambda c, n, s: attach.iterate(c.programs[n]), LinkType.ITER, 0, CANNOT),
}


@pytest.fixture
def held() -> Iterator[Collection]:
    """The programs above, each loaded when it is first needed, in a network of this test's own."""
    spec = read_object(compile_c("links.bpf.c", text=SOURCE).object)
    with place.network(), open_kernel("linux") as kernel, Collection.load(spec, kernel, load=False) as collection:
        yield collection


def answer(act: Callable[[], None]) -> int:
    """The number of the error with which something ends (0: with none)."""
    try:
        act()
    except KernelError as error:
        return error.errno
    return 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_link_is_told_of_pinned_updated_and_detached(kind: str, held: Collection) -> None:
    needed, name, attach_it, type_, updated, detached = KINDS[kind]
    need(needed)
    kernel, first, other = held.kernel, held.programs[name].info().id, held.programs[f"{name}_other"]
    with ExitStack() as stack:
        if kind == "netkit":
            place.netkit("nk0", "nk1")
        folder = stack.enter_context(place.bpffs())
        link = stack.enter_context(attach_it(held, name, stack))
        link.pin(f"{folder}/link")
        link.close()
        fd = kernel.bpf(ObjGet(f"{folder}/link"))
        again = stack.enter_context(Link(kind, "", lambda: kernel.close(fd), kernel=kernel, fds=(fd,)))
        assert (again.info().type, again.info().prog_id) == (type_, first)
        assert answer(lambda: again.update(other)) == updated
        assert again.info().prog_id == (first if updated else other.info().id)
        assert answer(again.detach) == detached
        kernel.unpin(f"{folder}/link")
