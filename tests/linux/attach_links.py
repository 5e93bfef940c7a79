"""Attach net.bpf.o's programs by links and pin these: `python attach_links.py FOLDER`, the folder where the programs are pinned.

With --lab those that an interface of the laboratory takes.
"""

import os
import socket
import sys

from ebpf.kernels import open_kernel
from ebpf.kernels.linux.codec import attr
from ebpf.kernels.linux.syscall import bpf
from ebpf.sys.calls import LinkCreate, ObjGet, ObjPin
from ebpf.uapi import AttachType, Cmd

ROWS = (
    ("x1", AttachType.XDP),
    ("t2", AttachType.TCX_INGRESS),
    ("fd1", AttachType.FLOW_DISSECTOR),
    ("skl", AttachType.SK_LOOKUP),
    ("nf1", AttachType.NETFILTER),
)


def main() -> None:
    folder = sys.argv[1]
    lab = sys.argv[2:] == ["--lab"]
    with open_kernel("user" if lab else "linux", lasting=True) as kernel:
        namespace = os.open("/proc/self/ns/net", os.O_RDONLY)
        interface = kernel.interfaces()["eth0" if lab else "v0"]
        for name, kind in ROWS[:2] if lab else ROWS:
            program = kernel.bpf(ObjGet(f"{folder}/{name}"))
            if kind == AttachType.NETFILTER:
                # Input of IPv4, at priority -128.
                link = bpf(int(Cmd.LINK_CREATE), attr("IIIIIIiI", program, 0, int(kind), 0, socket.AF_INET, 1, -128, 0, size=64))
            else:
                target = interface if kind in (AttachType.XDP, AttachType.TCX_INGRESS) else namespace
                link = kernel.bpf(LinkCreate(program, target, int(kind)))
            kernel.bpf(ObjPin(f"/sys/fs/bpf/link_{name}", link))


main()
