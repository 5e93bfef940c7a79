"""Programs on events of the user kernel know the number that was said when they were attached; their links are like Linux's."""

import errno
import struct
from contextlib import suppress

import pytest

from ebpf import attach
from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import KernelError
from ebpf.kernels import open_kernel
from ebpf.object import Collection
from ebpf.sys.calls import FdById, GetLinkInfo, LinkCreate, LinkDetach, NextId
from ebpf.sys.kernel import Command, Kernel, Tracepoint
from ebpf.uapi import AttachType, Cmd, LinkType

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 8); __type(key, __u64); __type(value, __u64); } seen SEC(".maps");
static __always_inline int note(void *ctx)
{
    __u64 cookie = bpf_get_attach_cookie(ctx), one = 1;
    bpf_map_update_elem(&seen, &cookie, &one, BPF_ANY);
    return 0;
}
SEC("tracepoint/syscalls/sys_enter_openat") int at_tracepoint(void *ctx) { return note(ctx); }
SEC("ksyscall/openat") int at_function(void *ctx) { return note(ctx); }
SEC("kretsyscall/openat") int at_return(void *ctx) { return note(ctx); }
char LICENSE[] SEC("license") = "GPL";
"""


def finish(kernel: Kernel) -> None:
    """Let the command run to its end."""
    with suppress(KeyboardInterrupt):
        while True:
            kernel.wait([], 1)


def links(kernel: Kernel) -> list[int]:
    """The ids of all links."""
    out: list[int] = []
    with suppress(KernelError):
        while True:
            out.append(kernel.bpf(NextId(Cmd.LINK_GET_NEXT_ID, out[-1] if out else 0)))
    return out


def test_each_attachment_has_its_number() -> None:
    spec = read_object(compile_c("cookie.bpf.c", text=SOURCE).object, "cookie.o")
    with open_kernel("user") as kernel, Collection.load(spec, kernel) as held:
        kernel.lab.spawn(Command(("/bin/cat", "/dev/null")))
        made = [
            attach.tracepoint(held.programs["at_tracepoint"], "syscalls/sys_enter_openat", cookie=5),
            attach.tracepoint(held.programs["at_tracepoint"], "syscalls/sys_enter_openat", cookie=1 << 40),
            attach.ksyscall(held.programs["at_function"], "openat", cookie=7),
            attach.ksyscall(held.programs["at_return"], "openat", ret=True),
        ]
        assert len(links(kernel)) == 4
        finish(kernel)
        assert sorted(struct.unpack("<Q", key)[0] for key in held.maps["seen"].raw) == [0, 5, 7, 1 << 40]
        for each in made:
            each.close()
        assert links(kernel) == []


def test_a_link_on_an_event_is_as_on_linux() -> None:
    spec = read_object(compile_c("cookie.bpf.c", text=SOURCE).object, "cookie.o")
    with open_kernel("user") as kernel, Collection.load(spec, kernel) as held:
        event = kernel.perf_event_open(Tracepoint("syscalls", "sys_enter_openat"))
        call = LinkCreate(held.programs["at_tracepoint"].fd, event, int(AttachType.PERF_EVENT), cookie=9)
        link = kernel.bpf(call)
        info = kernel.bpf(GetLinkInfo(link))
        assert (info.type, info.detail["event"], info.detail["tracepoint"], info.detail["cookie"]) == (
            LinkType.PERF_EVENT,
            "tracepoint",
            "sys_enter_openat",
            9,
        )
        for act, expected in (
            (call, errno.EEXIST),
            (LinkCreate(held.programs["at_function"].fd, event, int(AttachType.PERF_EVENT)), errno.EEXIST),
            (LinkCreate(held.programs["at_tracepoint"].fd, event, int(AttachType.PERF_EVENT), flags=1), errno.EINVAL),
            (LinkDetach(link), errno.EOPNOTSUPP),
        ):
            with pytest.raises(KernelError) as raised:
                kernel.bpf(act)
            assert raised.value.errno == expected
        kernel.close(event)
        assert kernel.bpf(FdById(Cmd.LINK_GET_FD_BY_ID, info.id)) > 0
