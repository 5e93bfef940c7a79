"""Maps against a dict: any sequence of commands answers as the model does, on both kernels."""

import errno
import struct
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebpf.errors import KernelError
from ebpf.object import Map
from ebpf.spec import MapSpec
from ebpf.sys.calls import MapCreate
from ebpf.sys.kernel import Kernel
from ebpf.uapi import MapType, UpdateFlag

ROOM, KEYS = 6, 9
ARRAYS = (MapType.ARRAY, MapType.PERCPU_ARRAY)
KINDS = [MapType.HASH, MapType.PERCPU_HASH, MapType.ARRAY, MapType.PERCPU_ARRAY]
COMMANDS = ["put", "new", "replace", "delete", "take", "get", "put_batch", "delete_batch", "all", "next"]
STEPS = st.lists(
    st.tuples(st.sampled_from(COMMANDS), st.lists(st.integers(0, KEYS - 1), min_size=1, max_size=4), st.integers(0, 2**64 - 1)), max_size=30
)


def pack(number: int) -> bytes:
    return struct.pack("<I", number)


@dataclass
class Model:
    """What a map should be: elements by key, and the answers of its commands (0, or an errno)."""

    array: bool
    zero: bytes
    elements: dict[bytes, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.array:
            self.elements = {pack(number): self.zero for number in range(ROOM)}

    def put(self, key: bytes, value: bytes, flags: UpdateFlag) -> int:
        if self.array and key not in self.elements:
            return errno.E2BIG
        if key in self.elements:
            if flags == UpdateFlag.NOEXIST:
                return errno.EEXIST
        elif flags == UpdateFlag.EXIST:
            return errno.ENOENT
        elif len(self.elements) == ROOM:
            return errno.E2BIG
        self.elements[key] = value
        return 0

    def delete(self, key: bytes) -> int:
        if self.array:
            return errno.EINVAL
        return 0 if self.elements.pop(key, None) is not None else errno.ENOENT


def answer(work: object) -> int:
    assert callable(work)
    try:
        result = work()
    except KernelError as error:
        return error.errno
    return errno.ENOENT if result is False else 0


def do(held: Map, model: Model, what: str, keys: list[bytes], value: bytes) -> None:
    key = keys[0]
    if what in ("put", "new", "replace"):
        flags = {"put": UpdateFlag.ANY, "new": UpdateFlag.NOEXIST, "replace": UpdateFlag.EXIST}[what]
        assert answer(lambda: held.update(key, value, flags)) == model.put(key, value, flags)
    elif what == "delete":
        assert answer(lambda: held.delete(key)) == model.delete(key)
    elif what == "take" and not model.array:
        assert held.take(key) == model.elements.pop(key, None)
    elif what == "get":
        assert held.lookup(key) == held.raw.get(key) == model.elements.get(key)
    elif what == "put_batch":
        wanted = next((w for w in (model.put(k, value, UpdateFlag.ANY) for k in keys) if w), 0)
        assert answer(lambda: held.put_batch(b"".join(keys), value * len(keys))) == wanted
    elif what == "delete_batch" and not model.array:
        wanted = next((w for w in (model.delete(k) for k in keys) if w), 0)
        assert answer(lambda: held.delete_batch(b"".join(keys))) == wanted
    elif what == "all":
        assert dict(held.raw) == model.elements
        assert sorted(held.walk()) == sorted(model.elements)
        assert len(held.raw) == len(model.elements)
    elif what == "next":
        seen = list(held.walk())
        assert len(set(seen)) == len(seen) == len(model.elements)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name.lower())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_any_sequence_of_commands_answers_as_a_dict_does(kernel: Kernel, kind: MapType, steps: list[tuple[str, list[int], int]]) -> None:
    spec = MapSpec(name="model", type=kind, key_size=4, value_size=8, max_entries=ROOM)
    with Map(kernel, kernel.bpf(MapCreate(kind, 4, 8, ROOM, name="model")), spec) as held:
        cpus = held.value_bytes // 8
        model = Model(kind in ARRAYS, bytes(held.value_bytes))
        for what, numbers, number in steps:
            value = b"".join(struct.pack("<Q", (number + cpu) % 2**64) for cpu in range(cpus))
            do(held, model, what, [pack(n) for n in numbers], value)
        do(held, model, "all", [b""], b"")
