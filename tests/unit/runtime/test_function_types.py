"""The types of the user kernel's functions: each has a body and a row, and Linux's prototype."""

import re
from pathlib import Path

import pytest

from ebpf.btf import Kind, compatible
from ebpf.engine.runtime.build import sources
from ebpf.kernels.user.types import function_address, kernel_types
from ebpf.sys.kernel import VMLINUX
from ebpf.sys.types import open_types
from ebpf.uapi.kfuncs import KFUNCS

FUNCTIONS = [row for row in kernel_types() if row.kind == Kind.FUNC]


def test_functions_with_a_body_are_those_with_a_prototype() -> None:
    bodies = {f"bpf_{name}" for _, text in sources() for name in re.findall(r"^KFUNC\((\w+)\)", text.decode(), re.MULTILINE)}
    assert {row.name for row in FUNCTIONS} == bodies
    assert [row.name for row in FUNCTIONS if not function_address(row.id, 0)] == []
    assert {row.name for row in FUNCTIONS} <= set(KFUNCS)
    assert function_address(0, 0) == function_address(len(kernel_types()), 0) == 0


@pytest.mark.linux
def test_prototypes_are_those_of_linux() -> None:
    theirs, ours = open_types(Path(VMLINUX).read_bytes(), VMLINUX), kernel_types()
    for row in FUNCTIONS:
        other = theirs.find(row.name, Kind.FUNC)
        assert other is not None
        assert compatible(theirs, other.ref, ours, row.ref), row.name
        assert [m.name for m in theirs.type(other.ref).members] == [m.name for m in ours.type(row.ref).members]
