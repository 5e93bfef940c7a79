"""What the tests on Linux's kernel leave behind is nothing: looked at before the first and after the last."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpf.errors import EbpfError
from ebpf.kernels import open_kernel
from ebpf.kernels.linux import LinuxKernel
from ebpf.sys.calls import BtfLoad, Call, LinkCreate, Loaded, MapCreate, NextId, ProgLoad, R, RawTracepointOpen
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


#: Calls that make an object.
MAKING = (ProgLoad, MapCreate, LinkCreate, RawTracepointOpen, BtfLoad)


class Made:
    """The objects that this process makes, by what the kernel calls them: others run tests on this machine at the same time.

    A number is given once only, so that an object that is still there at the end is ours.
    """

    def __init__(self) -> None:
        self.ids: set[tuple[str, int]] = set()
        self._bpf = LinuxKernel.bpf

    def bpf(self, kernel: LinuxKernel, call: Call[R]) -> R:
        """Carry out a call, and note what it made."""
        answer = self._bpf(kernel, call)
        if isinstance(call, MAKING):
            fd = answer.fd if isinstance(answer, Loaded) else answer
            found = re.findall(r"^(prog|map|link|btf)_id:\s+(\d+)", Path(f"/proc/self/fdinfo/{fd}").read_text(), re.MULTILINE)
            # A link's own number stands before its program's.
            own = {LinkCreate: "link", RawTracepointOpen: "link", MapCreate: "map", BtfLoad: "btf", ProgLoad: "prog"}[type(call)]
            self.ids |= {(kind, int(number)) for kind, number in found if kind == own}
        return answer


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
    there, made = places(), Made()
    LinuxKernel.bpf = lambda kernel, call: made.bpf(kernel, call)  # type: ignore[method-assign]
    try:
        yield
    finally:
        LinuxKernel.bpf = made._bpf  # type: ignore[method-assign]
    deadline = time.monotonic() + PATIENCE_S
    while (left := made.ids & ids()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert places() == there
    assert not left, f"left behind: {sorted(left)}"
