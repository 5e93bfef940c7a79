"""Maps from Python by their types: what is written by Python is what C sees, and the other way round."""

import dataclasses
import struct

import pytest

from ebpf.compile import compile_c
from ebpf.elf import read_object
from ebpf.errors import FormatError, KernelError
from ebpf.object import Collection
from ebpf.spec import ObjectSpec
from ebpf.sys.kernel import Kernel

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
enum state { IDLE, BUSY = 5, LOST = -1 };
struct point { __s32 x, y; };
struct event {
    __u64 n;
    char comm[8];
    enum state state;
    _Bool ok;
    struct point at[2];
    unsigned low : 3, high : 5;
    union { __u32 word; __u8 bytes[4]; };
    double weight;
    int from;
};
struct flow { __u32 source, target; __u16 port; __u16 spare; };
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 8); __type(key, __u32); __type(value, __u64); } counter SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 8); __type(key, struct flow); __type(value, struct event); } events SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 3); __type(key, __u32); __type(value, enum state); } states SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 2); __type(key, __u32); __type(value, __s32); } cpus SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 4); __type(key, char[8]); __type(value, __s16); } names SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 4); __uint(key_size, 3); __uint(value_size, 5); } plain SEC(".maps");
SEC("xdp") int change(struct xdp_md *ctx)
{
    struct flow key = {1, 2, 3, 0};
    struct event *event = bpf_map_lookup_elem(&events, &key);
    if (!event || event->n != 7 || event->comm[1] != 'b' || event->state != LOST || !event->ok || event->at[1].y != -4)
        return XDP_DROP;
    if (event->low != 5 || event->high != 17 || event->bytes[1] != 2)
        return XDP_DROP;
    event->n++;
    event->state = BUSY;
    event->high = 30;
    event->at[0].x = -9;
    return XDP_PASS;
}
char LICENSE[] SEC("license") = "GPL";
"""
XDP_PASS = 2


@pytest.fixture(scope="module")
def spec() -> ObjectSpec:
    return read_object(compile_c("typed.bpf.c", text=SOURCE).object, "typed.o")


def test_numbers_are_counted_in_place(kernel: Kernel, spec: ObjectSpec) -> None:
    with Collection.load(spec, kernel) as held:
        counter = held.maps["counter"]
        with pytest.raises(KeyError):
            counter[1000] += 1
        counter[1000] = 1
        counter[1000] += 1
        assert counter[1000] == 2
        assert counter.raw[struct.pack("<I", 1000)] == struct.pack("<Q", 2)
        assert 1000 in counter
        assert 7 not in counter
        counter.update({7: 2**64 - 1, 8: 0})
        assert dict(counter) == {1000: 2, 7: 2**64 - 1, 8: 0}
        assert len(counter) == 3
        assert sorted(counter.values()) == [0, 2, 2**64 - 1]
        assert counter.pop(8) == 0
        assert counter.setdefault(9, 5) == 5
        del counter[9]
        with pytest.raises(KeyError):
            del counter[9]
        counter.clear()
        assert not list(counter.items())


def test_c_and_python_see_the_same_struct(kernel: Kernel, spec: ObjectSpec) -> None:
    with Collection.load(spec, kernel) as held:
        assert held.types is not None
        event, flow, point = (held.types.find(name) for name in ("event", "flow", "point"))
        state = held.types.find("state")
        events, key = held.maps["events"], flow(1, 2, 3, 0)
        events[key] = event(
            n=7, comm="ab", state=state["LOST"], ok=True, at=[point(1, 2), point(3, -4)], low=5, high=17, word=0x0201, from_=6
        )
        assert held.programs["change"].run(bytes(64)).retval == XDP_PASS
        got = events[key]
        assert dataclasses.is_dataclass(got)
        assert (got.n, got.comm, got.state, got.state.name, got.ok) == (8, "ab", 5, "BUSY", True)
        assert got.at == (point(-9, 2), point(3, -4))
        assert (got.low, got.high, got.word, got.bytes, got.weight, got.from_) == (5, 30, 0x201, (1, 2, 0, 0), 0.0, 6)
        events[key] = got
        assert events == events
        assert dict(events) == {key: got}
        assert events[{"source": 1, "target": 2, "port": 3}] == got


def test_enums_read_as_names_where_they_have_one(kernel: Kernel, spec: ObjectSpec) -> None:
    with Collection.load(spec, kernel) as held:
        states = held.maps["states"]
        states[0], states[1], states[2] = "BUSY", -1, 77
        assert [getattr(state, "name", state) for state in states.values()] == ["BUSY", "LOST", 77]
        assert len(states) == 3
        with pytest.raises(KeyError):
            states[3]
        with pytest.raises(KernelError, match="EINVAL"):
            del states[0]


def test_values_of_each_cpu_are_a_list(kernel: Kernel, spec: ObjectSpec) -> None:
    with Collection.load(spec, kernel) as held:
        cpus, count = held.maps["cpus"], kernel.possible_cpus
        cpus[1] = [-number for number in range(count)]
        assert list(cpus.items()) == [(0, [0] * count), (1, [-number for number in range(count)])]
        with pytest.raises(FormatError, match=f"no list of {count} values, one for each CPU"):
            cpus[1] = 5


def test_texts_are_keys(kernel: Kernel, spec: ObjectSpec) -> None:
    with Collection.load(spec, kernel) as held:
        names = held.maps["names"]
        names["bash"] = -3
        assert names["bash"] == names[b"bash"] == -3
        assert dict(names) == {"bash": -3}
        with pytest.raises(FormatError, match="9 bytes do not fit an array of 8"):
            names["ninechars"] = 1


def test_a_map_without_types_is_of_bytes(kernel: Kernel, spec: ObjectSpec) -> None:
    with Collection.load(spec, kernel) as held:
        plain = held.maps["plain"]
        plain[b"abc"] = b"12345"
        assert dict(plain) == {b"abc": b"12345"}
        with pytest.raises(FormatError, match="4 bytes, where 3 are wanted"):
            plain[b"abcd"]
        with pytest.raises(FormatError, match="7 is no bytes, and there is no type to write it by"):
            plain[b"abc"] = 7


@pytest.mark.parametrize(
    ("name", "key", "value", "why"),
    [
        pytest.param("counter", -(2**31) - 1, 1, "-2147483649 does not fit 32 bits", id="key-too-low"),
        pytest.param("counter", "x", 1, "'x' is not a number", id="key-of-another-kind"),
        pytest.param("counter", 1, 2**64, "18446744073709551616 does not fit 64 bits", id="value-too-high"),
        pytest.param("states", 1, "GONE", "state has no 'GONE'", id="no-such-name"),
        pytest.param("events", {"source": 1}, {"nn": 1}, "event has no member 'nn'", id="no-such-member"),
        pytest.param("events", {"source": 1}, {"low": 9}, "9 does not fit 3 bits", id="bit-field-too-high"),
        pytest.param("events", {"source": 1}, {"word": 1, "bytes": [2]}, "'bytes' contradicts what is in the same place", id="union"),
        pytest.param("events", {"source": 1}, {"at": [{}] * 3}, "is no list of up to 2 elements", id="array-too-long"),
        pytest.param("events", 5, {}, "5 is no flow: give one, or a dict", id="key-is-no-struct"),
    ],
)
def test_what_does_not_fit_a_type_is_refused(kernel: Kernel, spec: ObjectSpec, name: str, key: object, value: object, why: str) -> None:
    with Collection.load(spec, kernel) as held, pytest.raises(FormatError, match=why):
        held.maps[name][key] = value
