"""Every kind of program that a cgroup takes: each sees what a process of it does, and nothing more when its link is closed."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from ebpf import attach
from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import VerifierError
from ebpf.kernels import open_kernel
from ebpf.object import Collection
from ebpf.uapi import SECTIONS, AttachType, ProgType
from support import place
from support.lacking import reason

pytestmark = [pytest.mark.linux, pytest.mark.skipif(not place.cgroup_mount(), reason="no cgroup2 is mounted")]
#: Sections that say by themselves what of a cgroup they see, and one of the hooks of lsm_cgroup.
KINDS = [
    *(row.name for row in SECTIONS if row.name.startswith(("cgroup", "sockops")) and row.attach is not None),
    "lsm_cgroup/socket_bind",
]
#: Those that a kernel may not have yet, and why they cannot be had.
UNIX = [name for name in KINDS if name.endswith("_unix")]
HEAD = f"""
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
char LICENSE[] SEC("license") = "GPL";
long seen[{len(KINDS)}];
#define SEES(kind, number) SEC(kind) int sees_##number(void *ctx) {{ __sync_fetch_and_add(&seen[number], 1); return 1; }}
"""
SOURCE = HEAD + "".join(f'SEES("{name}", {number})\n' for number, name in enumerate(KINDS))


@pytest.fixture
def held() -> Iterator[Collection]:
    spec = read_object(compile_c("cgroup.bpf.c", text=SOURCE).object)
    with open_kernel("linux") as kernel, Collection.load(spec, kernel, load=False) as collection:
        yield collection


def talks(family: int, any_port: tuple[str, int]) -> None:
    """A stream and a datagram from this process to itself, and what can be asked of their sockets."""
    with closing(socket.socket(family)) as server, closing(socket.socket(family)) as client:
        server.bind(any_port)
        server.listen()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        client.connect(server.getsockname())
        client.getpeername()
        server.accept()[0].close()
    with closing(socket.socket(family, socket.SOCK_DGRAM)) as one, closing(socket.socket(family, socket.SOCK_DGRAM)) as other:
        one.bind(any_port)
        other.sendto(b"x", one.getsockname())
        one.recvfrom(10)


def everything() -> None:
    """What each kind of program is there to see."""
    talks(socket.AF_INET, ("127.0.0.1", 0))
    if IPV6:
        talks(socket.AF_INET6, ("::1", 0))
    with (
        closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as one,
        closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as other,
    ):
        # Names that no file has.
        for number, sock in enumerate((one, other)):
            sock.bind(f"\0ebpf-test-{os.getpid()}-{number}")
        other.sendto(b"x", one.getsockname())
        one.recvfrom(10)
        other.connect(one.getsockname())
        other.getpeername()
    Path("/proc/sys/kernel/ostype").read_text()
    Path("/dev/null").read_bytes()


def _has_ipv6() -> bool:
    with suppress(OSError), socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", 0))
        return True
    return False


IPV6 = _has_ipv6()


def test_every_kind_sees_what_a_process_of_the_cgroup_does_until_its_link_is_closed(held: Collection) -> None:
    attached: dict[int, str] = {}
    with place.cgroup("kinds") as path:
        with ExitStack() as stack:
            for number, name in enumerate(KINDS):
                if name.startswith("lsm") and reason("lsm"):
                    continue
                try:
                    link = stack.enter_context(attach.cgroup(held.programs[f"sees_{number}"], path))
                except VerifierError as error:
                    assert (name in UNIX, error.cause) == (True, f"this kernel has no programs of SEC({name})")  # noqa: PT017
                    continue
                attached[number] = name
                assert link.info().detail["attach_type"] == held.programs[f"sees_{number}"].spec.attach_type
            place.in_cgroup(path, everything)
        during = list(held.variables()["seen"])
        place.in_cgroup(path, everything)
    blind = {name for number, name in attached.items() if not during[number] and (IPV6 or not name.endswith("6"))}
    assert blind == set()
    assert list(held.variables()["seen"]) == during
    # Linux 6.7 has those of Unix sockets, all or none.
    assert len([name for name in attached.values() if name in UNIX]) in (0, len(UNIX))


def test_the_kinds_are_all_that_the_kernel_numbers() -> None:
    numbered = {kind for kind in AttachType if kind.name.startswith("CGROUP_")} | {AttachType.LSM_CGROUP}
    kinds = {row.attach for row in SECTIONS if row.name in KINDS} | {AttachType.LSM_CGROUP}
    assert numbered == kinds
    assert ProgType.CGROUP_SYSCTL in {row.type for row in SECTIONS if row.name in KINDS}
