"""The seam's two instruments: the recorder prints what strace prints, the scripted kernel answers as it is told."""

import io
import itertools
import os
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest

from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import KernelError, VerifierError
from ebpf.kernels import open_kernel
from ebpf.object import Collection
from ebpf.spec import ObjectSpec
from ebpf.sys import Recorder, Scripted
from ebpf.sys.calls import BtfLoad, Loaded, MapCreate, MapFreeze, MapLookup, MapUpdate, ProgLoad

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 8); __type(key, __u32); __type(value, __u64); } table SEC(".maps");
SEC("xdp") int hello(struct xdp_md *ctx) { __u32 k = 1; return bpf_map_lookup_elem(&table, &k) ? XDP_DROP : XDP_PASS; }
char LICENSE[] SEC("license") = "GPL";
"""


@pytest.fixture(scope="module")
def spec() -> ObjectSpec:
    return read_object(compile_c("x.bpf.c", text=SOURCE).object, "x.bpf.o")


def answers(**changes: Any) -> Scripted:
    fds = itertools.count(3)
    rules = {
        "BtfLoad": (BtfLoad, lambda call: next(fds)),
        "MapCreate": (MapCreate, lambda call: next(fds)),
        "MapUpdate": (MapUpdate, None),
        "MapFreeze": (MapFreeze, None),
        "ProgLoad": (ProgLoad, lambda call: Loaded(next(fds), "")),
    }
    return Scripted([(rules[name][0], answer) for name, answer in changes.items()] + list(rules.values()))


def test_the_loader_makes_types_then_maps_then_programs(spec: ObjectSpec) -> None:
    kernel = answers()
    with Collection.load(spec, kernel):  # type: ignore[arg-type]
        assert [type(call).__name__ for call in kernel.calls] == ["BtfLoad", "MapCreate", "ProgLoad"]
    assert sorted(kernel.closed) == [3, 4, 5]


def test_a_kernel_that_refuses_the_types_still_gets_the_program(spec: ObjectSpec) -> None:
    kernel = answers(BtfLoad=KernelError(22, "bpf(BTF_LOAD)"))
    with Collection.load(spec, kernel):  # type: ignore[arg-type]
        loads = [call for call in kernel.calls if isinstance(call, ProgLoad)]
        assert (len(loads), loads[0].btf_fd, loads[0].line_info) == (1, 0, b"")


def test_a_refused_program_closes_all_and_is_asked_again_for_its_log(spec: ObjectSpec) -> None:
    log = "0: (b7) r0 = 0\n1: (79) r0 = *(u64 *)(r0 +0)\nR0 invalid mem access 'scalar'\nprocessed 2 insns\n"

    def refuse(call: ProgLoad) -> KernelError:
        return KernelError(13, "bpf(PROG_LOAD)", log=log if call.log_level else "")

    kernel = answers(ProgLoad=refuse)
    with pytest.raises(VerifierError, match=r"insn 1.*R0 invalid mem access 'scalar'"):
        Collection.load(spec, kernel)  # type: ignore[arg-type]
    assert sorted(kernel.closed) == [3, 4]


def test_the_recorder_writes_calls_as_strace_does() -> None:
    out = io.StringIO()
    with Recorder(open_kernel("user"), out) as kernel:
        fd = kernel.bpf(MapCreate(1, 4, 8, 16, name="table"))
        with pytest.raises(KernelError):
            kernel.bpf(MapLookup(fd, b"\1\0\0\0", 8))
    assert out.getvalue().splitlines() == [
        'bpf(BPF_MAP_CREATE, {map_type=BPF_MAP_TYPE_HASH, key_size=4, value_size=8, max_entries=16, map_flags=0, map_name="table", btf_fd=0}, 80) = 3',
        'bpf(BPF_MAP_LOOKUP_ELEM, {map_fd=3, key="\\x01\\x00\\x00\\x00", flags=0}, 32) = -1 ENOENT (No such file or directory)',
    ]


@pytest.mark.linux
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_straces_own_lines_have_the_same_commands_and_answers(tmp_path: Any) -> None:
    target = tmp_path / "x.bpf.o"
    target.write_bytes(compile_c("x.bpf.c", text=SOURCE).object)
    code = (
        "import sys\nfrom ebpf.kernels import open_kernel\nfrom ebpf.elf import read_object\nfrom ebpf.object import Collection\n"
        "from ebpf.sys import Recorder\nwith Recorder(open_kernel('linux'), sys.stdout) as k, Collection.load(read_object(open(sys.argv[1], 'rb').read(), 'x.o'), k):\n pass\n"
    )
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-e", "trace=bpf", "-o", str(trace), sys.executable, "-c", code, str(target)]
    ours = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ}).stdout
    shape = re.compile(r"bpf\((BPF_\w+), .*?(?:(\w+)=BPF_\w+_TYPE_(\w+))?.*\) = (\d+)")

    def parts(text: str) -> list[tuple[str, str]]:
        return [(found[1], found[4]) for found in shape.finditer(text)]

    assert parts(ours) == parts(trace.read_text())
    assert len(parts(ours)) == 3
