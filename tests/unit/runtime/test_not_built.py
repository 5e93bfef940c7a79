"""What the user kernel does not have is refused when it is asked for, by name and with a reason."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import NotSupportedError
from ebpf.kernels import open_kernel
from ebpf.kernels.user.maps import REASONS, TYPES
from ebpf.object import Collection
from ebpf.sys.calls import MapCreate
from ebpf.sys.kernel import Kernel
from ebpf.uapi import MAP_TYPES, MapType

VALUE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#define __kptr __attribute__((btf_type_tag("kptr")))
struct task_struct;
struct value { __u64 first; FIELD; };
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, struct value); } table SEC(".maps");
"""


@pytest.fixture
def user() -> Iterator[Kernel]:
    with open_kernel("user") as opened:
        yield opened


def test_every_type_of_map_is_built_or_has_a_reason() -> None:
    assert set(MAP_TYPES) == set(TYPES) | set(REASONS)
    assert not set(TYPES) & set(REASONS)
    page = (Path(__file__).parents[3] / "docs" / "reference" / "maps.md").read_text()
    assert [kind.name for kind in REASONS if f"`{MAP_TYPES[kind].name}`" not in page] == []


@pytest.mark.parametrize("kind", REASONS, ids=lambda kind: MAP_TYPES[kind].name)
def test_a_map_of_such_a_type_is_refused_with_its_reason(user: Kernel, kind: MapType) -> None:
    with pytest.raises(NotSupportedError) as raised:
        user.bpf(MapCreate(int(kind), 4, 8, 1, 0, "mine"))
    assert (
        str(raised.value)
        == f"map 'mine': the user kernel has no maps of type {MAP_TYPES[kind].name}: {REASONS[kind]}. Run with --kernel linux"
    )


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("struct task_struct __kptr *task", "kptr"),
        ("struct bpf_wq wq", "bpf_wq"),
        ("struct bpf_list_head list", "bpf_list_head"),
        ("struct bpf_rb_root root", "bpf_rb_root"),
        ("struct bpf_refcount count", "bpf_refcount"),
    ],
)
def test_such_a_field_in_a_value_is_refused_by_name(user: Kernel, field: str, name: str) -> None:
    spec = read_object(compile_c("field.bpf.c", text=VALUE.replace("FIELD", field)).object, "field.o")
    with pytest.raises(NotSupportedError, match=f"^map 'table': {name} in a value is not built in the user kernel yet"):
        Collection.load(spec, user).close()
