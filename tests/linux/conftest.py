"""What the tests on Linux's kernel leave behind is nothing: looked at before the first and after the last."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpf.errors import EbpfError
from ebpf.kernels import open_kernel
from ebpf.sys.calls import NextId
from ebpf.uapi import Cmd
from support import place

KINDS = {"prog": Cmd.PROG_GET_NEXT_ID, "map": Cmd.MAP_GET_NEXT_ID, "link": Cmd.LINK_GET_NEXT_ID, "btf": Cmd.BTF_GET_NEXT_ID}
#: How long the kernel may take to free what nobody holds any more.
PATIENCE_S = 10


def ids() -> set[tuple[str, int]]:
    """All objects that the kernel has."""
    out = set()
    with open_kernel("linux") as kernel:
        for kind, cmd in KINDS.items():
            last = 0
            while True:
                try:
                    last = kernel.bpf(NextId(cmd, last))
                except EbpfError:
                    break
                out.add((kind, last))
    return out


def others() -> set[tuple[str, int]]:
    """Objects that a descriptor of another process holds: other runs of the tests share this machine."""
    out = set()
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        try:
            for info in (process / "fdinfo").iterdir():
                out |= {
                    (kind, int(number)) for kind, number in re.findall(r"^(prog|map|link|btf)_id:\s+(\d+)", info.read_text(), re.MULTILINE)
                }
        except OSError:
            continue
    return out


def places() -> dict[str, object]:
    """Where things could stay: this process's descriptors and network namespace, cgroups and traces of its name, the host's interfaces."""
    held = sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}"))
    mount, mine = place.cgroup_mount(), re.compile(rf"^ebpf-(test-)?{os.getpid()}(-|$)")
    with open_kernel("linux") as kernel:
        network = {"xdp": kernel.xdp_query(), "filters": kernel.tc_query(), "interfaces": dict(kernel.interfaces())}
        pins = sorted(path for path in kernel.pinned() if mine.match(os.path.basename(path)))
    return {
        "descriptors": [name for name in held if "bpf" in name or "perf_event" in name],
        "namespace": os.readlink("/proc/thread-self/ns/net"),
        "cgroups": sorted(name for name in os.listdir(mount) if mine.match(name)) if mount else [],
        "traces": sorted(str(path) for path in Path("/sys/kernel/tracing/instances").glob(f"ebpf-{os.getpid()}-*")),
        "pins": pins,
        **network,
    }


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    before, there = ids(), places()
    yield
    left = ids() - before - others()
    deadline = time.monotonic() + PATIENCE_S
    while left and time.monotonic() < deadline:
        time.sleep(0.2)
        # What others made meanwhile comes and goes: only what stays all the time may be ours.
        left &= ids() - others()
    assert places() == there
    assert not left, f"left behind: {sorted(left)}"
