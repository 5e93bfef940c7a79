"""Tokens: a bpffs lends the use of bpf(2) to a user namespace that has no privileges outside, and only what it says."""

import ctypes
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ebpf.compile import compile_c
from ebpf.errors import KernelError
from ebpf.kernels import open_kernel
from ebpf.kernels.linux.syscall import bpf
from support.place import bpffs

pytestmark = pytest.mark.linux
SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 4); __type(key, int); __type(value, long); } numbers SEC(".maps");
SEC("xdp") int packet(struct xdp_md *ctx) { int zero = 0; long *n = bpf_map_lookup_elem(&numbers, &zero); if (n) (*n)++; return 2; }
char LICENSE[] SEC("license") = "GPL";
"""
#: In a user namespace of its own: it asks for a file system of pins, is given it, and does what is asked.
INSIDE = r"""
import ctypes, json, os, socket, sys
from ebpf.elf import read_object
from ebpf.errors import EbpfError
from ebpf.kernels import open_kernel
from ebpf.object import Collection
place, object_, line = sys.argv[1], sys.argv[2], socket.socket(fileno=int(sys.argv[3]))
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    result = libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
call(272, 0x10000000 | 0x20000)
line.send(b"mapped?")
line.recv(1)
socket.send_fds(line, [b"x"], [call(430, b"bpf", 0)])
_, (mount,), _, _ = socket.recv_fds(line, 1, 1)
call(429, mount, b"", -100, place.encode(), 4)
spec = read_object(open(object_, "rb").read(), object_)
out = {}
for name, token, variable in (("with", place, ""), ("without", "", ""), ("by variable", "", place)):
    os.environ["LIBBPF_BPF_TOKEN_PATH"] = variable
    try:
        with open_kernel("linux", token=token) as kernel, Collection.load(spec, kernel) as held:
            out[name] = [held.programs["packet"].loaded, held.maps["numbers"].lookup(bytes(4)).hex()]
    except EbpfError as error:
        out[name] = str(error)
print(json.dumps(out))
"""
_FSCONFIG, _FSMOUNT = 431, 432
_SET_STRING, _CREATE = 1, 6
#: What the kernel answers who asks for a token in a place that there is not.
_TOKEN_CREATE, _NO_FD = 36, 0x7FFFFFFF


def _call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result = int(libc.syscall(number, *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


@pytest.fixture(autouse=True)
def _tokens() -> None:
    code = bpf(_TOKEN_CREATE, ctypes.create_string_buffer(b"\0\0\0\0\xff\xff\xff\x7f", 8))
    if code != -9:
        pytest.skip(f"this kernel has no tokens: bpf(TOKEN_CREATE) of no descriptor is {code}, not EBADF")


def lent(tmp_path: Path, **what: str) -> dict[str, object]:
    """What a process of a user namespace can load that is lent these things."""
    place, path = tmp_path / "bpffs", tmp_path / "packet.bpf.o"
    place.mkdir()
    path.write_bytes(compile_c("packet.bpf.c", text=SOURCE).object)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(60)
        command = [sys.executable, "-c", INSIDE, str(place), str(path), str(theirs.fileno())]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, pass_fds=[theirs.fileno()]) as child:
            # Where it fails, we hear of its end.
            theirs.close()
            assert ours.recv(10) == b"mapped?", child.communicate()[1]
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/{child.pid}/{name}").write_text("0 0 1")
            ours.send(b"y")
            _, (context,), _, _ = socket.recv_fds(ours, 1, 1)
            for key, value in what.items():
                _call(_FSCONFIG, context, _SET_STRING, key.encode(), value.encode(), 0)
            _call(_FSCONFIG, context, _CREATE, None, None, 0)
            mount = _call(_FSMOUNT, context, 0, 0)
            socket.send_fds(ours, [b"x"], [mount])
            os.close(mount)
            os.close(context)
            out, complained = child.communicate(timeout=60)
    assert child.returncode == 0, complained
    answer: dict[str, object] = json.loads(out)
    return answer


ALL = {"delegate_cmds": "any", "delegate_maps": "any", "delegate_progs": "any", "delegate_attachs": "any"}


def test_a_user_namespace_loads_what_it_is_lent(tmp_path: Path) -> None:
    said = lent(tmp_path, **ALL)
    assert said["with"] == said["by variable"] == [True, "00" * 8]
    assert "EPERM" in str(said["without"])


def test_what_is_not_lent_is_refused(tmp_path: Path) -> None:
    assert "EPERM" in str(lent(tmp_path, **{**ALL, "delegate_progs": "socket_filter"})["with"])


def test_a_place_that_lends_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match=r"BPF token: .* is no bpffs"):
        open_kernel("linux", token=str(tmp_path))
    with pytest.raises(KernelError, match="BPF token: /no/such: no such file or directory"):
        open_kernel("linux", token="/no/such")
    with bpffs() as folder, pytest.raises(KernelError, match=r"lends nothing|initial user namespace"):
        open_kernel("linux", token=folder)
