"""Look-ups with nothing in between: they say what bpf() would, and end with what they look into."""

import os
import struct

import pytest

from ebpf.btf import Builder, Classes
from ebpf.errors import KernelError
from ebpf.kernels import open_kernel
from ebpf.object import Map
from ebpf.spec import MapSpec
from ebpf.sys.calls import MapCreate
from ebpf.sys.kernel import Kernel
from ebpf.uapi import MapFlag, MapType


def open_map(kernel: Kernel, size: int, *, signed: bool = False, flags: int = 0, kind: MapType = MapType.HASH) -> Map:
    builder = Builder()
    number = builder.integer("number", size, signed=signed)
    types = Classes(builder.build())
    fd = kernel.bpf(MapCreate(kind, size, size, 16, flags=flags))
    spec = MapSpec(name="m", type=kind, key_size=size, value_size=size, max_entries=16, key_type_id=number, value_type_id=number)
    return Map(kernel, fd, spec, types)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("signed", [False, True])
def test_numbers_of_every_width_are_found(size: int, signed: bool) -> None:
    low, high = (-(1 << 8 * size - 1), (1 << 8 * size - 1) - 1) if signed else (0, (1 << 8 * size) - 1)
    with open_kernel("user") as kernel, open_map(kernel, size, signed=signed) as held:
        for number in (low, low + 1, 0, 1, high - 1, high):
            held[number] = number
            assert held.finder(number) == held[number] == number
        assert held.finder(2) is None
        for wrong in (low - 1, high + 1, 1 << 64, -(1 << 64), 1.5, "x", None, b"", b"too long to be a key"):
            assert held.finder(wrong) is NotImplemented


def test_bytes_are_found_as_they_are() -> None:
    with open_kernel("user") as kernel, open_map(kernel, 4) as held:
        held[5] = 77
        raw = held.raw
        assert raw.finder(struct.pack("<I", 5)) == raw[struct.pack("<I", 5)] == struct.pack("<I", 77)
        assert raw.finder(b"") is raw.finder(5) is NotImplemented
        assert raw.finder(bytes(4)) is None


def test_a_closed_map_is_not_looked_into() -> None:
    with open_kernel("user") as kernel:
        held, again = open_map(kernel, 4), open_map(kernel, 4)
        held[1] = again[1] = 5
        assert held[1] == again[1] == 5
        held.close()
        assert held.finder(1) is NotImplemented
        with pytest.raises(KernelError, match="EBADF"):
            held[1]
        assert again[1] == 5
        kernel.shutdown()
        with pytest.raises(KernelError, match="EBADF"):
            again[1]
        again._closed = True  # the kernel closed it


def test_a_descriptor_that_may_not_read_is_refused() -> None:
    with open_kernel("user") as kernel, open_map(kernel, 4, flags=MapFlag.WRONLY) as held:
        held[1] = 5
        with pytest.raises(KernelError, match="EPERM"):
            held[1]


def test_a_child_of_fork_is_told_so() -> None:
    with open_kernel("user") as kernel, open_map(kernel, 4) as held:
        held[1] = 5
        assert held[1] == 5
        child = os.fork()
        if not child:
            try:
                held[1]
            except KernelError as error:
                os._exit(7 if "does not survive fork" in str(error) else 1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert held[1] == 5


def test_who_watches_sees_every_look_up(capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    from ebpf.sys import Recorder

    with open_kernel("user") as kernel, open_map(kernel, 4) as held:
        held[1] = 5
        watched = Map(Recorder(kernel, sys.stdout), held.fd, held.spec, held.types)  # type: ignore[arg-type]
        assert [watched[1], watched[1]] == [5, 5]
        assert capsys.readouterr().out.count("BPF_MAP_LOOKUP_ELEM") == 2
        watched._closed = True
