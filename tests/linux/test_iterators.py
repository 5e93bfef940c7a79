"""Every iterator that the kernel's types name: attached and read; one that walks a map must be told which."""

import os
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import closing

import pytest

from ebpf import attach
from ebpf.btf import Kind
from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import AttachError, KernelError
from ebpf.kernels import open_kernel
from ebpf.object import Collection
from ebpf.sys.kernel import VMLINUX
from support import place
from support.lacking import has_type

pytestmark = pytest.mark.linux
HEAD = """
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
char LICENSE[] SEC("license") = "GPL";
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 8); __type(key, int); __type(value, int); } numbers SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_SOCKMAP); __uint(max_entries, 8); __type(key, int); __type(value, __u64); } socks SEC(".maps");
struct {
    __uint(type, BPF_MAP_TYPE_SK_STORAGE); __uint(map_flags, BPF_F_NO_PREALLOC); __type(key, int); __type(value, int);
} stored SEC(".maps");
"""
STEP = """
SEC("iter/NAME") int step_NAME(struct bpf_iter__NAME *ctx) { BPF_SEQ_PRINTF(ctx->meta->seq, "step\\n"); return 0; }
"""
#: Those that walk the elements of a map, and of which.
OF_MAPS = {"bpf_map_elem": "numbers", "sockmap": "socks", "bpf_sk_storage_map": "stored"}
#: All that Linux has had up to 6.18.
NAMES = (
    *("bpf_map", "bpf_map_elem", "bpf_prog", "bpf_link", "bpf_sk_storage_map", "sockmap", "task", "task_file", "task_vma", "cgroup"),
    *("ksym", "kmem_cache", "dmabuf", "tcp", "udp", "unix", "netlink", "ipv6_route"),
)
#: What a new machine may have none of.
MAYBE_NONE = {"dmabuf", "ipv6_route", "netlink"}


@pytest.fixture
def held(request: pytest.FixtureRequest) -> Iterator[Collection]:
    """The program of one iterator, not loaded yet."""
    if not has_type(f"bpf_iter__{request.param}", Kind.STRUCT):
        pytest.skip(f"this kernel's types have no bpf_iter__{request.param}")
    spec = read_object(compile_c("step.bpf.c", text=HEAD + STEP.replace("NAME", request.param)).object)
    with place.network(), open_kernel("linux") as kernel, Collection.load(spec, kernel, load=False) as collection:
        yield collection


@pytest.fixture
def sockets() -> Iterator[socket.socket]:
    """A socket of each kind that is walked, in this thread's network; the stream's is what is given."""
    with closing(socket.socket(socket.AF_UNIX)) as unix, closing(socket.socket(type=socket.SOCK_DGRAM)) as datagram:
        unix.bind(f"\0ebpf-test-{os.getpid()}")
        datagram.bind(("127.0.0.1", 0))
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
            yield client


@pytest.mark.parametrize("held", NAMES, indirect=True)
def test_an_iterator_is_attached_and_read(held: Collection, sockets: socket.socket) -> None:
    (program,) = held.programs.values()
    name = program.name.removeprefix("step_")
    walked = held.maps[OF_MAPS[name]] if name in OF_MAPS else None
    if walked is not None:
        key = sockets.fileno() if name == "bpf_sk_storage_map" else 0
        walked.update(struct.pack("<i", key), struct.pack("<Q", sockets.fileno()) if name == "sockmap" else struct.pack("<i", 5))
    try:
        program.load()
    except KernelError as error:
        # Some hosts let nobody walk what is others' in maps.
        assert (walked is not None, error.errno, "some hosts forbid this iter" in str(error)) == (True, 1, True)  # noqa: PT017
        return
    if walked is not None:
        with pytest.raises(AttachError, match="walks the elements of a map: say which"):
            attach.iterate(program)
    with attach.iterate(program, walked=walked, cgroup=place.cgroup_mount() if name == "cgroup" else "") as link:
        steps = link.read().split()
        assert set(steps) <= {b"step"}
        # The last is of the end.
        assert len(steps) > 1 or name in MAYBE_NONE
        assert link.info().detail["target_name"] == name


def test_the_names_are_those_that_the_kernel_has() -> None:
    with open_kernel("linux") as kernel:
        found = {name.decode() for name in re.findall(rb"\0bpf_iter__([a-z0-9]+(?:_[a-z0-9]+)*)(?=\0)", kernel.read_file(VMLINUX))}
    assert found
    assert found <= set(NAMES)
