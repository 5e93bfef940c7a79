"""Maps that an object asks to be pinned by name: shared when they are alike, refused when they are not."""

from collections.abc import Iterator

import pytest

from ebpf.errors import UsageError
from ebpf.kernels import open_kernel
from ebpf.object import Collection
from ebpf.spec import MapSpec, ObjectSpec
from ebpf.sys.kernel import Kernel
from ebpf.uapi import MapType


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    with open_kernel("user") as opened:
        yield opened


def with_map(value_size: int, max_entries: int) -> ObjectSpec:
    shared = MapSpec("shared", int(MapType.HASH), 4, value_size, max_entries, pinning=1)
    return ObjectSpec(path="x.o", maps={"shared": shared}, programs={})


def test_a_second_object_finds_the_first_ones_values(kernel: Kernel) -> None:
    with Collection.load(with_map(8, 16), kernel) as first, Collection.load(with_map(8, 16), kernel) as second:
        first.maps["shared"].update(bytes(4), bytes(range(8)))
        assert second.maps["shared"].lookup(bytes(4)) == bytes(range(8))
        assert first.maps["shared"].info().id == second.maps["shared"].info().id


@pytest.mark.parametrize("kind", [MapType.DEVMAP, MapType.DEVMAP_HASH])
def test_a_flag_that_the_kernel_adds_makes_no_other_shape(kernel: Kernel, kind: MapType) -> None:
    ports = MapSpec("ports", int(kind), 4, 4, 8, pinning=1)
    spec = ObjectSpec(path="x.o", maps={"ports": ports}, programs={})
    with Collection.load(spec, kernel) as first, Collection.load(spec, kernel) as second:
        assert first.maps["ports"].info().id == second.maps["ports"].info().id


@pytest.mark.parametrize(
    ("spec", "differs"), [(with_map(4, 16), "value size 8 instead of 4"), (with_map(8, 9), "max entries 16 instead of 9")]
)
def test_a_map_of_another_shape_is_refused(kernel: Kernel, spec: ObjectSpec, differs: str) -> None:
    with Collection.load(with_map(8, 16), kernel), pytest.raises(UsageError, match=differs):
        Collection.load(spec, kernel)
